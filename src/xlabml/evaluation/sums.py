"""Sums over examples, micro-batches and ranks, from which training and evaluation take means: never means of means."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Sums(NamedTuple):
    """The sums of a batch.

    Args:
        objective: The sum of the loss, with its gradient.
        count: The number of its terms (targets, pairs, examples). The objective of a step is divided by the count of
            the whole step, `Batch.n_counted`.
        named: Further sums for the curves, by name, without gradient.
    """

    objective: Float[Tensor, '']
    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    named: Mapping[str, Tensor]

    def stack(self) -> Float[Tensor, ' sums']:
        """The named sums and the count, in one tensor without gradient."""
        values = [*self.named.values(), self.count]
        return torch.stack([value.detach().to(precise(value.device)) for value in values])

    @property
    def names(self) -> list[str]:
        """The names of the entries of `stack`."""
        return [*self.named, 'count']


def precise(device: torch.device) -> torch.dtype:
    """The dtype of sums: float64, which Apple's GPUs do not have."""
    return torch.float32 if device.type == 'mps' else torch.float64
