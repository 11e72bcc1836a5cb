"""Predictions -> figures: functions of sums, so that any batch size and device count gives the same result."""

from .baselines import SearchRow, format_table, search_table
from .benchmarks import BeirSearch, Benchmark, GroupFile
from .bootstrap import Interval, mean_interval, paired_interval, statistic_interval
from .calibration import Reliability, perfect_ece, reliability
from .class_evaluators import ClassEvaluator, MultiLabelEvaluator, RegressionEvaluator, majority_figures
from .clustering import Clustering, k_means, v_measure
from .evaluator import Evaluator, Gather, Monitor
from .example_evaluator import CalibratedEvaluator, Calibrator, ExampleEvaluator, ExampleOutputs
from .fusion import find_nearness, fit_fusion, less_nearness
from .geometry import Geometry
from .language import TokenEvaluator, TokenMetric, TokenOutputs, WithinNats, sum_segments, summarize
from .lexical import NO_SKLEARN, Scores, bm25_scores, has_sklearn, lexical_systems
from .metadata import MetadataBits, format_savings
from .objective import ObjectiveEvaluator
from .posterior import MetadataPosterior
from .preference_evaluator import PreferenceEvaluator
from .probes import LinearProbe, Neighbours
from .ranking import Relevance, make_relevance, rank_relevant, ranking_figures
from .ranks import auroc, average_ranks, pearson, spearman
from .retrieval import Reranking, Retrieval, evaluate_search, make_search, search_figures
from .savings import Saving
from .similarity import Bitext, PairClassification, Similarity, TripletAccuracy, evaluate_similarity, separate
from .sums import Sums, precise
from .vectors import Encode, Texts, VectorEvaluator, VectorOutputs

__all__ = [
    'NO_SKLEARN',
    'BeirSearch',
    'Benchmark',
    'Bitext',
    'CalibratedEvaluator',
    'Calibrator',
    'ClassEvaluator',
    'Clustering',
    'Encode',
    'Evaluator',
    'ExampleEvaluator',
    'ExampleOutputs',
    'Gather',
    'Geometry',
    'GroupFile',
    'Interval',
    'LinearProbe',
    'MetadataBits',
    'MetadataPosterior',
    'Monitor',
    'MultiLabelEvaluator',
    'Neighbours',
    'ObjectiveEvaluator',
    'PairClassification',
    'PreferenceEvaluator',
    'RegressionEvaluator',
    'Relevance',
    'Reliability',
    'Reranking',
    'Retrieval',
    'Saving',
    'Scores',
    'SearchRow',
    'Similarity',
    'Sums',
    'Texts',
    'TokenEvaluator',
    'TokenMetric',
    'TokenOutputs',
    'TripletAccuracy',
    'VectorEvaluator',
    'VectorOutputs',
    'WithinNats',
    'auroc',
    'average_ranks',
    'bm25_scores',
    'evaluate_search',
    'evaluate_similarity',
    'find_nearness',
    'fit_fusion',
    'format_savings',
    'format_table',
    'has_sklearn',
    'k_means',
    'less_nearness',
    'lexical_systems',
    'majority_figures',
    'make_relevance',
    'make_search',
    'mean_interval',
    'paired_interval',
    'pearson',
    'perfect_ece',
    'precise',
    'rank_relevant',
    'ranking_figures',
    'reliability',
    'search_figures',
    'search_table',
    'separate',
    'spearman',
    'statistic_interval',
    'sum_segments',
    'summarize',
    'v_measure',
]
