"""How vectors and BM25 are fused: the terms of BM25 and the share of the vectors that find the most on a split."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Float64

from xlabml.bm25 import Fusion, Terms, fuse_with_words, hubness

from .lexical import Scores
from .ranking import Relevance, rank_relevant, ranking_figures

WEIGHTS = tuple(i / 20 for i in range(21))
"""The weights that are tried."""

MOST_QUERIES = 2000
"""The choice is made on this many queries at most, the first ones: `make_search` has them in the order of a hash."""

_BLOCK_SCORES = 1_048_576


def fit_fusion(vectors: Scores, lexical: Mapping[Terms, Scores], relevance: Relevance, n_documents: int) -> Fusion:
    """The fusion with the highest mean reciprocal rank of the first relevant document; of equally good ones that of the
    terms that stand first, and of their weights the nearest to 0.5.

    Args:
        vectors: The scores of the documents by their vectors.
        lexical: Their scores by BM25, by its terms.
        relevance: Which documents are relevant to each query.
        n_documents: How many documents there are.
    """
    totals = {terms: _sum_ranks(vectors, words, relevance, n_documents) for terms, words in lexical.items()}
    most = max(total.max() for total in totals.values()) * (1 - 1e-12)  # sums of the same ranks may differ by rounding
    terms = next(terms for terms, total in totals.items() if total.max() >= most)
    best = np.flatnonzero(totals[terms] >= most)
    return Fusion(min((WEIGHTS[i] for i in best), key=lambda weight: abs(weight - 0.5)), terms)


def find_nearness(of_known: Scores, n_known: int, n_documents: int) -> Float32[np.ndarray, ' n']:
    """The `hubness` of documents, some known queries at a time.

    Args:
        of_known: The scores of the documents for the known queries.
        n_known: How many known queries there are, one or more.
        n_documents: How many documents there are.
    """
    n_each = max(1, _BLOCK_SCORES // max(1, n_documents))
    return hubness(of_known(slice(first, first + n_each)) for first in range(0, n_known, n_each))


def less_nearness(scores: Scores, nearness: Float32[np.ndarray, ' n']) -> Scores:
    """The scores of documents less a number of each document."""
    return lambda some: scores(some) - nearness


def _sum_ranks(vectors: Scores, words: Scores, relevance: Relevance, n_documents: int) -> Float64[np.ndarray, ' w']:
    """The sum of the reciprocal ranks by each of the weights."""
    n_queries = min(relevance.n_queries, MOST_QUERIES)
    n_each = max(1, _BLOCK_SCORES // max(1, n_documents))
    totals = np.zeros(len(WEIGHTS))
    for first in range(0, n_queries, n_each):
        some = slice(first, min(first + n_each, n_queries))
        own = relevance.part(some)
        dense = vectors(some)
        lexical = words(some)
        for i, weight in enumerate(WEIGHTS):
            fused = fuse_with_words(dense, lexical, weight)
            ranks = rank_relevant(fused.__getitem__, own, n_documents)
            figures = ranking_figures(ranks, own, [n_documents], ['mrr'])
            totals[i] += np.nansum(figures[f'mrr_at_{n_documents}'])
    return totals
