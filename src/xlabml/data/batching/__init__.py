"""Examples -> batches: which examples each step, micro-batch and rank gets."""

from .loaders import EvalBatches, Positions, loader
from .sequence import BatchSequence, join_batches

__all__ = [
    'BatchSequence',
    'EvalBatches',
    'Positions',
    'join_batches',
    'loader',
]
