"""Weights that are no numbers: which, and how many values, for whoever is about to use them."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from xlabml.errors import CheckpointError

_MAX_NAMED = 5


def find_nonfinite(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """How many values of each of some tensors are NaN or infinite; those that have none are left out.

    One pass over them; what is not of floating point is finite.
    """
    found = {}
    for name, tensor in weights.items():
        tensor = tensor.detach()
        if tensor.is_floating_point() and tensor.numel():
            low, high = tensor.aminmax()  # both are NaN where one value is
            if not math.isfinite(float(low) - float(high)):
                found[name] = tensor.numel() - int(torch.isfinite(tensor).sum())
    return {name: n for name, n in found.items() if n}


def describe_nonfinite(found: Mapping[str, int]) -> str:
    """What `find_nonfinite` found, for people."""
    named = ', '.join(f'{name} ({n:,})' for name, n in list(found.items())[:_MAX_NAMED])
    more = len(found) - _MAX_NAMED
    return f'{sum(found.values()):,} values in {named}' + (f' and {more:,} more tensors' if more > 0 else '')


def require_finite(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise ValueError if weights from a file are NaN or infinite, and name them."""
    found = find_nonfinite(weights)
    if found:
        raise CheckpointError(
            f'the weights in {path} are not finite (NaN or infinity): {describe_nonfinite(found)}; nothing that they '
            'compute means anything: take a checkpoint from before the run diverged'
        )
