"""Hard negatives: texts that are near to a query and are not its answer, for the next training of an embedder.

Texts come from the caller, block by block; a vector is made of each, and nothing grows with the number of queries.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Float64

from xlabml import artifacts
from xlabml.errors import DataError, RequestError

from .nearest import Vectors, find_nearest

Layout: TypeAlias = Literal['roles', 'flag']
"""The columns of a file of negatives: anchor, positive, negatives and scores; or FlagEmbedding's query, pos, neg,
pos_scores and neg_scores."""

Embed: TypeAlias = Callable[[list[str]], Float32[np.ndarray, 'n d']]
"""Makes the vectors of texts, at length 1 where products shall be cosines."""

Rescore: TypeAlias = Callable[[list[tuple[str, str]]], Sequence[float] | np.ndarray]
"""The score of each (query, text), more is nearer; `predict` of sentence-transformers' CrossEncoder is one."""

_BLOCK = 256


class Pair(NamedTuple):
    """A query, and the texts that answer it."""

    query: str
    positives: list[str]


class Mined(NamedTuple):
    """A query with its negatives, the nearest first, and the scores that they were chosen by."""

    query: str
    positives: list[str]
    negatives: list[str]
    positive_scores: list[float]
    negative_scores: list[float]


class Rules(NamedTuple):
    """Which texts are taken as negatives.

    Ranks count the distinct texts of the corpus from the nearest to the query on, from 1; neither the query itself nor
    any text that answers it has a rank. The score that margins are taken from is that of the positive that
    is least near to the query: a negative is further away than every positive.

    Source of the relative margin: NV-Retriever, Moreira et al. 2024, https://arxiv.org/abs/2407.15831, section 3.1
    (perc-pos), there of positive scores only: of a score below 0 a share of it would lie above it, so the margin is
    a share of the score's size.

    Args:
        n_negatives: The most of a query.
        first_rank: Nearer texts are left out: the nearest are often answers that nobody marked.
        last_rank: More distant ones are left out.
        absolute_margin: A negative's score is at most that of the positive minus this; None: no such rule.
        relative_margin: A negative's score is at most that of the positive minus this share of its absolute value;
            None: no such rule.
        is_drawn: Whether negatives are drawn among those that are left; else the nearest are taken.
        seed: Of the drawing; a query's does not depend on the others.

    Raises:
        RequestError: `check` found one out of range.
    """

    n_negatives: int = 5
    first_rank: int = 1
    last_rank: int = 100
    absolute_margin: float | None = None
    relative_margin: float | None = None
    is_drawn: bool = False
    seed: int = 0

    def check(self) -> None:
        """Refuse what is out of range."""
        if self.n_negatives < 1:
            raise RequestError(f'n_negatives is {self.n_negatives}; give 1 or more')
        if not 1 <= self.first_rank <= self.last_rank:
            raise RequestError(
                f'the ranks are {self.first_rank} to {self.last_rank}; give a first one of 1 or more, and a last one '
                'not below it'
            )
        for name in ('absolute_margin', 'relative_margin'):
            margin = getattr(self, name)
            if margin is not None and not (0 <= margin < np.inf):
                raise RequestError(f'{name} is {margin}; give 0 or more')

    def within(self, scores: Float64[np.ndarray, ' c'], positive: float) -> dict[str, Bool[np.ndarray, ' c']]:
        """For each rule about scores, which candidates it lets pass."""
        most = {
            'absolute_margin': positive - (self.absolute_margin or 0),
            'relative_margin': positive - (self.relative_margin or 0) * abs(positive),
        }
        return {name: scores <= bound for name, bound in most.items() if getattr(self, name) is not None}


