"""Attention: its definition, the backends that compute it faster, the choice between them, and the cache of decoding.

Shapes as in `xlabml.transformer`.
"""

from .cache import Cache
from .definition import Documents, Rule, Shared, attend, make_bias, make_masks, mix

__all__ = ['Cache', 'Documents', 'Rule', 'Shared', 'attend', 'make_bias', 'make_masks', 'mix']
