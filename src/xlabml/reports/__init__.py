"""Reports of runs as text, plots and a page, read from their folders without torch and Lightning.

Import from the module that you need: only `plots` needs matplotlib (the extra `plots`).
"""
