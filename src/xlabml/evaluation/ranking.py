"""Figures of rankings: where the relevant documents of each query stand among all documents.

Every figure follows from the ranks of the relevant documents alone, so nothing is sorted and nothing but a block of
scores is held, however many documents there are. Ranks are exact.

The rule for ties: of equal scores the less relevant document comes first. A model that gives everything one score finds
nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int64

Metric: TypeAlias = Literal['recall', 'precision', 'mrr', 'ndcg', 'map']

_BLOCK_SCORES = 4_194_304
"""Scores that are held at once, 16 MB of float32."""

_MOST_COUNTED = 16
"""Of up to this many relevant documents each is counted past; of more, a query's scores are sorted once."""


class Relevance(NamedTuple):
    """Which documents are relevant to each query: those of query q are entries starts[q] to starts[q + 1] - 1.

    Args:
        starts: One more than there are queries.
        documents: The number of a document.
        gains: How relevant it is, above 0; 1 where relevance has no grades.
    """

    starts: Int64[np.ndarray, ' q+1']
    documents: Int64[np.ndarray, ' r']
    gains: Float64[np.ndarray, ' r']

    @property
    def n_queries(self) -> int:
        return len(self.starts) - 1

    def part(self, queries: slice) -> 'Relevance':
        """That of the queries from `queries.start` to `queries.stop` - 1."""
        starts = self.starts[queries.start : queries.stop + 1]
        entries = slice(starts[0], starts[-1])
        return Relevance(starts - starts[0], self.documents[entries], self.gains[entries])


def make_relevance(relevant: Sequence[Mapping[int, float] | Sequence[int]]) -> Relevance:
    """The relevance of the documents that each query names, with their gains or without.

    Raises:
        ValueError: A gain is not above 0, or a document is named twice.
    """
    documents: list[int] = []
    gains: list[float] = []
    starts = [0]
    for query, some in enumerate(relevant):
        graded = some if isinstance(some, Mapping) else dict.fromkeys(some, 1.0)
        if len(graded) < len(some):
            raise ValueError(f'query {query} names a relevant document twice')
        if any(not gain > 0 for gain in graded.values()):
            raise ValueError(f'a relevant document of query {query} has a gain that is not above 0; leave it out')
        documents += graded.keys()
        gains += graded.values()
        starts.append(len(documents))
    return Relevance(np.array(starts, np.int64), np.array(documents, np.int64), np.array(gains, np.float64))


def rank_relevant(
    scores: Callable[[slice], Float[np.ndarray, 'i n']], relevance: Relevance, n_documents: int
) -> Int64[np.ndarray, ' r']:
    """The rank of each relevant document among all documents, from 1; a score that is NaN ranks last.

    Args:
        scores: The scores of all documents for the queries of a slice.
        n_documents: How many documents there are.
    """
    ranks = np.empty(len(relevance.documents), np.int64)
    n_each = max(1, _BLOCK_SCORES // max(1, n_documents))
    for first in range(0, relevance.n_queries, n_each):
        queries = slice(first, min(first + n_each, relevance.n_queries))
        for query, row in zip(range(queries.start, queries.stop), scores(queries)):
            entries = slice(relevance.starts[query], relevance.starts[query + 1])
            ranks[entries] = _rank_in(row, relevance.documents[entries], relevance.gains[entries])
    return ranks


def _rank_in(row: np.ndarray, documents: np.ndarray, gains: np.ndarray) -> np.ndarray:
    row = np.where(np.isnan(row), -math.inf, row)
    own = row[documents]
    if len(own) <= _MOST_COUNTED:
        n_as_good = np.array([np.count_nonzero(row >= score) for score in own], np.int64)
    else:
        n_as_good = len(row) - np.searchsorted(np.sort(row), own, side='left')
    order = np.lexsort((gains, -own))  # best score first, of equal ones the smallest gain
    place = np.empty(len(own), np.int64)
    place[order] = np.arange(1, len(own) + 1)
    n_relevant_as_good = len(own) - np.searchsorted(np.sort(own), own, side='left')
    return n_as_good - n_relevant_as_good + place


def ranking_figures(
    ranks: Int64[np.ndarray, ' r'],
    relevance: Relevance,
    at: Sequence[int] = (1, 10),
    metrics: Sequence[Metric] = ('recall', 'precision', 'mrr', 'ndcg', 'map'),
) -> dict[str, Float64[np.ndarray, ' q']]:
    """Figures of each query, by name: `recall_at_10`. Their mean is the figure of the set.

    recall: the share of the relevant documents among the first k; precision: the share of the first k that are
    relevant; mrr: 1 / rank of the first relevant one; ndcg: gains, each over log2(1 + rank), over those of the best
    order; map: the precision at the rank of each relevant document among the first k, summed, over how many there are
    (as trec_eval has it). A query without relevant documents is NaN.

    Args:
        ranks: Of the relevant documents.
        at: The k's.
    """
    query = np.repeat(np.arange(relevance.n_queries), np.diff(relevance.starts))

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(query, weights=values, minlength=relevance.n_queries)

    n_relevant = np.where(np.diff(relevance.starts) > 0, np.diff(relevance.starts), math.nan)
    order = np.lexsort((ranks, query))
    place = np.empty(len(ranks), np.int64)
    place[order] = np.arange(len(ranks)) - relevance.starts[query[order]] + 1
    best = np.lexsort((-relevance.gains, query))
    ideal_place = np.arange(len(ranks)) - relevance.starts[query[best]] + 1
    found: dict[str, np.ndarray] = {}
    for k in at:
        is_found = ranks <= k
        ideal = total(np.where(ideal_place <= k, relevance.gains[best] / np.log2(1 + ideal_place), 0.0))
        with np.errstate(invalid='ignore', divide='ignore'):
            values: dict[Metric, np.ndarray] = {
                'recall': total(is_found) / n_relevant,
                'precision': np.where(np.isnan(n_relevant), math.nan, total(is_found) / k),
                'mrr': np.where(np.isnan(n_relevant), math.nan, total(np.where(is_found & (place == 1), 1 / ranks, 0))),
                'ndcg': total(np.where(is_found, relevance.gains / np.log2(1 + ranks), 0.0)) / ideal,
                'map': total(np.where(is_found, place / ranks, 0.0)) / n_relevant,
            }
        found |= {f'{metric}_at_{k}': values[metric] for metric in metrics}
    return found
