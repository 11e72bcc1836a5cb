"""The table that every search has to be read beside: BM25, a model's vectors and both fused, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from xlabml.bm25 import BM25, fuse

from .bootstrap import Interval, mean_interval, paired_interval
from .ranking import Metric, Relevance, rank_relevant, ranking_figures
from .vectors import compare, normalized

Scores: TypeAlias = Callable[[slice], Float[np.ndarray, 'i n']]
"""The scores of all documents for the queries of a slice."""


class SearchRow(NamedTuple):
    """A system of a table.

    Args:
        name: BM25, vectors or fused.
        figures: The mean over the queries, with its interval, by the figure's name.
        over_bm25: What the figures exceed those of BM25 by, on the same queries.
    """

    name: str
    figures: dict[str, Interval]
    over_bm25: dict[str, Interval]


def search_table(
    queries: Sequence[str],
    documents: Sequence[str],
    relevance: Relevance,
    vectors: Mapping[str, tuple[Float[np.ndarray, 'q d'], Float[np.ndarray, 'n d']]],
    at: Sequence[int] = (1, 10),
    metrics: Sequence[Metric] = ('recall',),
    seed: int = 0,
) -> list[SearchRow]:
    """BM25, the vectors of each model, and each model fused with BM25 by z-scores.

    Args:
        queries: Their texts.
        documents: The texts that are searched.
        relevance: Which documents are relevant to each query; each query has some.
        vectors: Of the queries and of the documents, by the name of the model; compared by their cosine.
        seed: Of the intervals.
    """
    bm25 = BM25(documents)

    def lexical(some: slice) -> Float[np.ndarray, 'i n']:
        return bm25.scores(queries[some])

    systems: dict[str, Scores] = {'BM25': lexical}
    for name, (of_queries, of_documents) in vectors.items():
        systems[name] = _dense(normalized(of_queries), normalized(of_documents))
        systems[f'{name} + BM25'] = _fused(systems[name], lexical)
    found = {
        name: ranking_figures(rank_relevant(scores, relevance, len(documents)), relevance, at, metrics)
        for name, scores in systems.items()
    }
    lexical_figures = {figure: torch.from_numpy(values) for figure, values in found['BM25'].items()}
    rows = []
    for name, figures in found.items():
        row = SearchRow(name, {}, {})
        for figure, values in figures.items():
            ours = torch.from_numpy(values)
            row.figures[figure] = mean_interval(ours, seed=seed)
            row.over_bm25[figure] = paired_interval(ours, lexical_figures[figure], seed=seed)
        rows.append(row)
    return rows


def _dense(queries: Float[np.ndarray, 'q d'], documents: Float[np.ndarray, 'n d']) -> Scores:
    return lambda some: compare(queries[some], documents, 'dot')


def _fused(dense: Scores, lexical: Scores) -> Scores:
    return lambda some: fuse([dense(some), lexical(some)])


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