class Counts:
    """What came of the texts that were looked at.

    Attributes:
        n_queries: Queries that were mined.
        n_without: Those without a single negative, which are left out.
        n_negatives: Negatives of the others.
        n_copies: Texts of the corpus that equal an earlier one, and were left out of it.
        dropped: How many candidates each rule dropped, by its name.
    """

    def __init__(self) -> None:
        self.n_queries = 0
        self.n_without = 0
        self.n_negatives = 0
        self.n_copies = 0
        self.dropped = dict.fromkeys(_SHOWN, 0)

    def __str__(self) -> str:
        dropped = ', '.join(f'{n:,} {_SHOWN[name]}' for name, n in self.dropped.items() if n) or 'none'
        kept = self.n_queries - self.n_without
        return (
            f'{self.n_negatives:,} negatives of {kept:,} queries; dropped: {dropped}; {self.n_without:,} queries have '
            f'none and are left out; {self.n_copies:,} copies in the corpus'
        )


_SHOWN = {
    'positive': 'that answer the query (or copies of them)',
    'query': 'equal to the query',
    'first_rank': 'before the first rank',
    'absolute_margin': 'by the absolute margin',
    'relative_margin': 'by the relative margin',
    'number': 'beyond the number a query',
}


class Miner:
    """Finds the hard negatives of queries in a corpus.

    Args:
        corpus: The texts that negatives are taken from; equal ones count once.
        vectors: The vector of each text of the corpus, of any type that `find_nearest` takes without a calibration.
        embed_queries: Makes the vectors of queries.
        embed_documents: Makes those of texts as the corpus has them, for positives that are not in it.
        rules: Which texts are taken.
        rescore: Gives the scores that margins and the order of the negatives go by, in place of the vectors' products
            (a cross-encoder); ranks stay those of the vectors. None: the products.

    Attributes:
        counts: Of all that was mined so far.

    Raises:
        RequestError: A rule is out of range, or texts and vectors are not as many.
    """

    def __init__(
        self,
        corpus: Sequence[str],
        vectors: Vectors,
        embed_queries: Embed,
        embed_documents: Embed,
        rules: Rules,
        rescore: Rescore | None = None,
    ) -> None:
        rules.check()
        if len(corpus) != len(vectors):
            raise RequestError(f'there are {len(corpus)} texts and {len(vectors)} vectors; give one for each')
        self.rules = rules
        self.counts = Counts()
        first: dict[str, int] = {}
        for row, text in enumerate(corpus):
            first.setdefault(text, row)
        self.counts.n_copies = len(corpus) - len(first)
        self._corpus = list(first)
        self._vectors = vectors[list(first.values())] if self.counts.n_copies else vectors
        self._embed_queries = embed_queries
        self._embed_documents = embed_documents
        self._rescore = rescore

    def mine(
        self, pairs: Iterable[Pair], answers: Callable[[str], Iterable[str]] = lambda query: ()
    ) -> Iterator[Mined]:
        """The negatives of each query, in order; queries without one are counted and left out.

        Args:
            pairs: Any number.
            answers: Further texts that answer a query, which are no negatives of it: positives of other records
                with the same query.

        Raises:
            RequestError: A query has no positive, or a score is not finite.
            DataError: At the end: no query has a negative.
        """
        iterator = iter(pairs)
        while block := list(islice(iterator, _BLOCK)):
            yield from self._mine_block(block, answers)
        if not self.counts.n_negatives:
            raise DataError(f'{self.counts}; widen the range of ranks, or make the margins smaller')

    def _mine_block(self, block: list[Pair], answers: Callable[[str], Iterable[str]]) -> Iterator[Mined]:
        for pair in block:
            if not pair.positives:
                raise RequestError(f'the query {pair.query[:80]!r} has no positive; leave it out')
        known = [{*pair.positives, *answers(pair.query)} for pair in block]
        queries = self._embed_queries([pair.query for pair in block])
        spare = max(map(len, known)) + 1  # what is left out must not shorten the range of ranks
        hits = find_nearest(queries, self._vectors, self.rules.last_rank + spare)
        positives = self._embed_documents([text for pair in block for text in pair.positives])
        end = 0
        for pair, answered, query, scores, rows in zip(block, known, queries, hits.scores, hits.rows):
            begin = end
            end += len(pair.positives)
            own = positives[begin:end].astype(np.float64) @ query.astype(np.float64)
            found = self._mine_query(pair, answered, own, scores.astype(np.float64), rows)
            if found is not None:
                yield found

    def _mine_query(
        self,
        pair: Pair,
        answers: set[str],
        positive_scores: Float64[np.ndarray, ' p'],
        scores: Float64[np.ndarray, ' c'],
        rows: np.ndarray,
    ) -> Mined | None:
        rules = self.rules
        dropped = self.counts.dropped
        number = self.counts.n_queries
        self.counts.n_queries += 1
        ranked = [(i, self._corpus[row]) for i, row in enumerate(rows)]
        others = [(i, text) for i, text in ranked if text not in answers and text != pair.query]
        dropped['positive'] += sum(text in answers for _, text in ranked)
        dropped['query'] += len(ranked) - len(others) - sum(text in answers for _, text in ranked)
        taken = others[rules.first_rank - 1 : rules.last_rank]
        dropped['first_rank'] += min(len(others), rules.first_rank - 1)
        texts = [text for _, text in taken]
        near = scores[[i for i, _ in taken]]
        if self._rescore is not None:
            asked = [(pair.query, text) for text in [*pair.positives, *texts]]
            again = np.asarray(self._rescore(asked), np.float64)
            if again.shape != (len(asked),) or not np.isfinite(again).all():
                raise RequestError(
                    f'rescoring returned {again.shape} for {len(asked)} pairs, or scores that are not finite, for the '
                    f'query {pair.query[:80]!r}; it must return a finite number for each'
                )
            positive_scores = again[: len(pair.positives)]
            near = again[len(pair.positives) :]
        passes = np.ones(len(texts), bool)
        for name, is_within in rules.within(near, float(positive_scores.min())).items():
            dropped[name] += int((passes & ~is_within).sum())
            passes &= is_within
        left = np.flatnonzero(passes)
        left = left[np.argsort(-near[left], kind='stable')]
        dropped['number'] += max(0, len(left) - rules.n_negatives)
        if rules.is_drawn and len(left) > rules.n_negatives:
            drawn = np.random.default_rng([rules.seed, number]).permutation(len(left))[: rules.n_negatives]
            left = left[np.sort(drawn)]
        chosen = left[: rules.n_negatives]
        if not len(chosen):
            self.counts.n_without += 1
            return None
        self.counts.n_negatives += len(chosen)
        negatives = [texts[i] for i in chosen]
        return Mined(pair.query, pair.positives, negatives, positive_scores.tolist(), near[chosen].tolist())


