"""Figures of orders: ranks that share ties, the area under the ROC curve, Spearman's correlation."""

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def average_ranks(values: Shaped[Tensor, ' e']) -> Float[Tensor, ' e']:
    """The rank of each value, from 1; equal values share the mean of theirs."""
    _, group, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).to(torch.float64)
    return (last - (counts.to(torch.float64) - 1) / 2)[group]


def auroc(scores: Shaped[Tensor, ' e'], is_positive: Bool[Tensor, ' e']) -> float:
    """The probability that a positive example has a larger score than a negative one; a tie counts a half.

    Source: Mann & Whitney 1947, https://doi.org/10.1214/aoms/1177730491; Hanley & McNeil 1982.

    Returns:
        0..1; nan where one of the two kinds is absent, or a score is NaN.
    """
    n_positive = int(is_positive.sum())
    n_negative = is_positive.numel() - n_positive
    if not n_positive or not n_negative or scores.isnan().any():
        return math.nan
    rank_sum = float(average_ranks(scores)[is_positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def spearman(x: Shaped[Tensor, ' e'], y: Shaped[Tensor, ' e']) -> float:
    """Spearman's rank correlation; nan where the values of one side are all the same, or one is NaN."""
    if x.isnan().any() or y.isnan().any():
        return math.nan
    return pearson(average_ranks(x), average_ranks(y))


def pearson(x: Shaped[Tensor, ' e'], y: Shaped[Tensor, ' e']) -> float:
    """Pearson's correlation; nan where the values of one side are all the same."""
    if not x.numel():
        return math.nan
    x = x.to(torch.float64) - x.to(torch.float64).mean()
    y = y.to(torch.float64) - y.to(torch.float64).mean()
    spread = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / spread if spread > 0 else math.nan
