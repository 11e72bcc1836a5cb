"""BM25 of words and of their parts, the baselines of every search, and its fusion with scores of vectors.

A leaf that needs numpy alone.

Sources: Robertson and Zaragoza 2009, https://doi.org/10.1561/1500000019, section 3; the form whose inverse document
frequencies are never negative is Lucene's. As a document's share of a term's score does not depend on the query, all
shares are computed once (Lù 2024, BM25S, https://arxiv.org/abs/2407.03618).
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import IO, Literal, NamedTuple, TypeAlias
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Float32

VECTOR_WEIGHT = 'vector_weight'
"""The name of the fact of a checkpoint that holds the share of its vectors beside BM25."""

BM25_TERMS = 'bm25_terms'
"""The name of the fact that holds the terms of that BM25."""

KNOWN_QUERIES = 'known_queries'
"""The name of the fact that holds the queries whose nearness is taken off the scores of a text."""

N_NEAREST = 10
"""Of the known queries, how many count for a text: the nearest ones (the k of CSLS)."""

Words: TypeAlias = Callable[[str], list[str]]

Terms: TypeAlias = Literal['words', 'parts']
"""What BM25 counts: whole words, or parts of words."""

_WORD = re.compile(r'\w+')
_PART_SIZES = (3, 4)
_KNOWN_WORDS = 32_768


def split_words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters, digits and underscores, whatever the script."""
    return _WORD.findall(text.lower())


def split_parts(text: str) -> list[str]:
    """The runs of 3 and of 4 characters inside the words of a text, its beginning and its end marked as `<` and `>`.

    A word then also counts where it stands in another form (`archive`, `archives`) or inside another word.
    """
    return [part for word in split_words(text) for part in _parts(word)]


@lru_cache(_KNOWN_WORDS)
def _parts(word: str) -> tuple[str, ...]:
    marked = f'<{word}>'
    return tuple(marked[i : i + size] for size in _PART_SIZES for i in range(len(marked) - size + 1))


SPLITTERS: Mapping[Terms, Words] = {'words': split_words, 'parts': split_parts}
"""How a text is split into the terms of BM25."""

NAMES: Mapping[Terms, str] = {'words': 'BM25', 'parts': 'BM25 of word parts'}
"""What tables call BM25 of these terms."""


class BM25:
    """Scores of documents for queries; exact, a sparse table of one entry for each word of each document.

    Args:
        documents: Their texts.
        k1: How fast a word's repetitions stop to count; larger is slower.
        b: How much longer documents are held back, 0..1.
        words: Splits a text.
    """

    def __init__(self, documents: Iterable[str], k1: float = 1.5, b: float = 0.75, words: Words = split_words) -> None:
        if not k1 >= 0 or not 0 <= b <= 1:
            raise ValueError(f'k1 is {k1} and b is {b}; give k1 of 0 or more, and b from 0 to 1')
        self._words = words
        self._numbers: dict[str, int] = {}
        ends = [0]
        terms = array('q')
        counts = array('q')
        lengths = []
        for text in documents:
            found = Counter(words(text))
            terms.extend(self._numbers.setdefault(word, len(self._numbers)) for word in found)
            counts.extend(found.values())
            lengths.append(found.total())
            ends.append(len(terms))
        self.n_documents = len(lengths)
        document = np.repeat(np.arange(self.n_documents), np.diff(ends))
        term = np.array(terms, np.int64)
        count = np.array(counts, np.float64)
        length = np.array(lengths, np.float64)
        n_with = np.bincount(term, minlength=len(self._numbers))
        rarity = np.log1p((self.n_documents - n_with + 0.5) / (n_with + 0.5))
        relative = length / max(1.0, length.mean()) if self.n_documents else length
        share = rarity[term] * count / (count + k1 * (1 - b + b * relative[document]))
        order = np.argsort(term, kind='stable')
        self._starts = np.concatenate([[0], np.cumsum(n_with)])
        self._documents = document[order].astype(np.int32)
        self._shares = share[order].astype(np.float32)

    def save(self, file: IO[bytes]) -> None:
        """Write the table, without its texts."""
        terms = np.frombuffer('\n'.join(self._numbers).encode('utf-8', 'surrogatepass'), np.uint8)  # no term has a \n
        np.savez(
            file,
            terms=terms,
            starts=self._starts,
            documents=self._documents,
            shares=self._shares,
            n_documents=np.array(self.n_documents),
        )

    @classmethod
    def load(cls, file: IO[bytes], words: Words = split_words) -> 'BM25':
        """Read what `save` wrote; queries are split by `words`, as the documents were.

        Raises:
            ValueError: The file holds something else, or is damaged.
        """
        found = cls((), words=words)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                terms = arrays['terms'].tobytes().decode('utf-8', 'surrogatepass')
                found._starts = arrays['starts']
                found._documents = arrays['documents']
                found._shares = arrays['shares']
                found.n_documents = int(arrays['n_documents'])
        except (BadZipFile, KeyError, EOFError, TypeError) as error:
            raise ValueError(f'no table of BM25, or a damaged one: {error}') from error
        found._numbers = {term: number for number, term in enumerate(terms.split('\n') if terms else [])}
        return found

    def scores(self, queries: Sequence[str]) -> Float32[np.ndarray, 'q n']:
        """The score of every document for each query; a word counts as often as a query has it."""
        found = np.zeros((len(queries), self.n_documents), np.float32)
        for row, query in zip(found, queries):
            for word, count in Counter(self._words(query)).items():
                number = self._numbers.get(word)
                if number is not None:
                    entries = slice(self._starts[number], self._starts[number + 1])
                    row[self._documents[entries]] += count * self._shares[entries]
        return found


