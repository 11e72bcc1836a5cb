"""How much vectors count beside BM25: the weight of the fused scores that finds the most on a split."""

import numpy as np

from xlabml.bm25 import fuse_with_words

from .lexical import Scores
from .ranking import Relevance, rank_relevant, ranking_figures

WEIGHTS = tuple(i / 20 for i in range(21))
"""The weights that are tried."""

MOST_QUERIES = 2000
"""The weight is chosen on this many queries at most, the first ones: `make_search` has them in the order of a hash."""

_BLOCK_SCORES = 1_048_576


def fit_vector_weight(vectors: Scores, words: Scores, relevance: Relevance, n_documents: int) -> float:
    """The weight of vectors in `fuse_with_words` with the highest mean reciprocal rank of the first relevant document;
    of equally good ones the nearest to 0.5.

    Args:
        vectors: The scores of the documents by their vectors.
        words: Their scores by BM25.
        relevance: Which documents are relevant to each query.
        n_documents: How many documents there are.
    """
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
    best = np.flatnonzero(totals >= totals.max() * (1 - 1e-12))  # sums of the same ranks may differ by rounding
    return min((WEIGHTS[i] for i in best), key=lambda weight: abs(weight - 0.5))
