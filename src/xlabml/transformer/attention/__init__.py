"""Attention: its definition, the backends that compute it faster, the choice between them, and the key/value cache.

A layer attends through a `Pass`; `Chooser` makes the passes of one call. Shapes as in `xlabml.transformer`.
"""

from .cache import Cache
from .choice import Chooser
from .definition import Pass, Rule, attend, make_bias, make_masks
from .places import Documents, Place, place_tokens

__all__ = [
    'Cache',
    'Chooser',
    'Documents',
    'Pass',
    'Place',
    'Rule',
    'attend',
    'make_bias',
    'make_masks',
    'place_tokens',
]
