"""The table that every search has to be read beside: baselines, a model's vectors, both fused, with intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64

from xlabml.bm25 import NAMES, Fusion, fuse_with_words

from .bootstrap import Interval, mean_interval, paired_interval
from .fusion import find_nearness, less_nearness
from .lexical import Scores, bm25_scores, lexical_systems
from .ranking import Metric, Relevance, rank_relevant, ranking_figures
from .vectors import compare, normalized


class SearchRow(NamedTuple):
    """A system of a table.

    Args:
        name: BM25, another baseline, a model's, or the model's with BM25.
        figures: The mean over the queries, with its interval, by the figure's name.
        over_bm25: What the figures exceed those of BM25 by, on the same queries.
        values: The figures of each query, by name.
    """

    name: str
    figures: dict[str, Interval]
    over_bm25: dict[str, Interval]
    values: dict[str, Float64[np.ndarray, ' q']]

    def over(self, other: 'SearchRow', seed: int = 0) -> dict[str, Interval]:
        """What the figures exceed those of another system by: means of the differences of each query."""
        return {
            name: paired_interval(torch.from_numpy(ours), torch.from_numpy(other.values[name]), seed=seed)
            for name, ours in self.values.items()
        }


def search_table(
    queries: Sequence[str],
    documents: Sequence[str],
    relevance: Relevance,
    vectors: Mapping[str, tuple[Float[np.ndarray, 'q d'], Float[np.ndarray, 'n d']]],
    at: Sequence[int] = (1, 10),
    metrics: Sequence[Metric] = ('recall',),
    seed: int = 0,
    fusions: Mapping[str, Fusion] | None = None,
    known: Mapping[str, Float[np.ndarray, 'k d']] | None = None,
) -> list[SearchRow]:
    """The baselines (`lexical_systems`), the vectors of each model, and each model fused with BM25 by z-scores.

    Args:
        queries: Their texts.
        documents: The texts that are searched.
        relevance: Which documents are relevant to each query; each query has some.
        vectors: Of the queries and of the documents, by the name of the model; compared by their cosine.
        seed: Of the intervals.
        fusions: How a model's vectors and BM25 are fused, by its name; in equal parts where it is not named.
        known: The vectors of the known queries of a fusion, by the name of the model that has them.
    """
    systems = lexical_systems(queries, documents, seed)
    for name, (of_queries, of_documents) in vectors.items():
        systems[name] = _dense(normalized(of_queries), normalized(of_documents))
        fusion = (fusions or {}).get(name, Fusion())
        lexical = NAMES[fusion.terms]
        dense = systems[name]
        words = systems[lexical]
        if fusion.known_queries:
            of_known = _dense(normalized((known or {})[name]), normalized(of_documents))
            n = len(fusion.known_queries), len(documents)
            by_words = bm25_scores(fusion.known_queries, documents)[fusion.terms]
            dense = less_nearness(dense, find_nearness(of_known, *n))
            words = less_nearness(words, find_nearness(by_words, *n))
        systems[f'{name} + {lexical}'] = _fused(dense, words, fusion.vector_weight)
    rows: list[SearchRow] = []
    for name, scores in systems.items():
        ranks = rank_relevant(scores, relevance, len(documents))
        values = ranking_figures(ranks, relevance, at, metrics)
        figures = {figure: mean_interval(torch.from_numpy(each), seed=seed) for figure, each in values.items()}
        row = SearchRow(name, figures, {}, values)
        rows.append(row._replace(over_bm25=row.over(rows[0] if rows else row, seed)))
    return rows


def _dense(queries: Float[np.ndarray, 'q d'], documents: Float[np.ndarray, 'n d']) -> Scores:
    return lambda some: compare(queries[some], documents, 'dot')


def _fused(dense: Scores, lexical: Scores, vector_weight: float) -> Scores:
    return lambda some: fuse_with_words(dense(some), lexical(some), vector_weight)


def format_table(rows: Sequence[SearchRow]) -> str:
    """A table for people: a line a system, a column a figure, and what it exceeds BM25 by."""
    names = list(rows[0].figures)
    lines = [['', *names, *(f'{name} over BM25' for name in names)]]
    for row in rows:
        own = [f'{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]' for figure in row.figures.values()]
        gains = [f'{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]' for gain in row.over_bm25.values()]
        lines.append([row.name, *own, *([] if row.name == 'BM25' else gains)])
    widths = [max(len(line[column]) for line in lines if column < len(line)) for column in range(len(lines[0]))]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
