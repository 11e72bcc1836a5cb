"""Predictions -> figures: functions of sums, so that any batch size and device count gives the same result."""

from .evaluator import Evaluator, Gather, Monitor
from .language import TokenEvaluator, TokenMetric, TokenOutputs, WithinNats, summarize
from .objective import ObjectiveEvaluator
from .sums import Sums, precise

__all__ = [
    'Evaluator',
    'Gather',
    'Monitor',
    'ObjectiveEvaluator',
    'Sums',
    'TokenEvaluator',
    'TokenMetric',
    'TokenOutputs',
    'WithinNats',
    'precise',
    'summarize',
]