def write_negatives(path: Path, mined: Iterable[Mined], layout: Layout = 'roles') -> None:
    """Write a line of JSON for each query, atomically; `TextGroups` reads either layout.

    Raises:
        FileExistsError: The file is there.
        FileNotFoundError: There is no folder to write to.
    """
    check_output(path)
    with (
        artifacts.replacing(path, sync=True) as beside,
        beside.open('w', encoding='utf-8') as file,
    ):  # closed before it is renamed
        for found in mined:
            file.write(json.dumps(as_record(found, layout), ensure_ascii=False) + '\n')


def check_output(path: Path) -> None:
    """Refuse a place where a file of negatives cannot be written; errors as of `write_negatives`."""
    if path.exists():
        raise FileExistsError(f'{path} is there already; delete it, or choose another --output')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'there is no folder {path.parent} to write {path.name} to; make it first')


def as_record(found: Mined, layout: Layout) -> dict[str, object]:
    """A query as a record; `scores` has one for each positive, then one for each negative."""
    if layout == 'flag':
        return {
            'query': found.query,
            'pos': found.positives,
            'neg': found.negatives,
            'pos_scores': found.positive_scores,
            'neg_scores': found.negative_scores,
        }
    scores = [*found.positive_scores, *found.negative_scores]
    return {'anchor': found.query, 'positive': found.positives, 'negatives': found.negatives, 'scores': scores}
