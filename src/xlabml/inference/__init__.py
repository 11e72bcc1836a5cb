"""Decoding, logits -> next id: sampling, greedy and beam search. Ids only, never text.

A model is any module from ids (b, n) to logits (b, n, v); one that has `new_cache(batch, length)` is run with a cache.
Axes are those of `xlabml.transformer`; `r` is the number of unfinished rows.
"""

from .beam import beam_search
from .context import Overflow
from .guidance import Guided
from .sampling import Greedy, NonFiniteLogitsError, Sampler
from .search import greedy_search, sample, stream

__all__ = [
    'Greedy',
    'Guided',
    'NonFiniteLogitsError',
    'Overflow',
    'Sampler',
    'beam_search',
    'greedy_search',
    'sample',
    'stream',
]
