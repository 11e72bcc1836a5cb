"""Bootstrap intervals: how far a figure may be off because the examples are those of a sample.

Source: Efron 1979, https://doi.org/10.1214/aos/1176344552; percentile intervals. All of it follows from the seed.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

N_DRAWS = 1000
LEVEL = 0.95
_MAX_INDICES = 1 << 22
"""Indices that are held at a time."""


class Interval(NamedTuple):
    """A figure and the interval that it lies in.

    Args:
        value: Over all examples.
        low: The lower end.
        high: The upper end.
    """

    value: float
    low: float
    high: float


def mean_interval(
    values: Float[Tensor, ' e'],
    groups: Int[Tensor, ' e'] | None = None,
    n_draws: int = N_DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """The mean of one value an example.

    Args:
        values: Of each example, in an order that is the same for any batch size and device count.
        groups: The group of each example (its prompt, its source): groups are drawn whole, since what is in one is
            alike. None: each example is drawn alone.
        n_draws: How many times as many examples (or groups) are drawn, with replacement.
        level: Of the interval, 0..1.
        seed: Of the drawings.
    """
    wide = values.to('cpu', torch.float64)
    counts = torch.ones_like(wide)
    if groups is not None:
        _, member = torch.unique(groups.cpu(), return_inverse=True)
        wide = torch.bincount(member, wide)
        counts = torch.bincount(member).to(torch.float64)
    if not wide.numel():
        return Interval(math.nan, math.nan, math.nan)
    means = [wide[drawn].sum(1) / counts[drawn].sum(1) for drawn in _draws(wide.numel(), n_draws, seed)]
    return _interval(float(wide.sum() / counts.sum()), torch.cat(means), level)


def paired_interval(
    ours: Float[Tensor, ' e'],
    theirs: Float[Tensor, ' f'],
    groups: Int[Tensor, ' e'] | None = None,
    n_draws: int = N_DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """The mean difference of two systems on the same examples: far narrower than the intervals of both.

    Args:
        ours: One value an example, of one system.
        theirs: Those of the other, for the same examples in the same order.
        groups: As in `mean_interval`, like all that follow.
        n_draws: How many drawings.
        level: Of the interval.
        seed: Of the drawings.

    Raises:
        ValueError: They have different numbers of examples.
    """
    if ours.numel() != theirs.numel():
        raise ValueError(f'{ours.numel()} examples cannot be paired with {theirs.numel()}; evaluate both on the same')
    return mean_interval(ours.to(torch.float64) - theirs.to(torch.float64), groups, n_draws, level, seed)


def statistic_interval(
    statistic: Callable[[Int[Tensor, ' e']], float],
    n_examples: int,
    n_draws: int = N_DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A figure that is no mean (F1, AUROC, Spearman), computed anew for each drawing.

    Args:
        statistic: The figure of the examples of some indices, of which some come several times. For two systems, it
            returns their difference.
        n_examples: How many examples there are.
        n_draws: As in `mean_interval`, like all that follow. Drawings whose figure is nan are left out.
        level: Of the interval.
        seed: Of the drawings.
    """
    if not n_examples:
        return Interval(math.nan, math.nan, math.nan)
    found = [statistic(drawn) for some in _draws(n_examples, n_draws, seed) for drawn in some]
    drawn = torch.tensor(found, dtype=torch.float64)
    return _interval(statistic(torch.arange(n_examples)), drawn[~drawn.isnan()], level)


def _draws(n: int, n_draws: int, seed: int) -> Iterator[Int[Tensor, 'draws e']]:
    """n indices below n, n_draws times, some drawings at a time."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _MAX_INDICES // n)
    for start in range(0, n_draws, at_once):
        yield torch.randint(n, (min(at_once, n_draws - start), n), generator=generator)


def _interval(value: float, drawn: Float[Tensor, ' draws'], level: float) -> Interval:
    if not drawn.numel():
        return Interval(value, math.nan, math.nan)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = torch.quantile(drawn, torch.tensor(ends, dtype=drawn.dtype)).tolist()
    return Interval(value, low, high)
