"""What a run says of itself: rows on disk, FLOPs and peaks, the parts of a step, memory, spectra of weights.

Nothing here knows Lightning; the callback `callbacks/curves.py` measures with it. Take what you need from its file:
`records` loads no torch, so that reports start at once.
"""
