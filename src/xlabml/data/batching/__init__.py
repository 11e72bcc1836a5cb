"""Rows -> batches: which rows each step, micro-batch and rank gets."""

from .loaders import EvalBatches, Positions, TrainBatches, loader
from .stream_batches import StreamBatches, join_batches

__all__ = [
    'EvalBatches',
    'Positions',
    'StreamBatches',
    'TrainBatches',
    'join_batches',
    'loader',
]