def fuse(
    scores: Sequence[Float[np.ndarray, 'q n']], weights: Sequence[float] | None = None
) -> Float[np.ndarray, 'q n']:
    """The weighted sum of several systems' scores, each standardized over the documents of a query (z-scores).

    A system whose scores of a query are all equal says nothing about it, and adds 0.

    Args:
        weights: One for each system; None: 1 each.

    Raises:
        ValueError: There are not as many weights as systems.
    """
    if weights is not None and len(weights) != len(scores):
        raise ValueError(f'{len(weights)} weights are given for {len(scores)} systems')
    total = np.zeros_like(scores[0], dtype=np.float64)
    for some, weight in zip(scores, [1.0] * len(scores) if weights is None else weights):
        spread = some.std(axis=1, keepdims=True, dtype=np.float64)
        centered = some - some.mean(axis=1, keepdims=True, dtype=np.float64)
        total += weight * np.divide(centered, spread, out=np.zeros_like(total), where=spread > 0)
    return total


def fuse_with_words(
    vectors: Float[np.ndarray, 'q n'], words: Float[np.ndarray, 'q n'], vector_weight: float = 0.5
) -> Float[np.ndarray, 'q n']:
    """`fuse` of the scores of vectors and of BM25, whose weights sum to 2, so that equal parts count 1 each.

    Args:
        vectors: The scores by vectors.
        words: Those of BM25.
        vector_weight: The share of the vectors' scores, 0..1; the rest is that of BM25.
    """
    return fuse([vectors, words], [2 * vector_weight, 2 * (1 - vector_weight)])


def hubness(scores: Iterable[Float[np.ndarray, 'q n']]) -> Float32[np.ndarray, ' n']:
    """How near each document is to queries of any kind: half the mean of its 10 highest scores for known queries.

    Some documents ("hubs") score high for many queries that other documents answer. The order of the documents of a
    query by their scores minus this is that of cross-domain similarity local scaling: its other term is the same for
    all of them. The known queries need no answers.
    Source: CSLS, Conneau et al. 2018, https://arxiv.org/abs/1710.04087, section 2.3.

    Args:
        scores: Of all documents for the known queries, some of these at a time. Of fewer than 10 all count.

    Raises:
        ValueError: There is no query.
    """
    best: Float32[np.ndarray, 'k n'] | None = None
    for some in scores:
        both = some if best is None else np.concatenate([best, some])
        n_more = len(both) - N_NEAREST
        best = both if n_more <= 0 else np.partition(both, n_more, axis=0)[n_more:]
    if best is None or not len(best):
        raise ValueError('no query is known; give one or more')
    return (best.mean(axis=0, dtype=np.float64) / 2).astype(np.float32)


class Fusion(NamedTuple):
    """How the scores of vectors and of BM25 are put together.

    Args:
        vector_weight: The share of the vectors' scores, 0..1; see `fuse_with_words`.
        terms: What BM25 counts.
        known_queries: Before that, the `hubness` of a text by these queries is taken off its scores, those of vectors
            and those of BM25; (): nothing is.
    """

    vector_weight: float = 0.5
    terms: Terms = 'words'
    known_queries: tuple[str, ...] = ()

    def override(self, vector_weight: float | None, terms: Terms | None) -> 'Fusion':
        """The same with what is not None in the place of its own."""
        weight = self.vector_weight if vector_weight is None else vector_weight
        return self._replace(vector_weight=weight, terms=self.terms if terms is None else terms)

    def __str__(self) -> str:
        return (
            f'vectors and {NAMES[self.terms]} by {self.vector_weight:.2f} and {1 - self.vector_weight:.2f}'
            f'{self.described_queries}'
        )

    @property
    def described_queries(self) -> str:
        """What is taken off the scores, for people; empty where nothing is."""
        n = len(self.known_queries)
        return f', less the nearness to {n:,} known {"query" if n == 1 else "queries"}' if n else ''


def read_fusion(facts: Mapping[str, object]) -> Fusion | None:
    """The fusion that a checkpoint's facts name; None: they name none.

    Raises:
        ValueError: The share is no ratio, the terms are not known, or the queries are no texts.
    """
    weight = facts.get(VECTOR_WEIGHT)
    if weight is None:
        return None
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ValueError(f'the share of the vectors beside BM25 is {weight!r:.100}, no ratio from 0 to 1')
    terms = facts.get(BM25_TERMS, 'words')
    if terms not in ('words', 'parts'):
        raise ValueError(f'the terms of BM25 beside the vectors are {terms!r:.100}; known are words and parts')
    queries = facts.get(KNOWN_QUERIES, ())
    if not isinstance(queries, list | tuple) or not all(isinstance(query, str) and query for query in queries):
        raise ValueError(f'the known queries beside the vectors are {queries!r:.100}; they are a list of texts')
    return Fusion(float(weight), terms, tuple(queries))
