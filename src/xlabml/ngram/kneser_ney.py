"""Interpolated modified Kneser-Ney: the probability of a token from the n - 1 tokens before it.

p(w | h) = max(0, a(h w) - D(a(h w))) / a(h) + backoff(h) · p(w | h without its first token), where a are counts in the
highest order and numbers of different predecessors in the others, and a(h) is the sum of a(h w) over w. A context that
never was leaves its probability to the shorter one. Below the unigrams all tokens of the vocabulary are as likely.

Source: Kneser & Ney 1995, https://doi.org/10.1109/ICASSP.1995.479394; Chen & Goodman 1999,
https://doi.org/10.1006/csla.1999.0128, section 3, with three discounts for each order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Integer

from .discounts import discounted
from .folder import CountedNgrams, Level


class Scores(NamedTuple):
    """Probabilities of tokens, and what was known before each.

    Args:
        probability: Of each token.
        matched: How many tokens before it are a known context, 0 to order - 1.
        total: The sum of the counts that continue that context; 0 of the empty one.
        backoff: The share of the probability that goes to shorter contexts; 1 of the empty one.
    """

    probability: Float64[np.ndarray, ' t']
    matched: Integer[np.ndarray, ' t']
    total: Integer[np.ndarray, ' t']
    backoff: Float64[np.ndarray, ' t']


class Next(NamedTuple):
    """The distribution of the next token, and what is known before it, as in `Scores`."""

    probabilities: Float64[np.ndarray, ' v']
    matched: int
    total: int
    backoff: float


class KneserNey:
    """The probabilities that follow from counted n-grams; they are read from the disk as they are needed.

    Args:
        counted: The n-grams.
    """

    def __init__(self, counted: CountedNgrams) -> None:
        self.counted = counted
        self.order = counted.order
        self.n_vocab = counted.n_vocab
        counts = np.asarray(counted.unigrams, np.int64)
        kept = discounted(counts, counted.discounts)
        total = max(1, int(counts.sum()))
        self._unigrams: Float64[np.ndarray, ' v'] = kept / total + (1 - kept.sum() / total) / counted.n_vocab

    def score(
        self,
        inputs: Integer[np.ndarray, ' t'],
        targets: Integer[np.ndarray, ' t'],
        starts: Integer[np.ndarray, ' texts'],
    ) -> Scores:
        """The probability of each target from the inputs up to its place.

        Args:
            inputs: The tokens of texts, back to back; the first of each is the start of a text where it begins.
            targets: The token behind each.
            starts: The place of each text's first token.
        """
        probability = self._unigrams[targets]
        matched = np.zeros(len(inputs), np.int64)
        total = np.zeros(len(inputs), np.uint32)
        backoff = np.ones(len(inputs))
        is_start = np.zeros(len(inputs), bool)
        is_start[starts[starts < len(inputs)]] = True
        contexts = np.asarray(inputs, np.int64)  # the number of the context of each length in turn; -1: it is unknown
        for n, level in enumerate(self.counted.levels, 2):
            at = np.flatnonzero(contexts >= 0)
            at = at[level.totals[contexts[at]] > 0]
            some = contexts[at]
            totals = level.totals[some]
            backoffs = level.backoffs[some]
            counts = _counts_of(level, some * self.n_vocab + targets[at])
            probability[at] = discounted(counts, level.discounts) / totals + backoffs * probability[at]
            matched[at] = n - 1
            total[at] = totals
            backoff[at] = backoffs
            if n < self.order:
                contexts = self._longer(level, contexts, inputs, is_start)
        return Scores(probability, matched, total, backoff)

    def next(self, context: Sequence[int]) -> Next:
        """The distribution of the token behind a context.

        Args:
            context: The tokens before it, from the start of the text or later; only the last order - 1 count.
        """
        ids = list(context[-(self.order - 1) :])
        probabilities = self._unigrams.copy()
        found = Next(probabilities, 0, 0, 1.0)
        for length in range(1, len(ids) + 1):
            number = self._number(ids[-length:])
            level = self.counted.levels[length - 1]
            if number is None or not (total := int(level.totals[number])):
                break
            first, last = np.searchsorted(level.keys, [number * self.n_vocab, (number + 1) * self.n_vocab])
            backoff = float(level.backoffs[number])
            probabilities *= backoff
            tokens = level.keys[first:last] - number * self.n_vocab
            probabilities[tokens] += discounted(level.counts[first:last], level.discounts) / total
            found = Next(probabilities, length, total, backoff)
        return found

    def _longer(
        self,
        level: Level,
        contexts: Integer[np.ndarray, ' t'],
        inputs: Integer[np.ndarray, ' t'],
        is_start: Bool[np.ndarray, ' t'],
    ) -> Integer[np.ndarray, ' t']:
        """The number of the n-gram that ends at each input, of an order whose contexts end just before it."""
        before = np.concatenate([[-1], contexts[:-1]])
        before[is_start] = -1
        at = np.flatnonzero(before >= 0)
        found = np.full(len(inputs), -1, np.int64)
        found[at] = _find(level.keys, before[at] * self.n_vocab + inputs[at])
        return found

    def _number(self, ids: Sequence[int]) -> int | None:
        """The number of an n-gram; None: it is unknown."""
        number = ids[0]
        for level, token in zip(self.counted.levels, ids[1:]):
            number = int(_find(level.keys, np.array([number * self.n_vocab + token]))[0])
            if number < 0:
                return None
        return number


def _find(keys: Integer[np.ndarray, ' m'], wanted: Integer[np.ndarray, ' t']) -> Integer[np.ndarray, ' t']:
    """The place of each key; -1: it is not there. Keys are looked up in order, so that the disk is read once."""
    if not len(keys) or not len(wanted):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(wanted)
    some = wanted[order]
    places = np.minimum(np.searchsorted(keys, some), len(keys) - 1)
    found = np.empty(len(wanted), np.int64)
    found[order] = np.where(keys[places] == some, places, -1)
    return found


def _counts_of(level: Level, wanted: Integer[np.ndarray, ' t']) -> Integer[np.ndarray, ' t']:
    places = _find(level.keys, wanted)
    return np.where(places >= 0, level.counts[np.maximum(places, 0)], 0) if len(level.keys) else places * 0
