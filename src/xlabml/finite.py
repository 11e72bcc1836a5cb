"""Find weights that are NaN or infinite, before they are used."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from xlabml.errors import CheckpointError

_MAX_NAMED = 5


def find_nonfinite(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of NaN or infinite values of each tensor that has some.

    One pass over the tensors; those that are not floating-point are finite.
    """
    found = {}
    for name, tensor in weights.items():
        tensor = tensor.detach()
        if tensor.is_floating_point() and tensor.numel():
            low, high = tensor.aminmax()  # both are NaN if any value is
            if not math.isfinite(float(low) - float(high)):
                found[name] = tensor.numel() - int(torch.isfinite(tensor).sum())
    return {name: n for name, n in found.items() if n}


def describe_nonfinite(found: Mapping[str, int]) -> str:
    """The result of `find_nonfinite`, for people."""
    named = ', '.join(f'{name} ({n:,})' for name, n in list(found.items())[:_MAX_NAMED])
    more = len(found) - _MAX_NAMED
    return f'{sum(found.values()):,} values in {named}' + (f' and {more:,} more tensors' if more > 0 else '')


def require_finite(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise ValueError, naming the weights, if weights from a file are NaN or infinite."""
    found = find_nonfinite(weights)
    if found:
        raise CheckpointError(
            f'the weights in {path} are not finite (NaN or infinity): {describe_nonfinite(found)}; take a checkpoint '
            'from before the run diverged'
        )
