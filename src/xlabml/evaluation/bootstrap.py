"""Intervals: how far a figure, or the difference of two, would move with other queries.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_BLOCK_DRAWS = 4_194_304


class Interval(NamedTuple):
    """A figure, and between which values it lies with the given confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]'


def bootstrap(
    values: Float[np.ndarray, ' q'], n_draws: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of the values and its percentile interval, from draws of the values with replacement.

    Args:
        values: One a query (or text, or pair); NaN is left out.
        n_draws: How many sets are drawn.
        confidence: The share of the draws inside the interval.
        seed: Of the draws.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    return _interval(float(values.mean()), _means(values, n_draws, seed), confidence)


def paired_bootstrap(
    ours: Float[np.ndarray, ' q'],
    theirs: Float[np.ndarray, ' p'],  # as many, checked below
    n_draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of ours - theirs and its interval; every draw takes the same queries of both.

    An interval above 0 says that ours is better than chance explains.

    Args:
        ours: A figure of each query (or text, or pair).
        theirs: The same of another system, for the same queries in the same order; where either is NaN, the query is
            left out.

    Raises:
        ValueError: They are not as many.
    """
    if len(ours) != len(theirs):
        raise ValueError(f'{len(ours)} figures are compared with {len(theirs)}; give those of the same queries')
    return bootstrap(ours - theirs, n_draws, confidence, seed)


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float], n: int, n_draws: int = 1_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """A figure that is no mean (a correlation, an average precision) and its interval.

    Args:
        statistic: The figure of the texts of these indices; NaN where it is not defined, and the draw is left out.
        n: How many texts there are.
    """
    generator = np.random.default_rng(seed)
    draws = np.array([statistic(generator.integers(0, n, n)) for _ in range(n_draws)])
    return _interval(statistic(np.arange(n)), draws[~np.isnan(draws)], confidence)


def _means(values: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    """The mean of each draw; as many draws at a time as a block of memory holds."""
    generator = np.random.default_rng(seed)
    n_each = max(1, _BLOCK_DRAWS // len(values))
    parts = []
    for first in range(0, n_draws, n_each):
        drawn = generator.integers(0, len(values), (min(n_each, n_draws - first), len(values)))
        parts.append(values[drawn].mean(axis=1))
    return np.concatenate(parts)


def _interval(value: float, draws: np.ndarray, confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise ValueError(f'confidence is {confidence}; give a share between 0 and 1')
    if not len(draws):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))
