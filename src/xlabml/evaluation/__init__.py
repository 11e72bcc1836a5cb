"""Predictions -> figures: functions of sums, so that any batch size and device count gives the same result."""

from .bootstrap import Interval, mean_interval, paired_interval, statistic_interval
from .calibration import Reliability, perfect_ece, reliability
from .class_evaluators import (
    CalibratedEvaluator,
    Calibrator,
    ClassEvaluator,
    ExampleEvaluator,
    ExampleOutputs,
    MultiLabelEvaluator,
    RegressionEvaluator,
    majority_figures,
)
from .evaluator import Evaluator, Gather, Monitor
from .language import TokenEvaluator, TokenMetric, TokenOutputs, WithinNats, summarize
from .objective import ObjectiveEvaluator
from .ranks import auroc, average_ranks, pearson, spearman
from .sums import Sums, precise

__all__ = [
    'CalibratedEvaluator',
    'Calibrator',
    'ClassEvaluator',
    'Evaluator',
    'ExampleEvaluator',
    'ExampleOutputs',
    'Gather',
    'Interval',
    'Monitor',
    'MultiLabelEvaluator',
    'ObjectiveEvaluator',
    'RegressionEvaluator',
    'Reliability',
    'Sums',
    'TokenEvaluator',
    'TokenMetric',
    'TokenOutputs',
    'WithinNats',
    'auroc',
    'average_ranks',
    'majority_figures',
    'mean_interval',
    'paired_interval',
    'pearson',
    'perfect_ece',
    'precise',
    'reliability',
    'spearman',
    'statistic_interval',
    'summarize',
]
