"""Examples -> batches: which examples each step, micro-batch and rank gets."""

from .loaders import EvalBatches, Positions, loader
from .sequence import BatchSequence

__all__ = [
    'BatchSequence',
    'EvalBatches',
    'Positions',
    'loader',
]
