"""What runs have written, as text, plots and a page: read from their folders, without torch and Lightning.

Take what you need from its file: only `plots` needs matplotlib (the extra `plots`).
"""
