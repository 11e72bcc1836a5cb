"""Search: each query's relevant documents among all documents of a set, exactly; and within each group's candidates."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64

from xlabml.batches import ANCHOR, POSITIVE

from .evaluator import Monitor, TextScores
from .ranking import Metric, Relevance, make_relevance, rank_relevant, ranking_figures
from .vectors import Encode, Kind, Texts, VectorEvaluator, compare, normalized

METRICS: tuple[Metric, ...] = ('recall', 'mrr', 'ndcg')


class Retrieval(VectorEvaluator):
    """Recall, precision, MRR, nDCG and MAP at k of a split: every anchor searches the positives and negatives of all
    groups.

    Equal texts are one document, and equal anchors one query, to which the positives of all of them are relevant. The
    rule for ties is that of `ranking`: a model that gives everything one score finds nothing.

    Args:
        at: The k's.
        metrics: Which figures; their names are `recall_at_10` …
        similarity: How vectors are compared.

    Attributes:
        last: The texts of the last evaluation; None before the first.
    """

    takes_scores = True
    of_pairs = True

    def __init__(
        self, at: Sequence[int] = (1, 10), metrics: Sequence[Metric] = METRICS, similarity: Kind = 'cosine'
    ) -> None:
        super().__init__()
        check_cutoffs(at, metrics)
        self.at = tuple(at)
        self.metrics = tuple(metrics)
        self.similarity: Kind = similarity
        self.last: Texts | None = None

    @property
    def primary(self) -> Monitor:
        return Monitor(f'val_{self.metrics[-1]}_at_{max(self.at)}', 'max')

    def names(self) -> list[str]:
        return [f'{metric}_at_{k}' for k in self.at for metric in self.metrics]

    def count(self, texts: Texts) -> int:
        return len(np.unique(texts.text_hash[texts.role == ANCHOR]))

    def figures(self, texts: Texts) -> Mapping[str, float]:
        self.last = texts
        queries, documents, relevance = make_search(texts)
        asked = texts.vectors[queries]
        known = texts.vectors[documents]
        found = search_figures(asked, known, relevance, self.at, self.metrics, self.similarity, self.scores)
        return {name: mean_known(values) for name, values in found.items()}


class Reranking(VectorEvaluator):
    """The same figures where every anchor ranks the candidates of its own group only.

    Args:
        at: The k's.
        metrics: Which figures; their names are `reranking_map_at_10` …
        similarity: How vectors are compared.
    """

    takes_scores = True
    of_pairs = True

    def __init__(
        self, at: Sequence[int] = (10,), metrics: Sequence[Metric] = ('mrr', 'ndcg', 'map'), similarity: Kind = 'cosine'
    ) -> None:
        super().__init__()
        check_cutoffs(at, metrics)
        self.at = tuple(at)
        self.metrics = tuple(metrics)
        self.similarity: Kind = similarity

    @property
    def primary(self) -> Monitor:
        return Monitor(f'val_reranking_{self.metrics[-1]}_at_{max(self.at)}', 'max')

    def names(self) -> list[str]:
        return [f'reranking_{metric}_at_{k}' for k in self.at for metric in self.metrics]

    def figures(self, texts: Texts) -> Mapping[str, float]:
        ranks = []
        sizes = []
        order = np.argsort(texts.example, kind='stable')
        for group in np.split(order, np.flatnonzero(np.diff(texts.example[order])) + 1):
            role = texts.role[group]
            anchors = group[role == ANCHOR]
            candidates = group[role != ANCHOR]
            relevant = np.flatnonzero(texts.role[candidates] == POSITIVE)
            if len(anchors) != 1 or not len(relevant) or len(relevant) == len(candidates):
                continue  # nothing to rank
            scores = compare(texts.vectors[anchors], texts.vectors[candidates], self.similarity, self.scores)
            one = make_relevance([relevant.tolist()])
            ranks.append(rank_relevant(scores.__getitem__, one, len(candidates)))
            sizes.append(len(relevant))
        if not sizes:
            return dict.fromkeys(self.names(), float('nan'))
        starts = np.concatenate([[0], np.cumsum(sizes)])
        relevance = Relevance(starts, np.zeros(starts[-1], np.int64), np.ones(starts[-1]))
        found = ranking_figures(np.concatenate(ranks), relevance, self.at, self.metrics)
        return {f'reranking_{name}': mean_known(values) for name, values in found.items()}


def check_cutoffs(at: Sequence[int], metrics: Sequence[Metric]) -> None:
    """Raise ValueError where there is no k of 1 or more, or no metric."""
    if not at or min(at) < 1:
        raise ValueError(f'at is {list(at)}; give numbers of 1 or more')
    if not metrics:
        raise ValueError('no metrics are named; name recall, precision, mrr, ndcg or map')


def make_search(texts: Texts) -> tuple[Int64[np.ndarray, ' q'], Int64[np.ndarray, ' n'], Relevance]:
    """The queries and documents of groups, each text once, and which documents are relevant."""
    anchors = texts.first_of(ANCHOR)
    is_document = texts.role != ANCHOR
    document_hashes, documents = np.unique(texts.text_hash[is_document], return_index=True)
    query_hashes, queries = np.unique(texts.text_hash[anchors[anchors >= 0]], return_index=True)
    relevant: list[dict[int, float]] = [{} for _ in query_hashes]
    positives = np.flatnonzero((texts.role == POSITIVE) & (anchors[texts.example] >= 0))
    query = np.searchsorted(query_hashes, texts.text_hash[anchors[texts.example[positives]]])
    document = np.searchsorted(document_hashes, texts.text_hash[positives])
    for one, other in zip(query.tolist(), document.tolist()):
        relevant[one][other] = 1.0
    return anchors[anchors >= 0][queries], np.flatnonzero(is_document)[documents], make_relevance(relevant)


def search_figures(
    queries: Float[np.ndarray, 'q d'],
    documents: Float[np.ndarray, 'n d'],
    relevance: Relevance,
    at: Sequence[int] = (1, 10),
    metrics: Sequence[Metric] = METRICS,
    similarity: Kind = 'cosine',
    scores: TextScores | None = None,
) -> dict[str, Float[np.ndarray, ' q']]:
    """The figures of each query, from vectors: a block of queries against all documents at a time.

    Args:
        scores: Compares texts of several vectors, as in `compare`.
    """
    if similarity == 'cosine' and scores is None:
        queries = normalized(queries)
        documents = normalized(documents)
    kind: Kind = 'dot' if similarity == 'cosine' else similarity
    ranks = rank_relevant(lambda some: compare(queries[some], documents, kind, scores), relevance, len(documents))
    return ranking_figures(ranks, relevance, at, metrics)


def evaluate_search(
    encode: Encode,
    queries: Sequence[str],
    documents: Sequence[str],
    relevance: Relevance,
    at: Sequence[int] = (1, 10),
    metrics: Sequence[Metric] = METRICS,
    similarity: Kind = 'cosine',
) -> dict[str, Float[np.ndarray, ' q']]:
    """The figures of each query for any model: a callable from texts to vectors."""
    return search_figures(encode(queries), encode(documents), relevance, at, metrics, similarity)


def mean_known(values: Float[np.ndarray, ' q']) -> float:
    """The mean over the queries that have relevant documents; NaN where none has."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float('nan')
