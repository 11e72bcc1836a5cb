"""Pretrain decoder language models, and train embedders and classifiers on the same Transformer trunk.

Data flows through its folders one way: tokenizer and data (text, ids, rows), transformer (hidden states, logits),
losses; models and datamodules are Lightning's view of them, commands stand on top. `tests/test_layers.py` says which
may import which. Importing the package loads nothing, but lets modules be imported by the names that they once had.
"""

import sys

from . import moved

sys.meta_path.insert(0, moved.Aliases())
