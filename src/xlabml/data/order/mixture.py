"""Which source each row of a run comes from: by weight, evenly spread, found in constant time at any place."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from xlabml.errors import SettingsError

from .permutation import mix, shuffled

_PERIOD = 1 << 16


class Interleaving:
    """Which source each place of an endless sequence of rows belongs to, in fixed shares of the targets.

    Every period of 65,536 rows has the same number of each source's, spread as evenly as they go (those of source s lie
    around the places (i + 1/2) / n_s of the period), so that the shares hold for short runs too.

    Args:
        shares: Of the rows, of each source; they need not sum to 1.
        weights: Of each source, as the user gave them.

    Attributes:
        per_period: The number of rows of each source in a period.
        source: The source of each place of a period.
        rank: How many places before it in the period belong to its source.

    Raises:
        SettingsError: A source with a weight has less than a row in a period.
    """

    period: ClassVar[int] = _PERIOD
    """How many rows have the same number of each source's, wherever a period begins."""

    def __init__(self, shares: Float64[np.ndarray, ' sources'], weights: Sequence[int | float]) -> None:
        self.per_period = _round(shares / shares.sum() * self.period)
        for i, weight in enumerate(weights):
            if weight and not self.per_period[i]:
                raise SettingsError(
                    f'data.weights gives {weight:g} to source {i}: less than a row in {self.period:,}; use 0'
                )
        # Row i of source s comes at (i + 1/2) / n_s of the period; at equal places the first source comes first.
        source = np.repeat(np.arange(len(shares)), self.per_period)
        rank = np.concatenate([np.arange(n) for n in self.per_period])
        order = np.lexsort((source, (rank + 0.5) / self.per_period[source]))
        self.source = source[order]
        self.rank = rank[order]

    def sources(self, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        """Which source the rows at these places of the sequence are from."""
        return self.source[places % self.period]

    def taken(self, n_rows: int) -> Int64[np.ndarray, ' sources']:
        """The number of rows of each source among the first n_rows of the sequence."""
        periods, rest = divmod(n_rows, self.period)
        return periods * self.per_period + np.bincount(self.source[:rest], minlength=len(self.per_period))


class Mixture(Interleaving):
    """An endless sequence of the rows of several sources, each with its share of the targets.

    Each source's rows come epoch after epoch, permuted anew.

    Args:
        source_rows: The rows of source s are source_rows[s] to source_rows[s + 1] - 1.
        n_targets: How many targets count in each source.
        weights: Of each source: its share of the targets, once they are scaled to sum to 1. 0 leaves it out.

    Raises:
        ValueError: The weights are not one for each source, negative, or all 0; or one is of a source without rows.
    """

    def __init__(self, source_rows: Sequence[int], n_targets: Sequence[int], weights: Sequence[int | float]) -> None:
        check_weights(weights, len(n_targets))
        self.first_rows = np.array(source_rows[:-1], np.int64)
        self.n_rows = np.diff(source_rows)
        for i, weight in enumerate(weights):
            if weight and not self.n_rows[i]:
                raise SettingsError(
                    f'data.weights gives {weight:g} to source {i}, which has no document in the train split; '
                    'set it to 0, or give the source more documents'
                )
        # Rows of source s: its share of the targets over its targets per row.
        rows = np.array(weights, np.float64) * self.n_rows / np.maximum(n_targets, 1)
        super().__init__(rows, weights)

    def rows(self, places: Int64[np.ndarray, ' rows'], seed: int) -> Int64[np.ndarray, ' rows']:
        """The rows at these places of the sequence.

        Args:
            seed: What each source's order is drawn from.
        """
        period, place = np.divmod(places, self.period)
        sources = self.source[place]
        index = period * self.per_period[sources] + self.rank[place]  # rows of the same source before this one
        rows = np.empty_like(places)
        for i in np.unique(sources).tolist():
            here = sources == i
            rows[here] = self.first_rows[i] + shuffled(index[here], int(self.n_rows[i]), mix(seed, i))
        return rows

    def epochs(self, n_rows: int) -> list[float]:
        """How often each source is gone through in the first rows of the sequence."""
        return (self.taken(n_rows) / np.maximum(self.n_rows, 1)).tolist()


def check_weights(weights: Sequence[int | float], n_sources: int) -> None:
    """Raise ValueError unless there is a weight for each source, none negative, not all 0."""
    given = ', '.join(f'{weight:g}' for weight in weights)
    if len(weights) != n_sources:
        raise ValueError(
            f'data.weights has {len(weights)} numbers ({given}) for {n_sources} sources; give one for each'
        )
    if not all(0 <= weight < np.inf for weight in weights):
        raise ValueError(f'data.weights is {given}; a weight is a share of the tokens, 0 or more')
    if not sum(weights):
        raise ValueError(f'data.weights is {given}, which sums to 0; give at least one source a weight above 0')


def _round(shares: np.ndarray) -> Int64[np.ndarray, ' sources']:
    """Whole numbers of the same sum, each the next below or above (the largest remainders are rounded up)."""
    whole = np.floor(shares).astype(np.int64)
    missing = round(shares.sum()) - int(whole.sum())
    whole[np.argsort(whole - shares, kind='stable')[:missing]] += 1
    return whole
