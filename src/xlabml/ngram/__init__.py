"""Kneser-Ney n-grams over token ids: counted into a folder, mapped into memory, mixed with a language model by a gate.

`counting` makes the folder with bounded memory (`sorting`), `folder` writes and opens it, `kneser_ney` answers what is
likely next, `gate` weighs the answer against a model's. Numpy only: no torch, no text.
"""

from .counting import Documents, count_ngrams
from .folder import CountedNgrams, HeldOut, open_ngrams
from .gate import Gate, Known, fit_gate
from .kneser_ney import KneserNey, Scores
from .mixture import Mixed, Mixture

__all__ = [
    'CountedNgrams',
    'Documents',
    'Gate',
    'HeldOut',
    'KneserNey',
    'Known',
    'Mixed',
    'Mixture',
    'Scores',
    'count_ngrams',
    'fit_gate',
    'open_ngrams',
]
