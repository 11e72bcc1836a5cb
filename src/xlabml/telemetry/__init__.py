"""Telemetry of a run: rows on disk, FLOPs and device peaks, timing of a step, memory, spectra of weights.

Nothing here uses Lightning; the callback `callbacks/curves.py` measures with it. Import from the module that you need:
`records` loads no torch, so that reports start fast.
"""
