"""Pretrain decoder language models, and train embedders and classifiers on the same Transformer trunk.

Rooms, and which may import which: `docs/design.md`. Importing the package loads nothing but this line.
"""
