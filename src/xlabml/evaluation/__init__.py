"""Predictions -> figures: functions of sums, so that any batch size and device count gives the same result.

Figures of vectors are no sums: their evaluators bring the vectors of all ranks together.
"""

from .baselines import SearchRow, format_table, search_table
from .bootstrap import Interval, bootstrap, bootstrap_statistic, paired_bootstrap
from .clustering import Clustering, k_means, v_measure
from .evaluator import Evaluator, Gather, Monitor
from .geometry import Geometry
from .language import TokenEvaluator, TokenMetric, TokenOutputs, WithinNats, summarize
from .probes import LinearProbe, Neighbours
from .ranking import Relevance, make_relevance, rank_relevant, ranking_figures
from .retrieval import Reranking, Retrieval, evaluate_search, search_figures
from .similarity import (
    Bitext,
    PairClassification,
    Similarity,
    TripletAccuracy,
    evaluate_similarity,
    pearson,
    separate,
    spearman,
)
from .sums import Sums, precise
from .vectors import Encode, Texts, VectorEvaluator, VectorOutputs

__all__ = [
    'Bitext',
    'Clustering',
    'Encode',
    'Evaluator',
    'Gather',
    'Geometry',
    'Interval',
    'LinearProbe',
    'Monitor',
    'Neighbours',
    'PairClassification',
    'Relevance',
    'Reranking',
    'Retrieval',
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
    'bootstrap',
    'bootstrap_statistic',
    'evaluate_search',
    'evaluate_similarity',
    'format_table',
    'k_means',
    'make_relevance',
    'paired_bootstrap',
    'pearson',
    'precise',
    'rank_relevant',
    'ranking_figures',
    'search_figures',
    'search_table',
    'separate',
    'spearman',
    'summarize',
    'v_measure',
]
