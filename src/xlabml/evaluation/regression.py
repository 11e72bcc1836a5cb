"""Figures of predicted numbers."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def rmse(predicted: Float[Tensor, ' e'], labels: Shaped[Tensor, ' e']) -> float:
    """The root of the mean squared error, in the unit of the labels; nan without examples."""
    if not labels.numel():
        return math.nan
    return float((predicted.to(torch.float64) - labels.to(torch.float64)).square().mean().sqrt())


def mean_absolute_error(predicted: Float[Tensor, ' e'], labels: Shaped[Tensor, ' e']) -> float:
    """The mean distance, in the unit of the labels; nan without examples."""
    if not labels.numel():
        return math.nan
    return float((predicted.to(torch.float64) - labels.to(torch.float64)).abs().mean())
