"""BM25, the baseline of every search, and its fusion with scores of vectors; a leaf that needs numpy alone.

Sources: Robertson and Zaragoza 2009, https://doi.org/10.1561/1500000019, section 3; the form whose inverse document
frequencies are never negative is Lucene's. As a document's share of a term's score does not depend on the query, all
shares are computed once (Lù 2024, BM25S, https://arxiv.org/abs/2407.03618).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Float32

VECTOR_WEIGHT = 'vector_weight'
"""The name of the fact of a checkpoint that holds the share of its vectors beside BM25."""

Words: TypeAlias = Callable[[str], list[str]]

_WORD = re.compile(r'\w+')


def split_words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters, digits and underscores, whatever the script."""
    return _WORD.findall(text.lower())


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
        terms: list[int] = []
        counts: list[int] = []
        lengths = []
        for text in documents:
            found = Counter(words(text))
            terms += (self._numbers.setdefault(word, len(self._numbers)) for word in found)
            counts += found.values()
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
        self._documents = document[order]
        self._shares = share[order].astype(np.float32)

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


def read_vector_weight(facts: Mapping[str, object]) -> float | None:
    """The share of the vectors that a checkpoint's facts name; None: they name none.

    Raises:
        ValueError: It is no ratio.
    """
    weight = facts.get(VECTOR_WEIGHT)
    if weight is None:
        return None
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ValueError(f'the share of the vectors beside BM25 is {weight!r:.100}, no ratio from 0 to 1')
    return float(weight)
