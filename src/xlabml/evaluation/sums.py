"""Sums that training and evaluation add up: over examples, micro-batches and ranks, never a mean of means."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Sums(NamedTuple):
    """What a task computes of a batch.

    Args:
        objective: The sum that the optimizer lowers, with its gradient: of the loss over what is counted.
        count: Over how much it sums (targets, pairs, examples): the objective of a step is divided by the count of the
            whole step, which the batch knows.
        named: Further sums for the curves, by name; they carry no gradient.
    """

    objective: Float[Tensor, '']
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs of sums
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
    """The dtype in which sums are kept: Apple's GPUs have no float64."""
    return torch.float32 if device.type == 'mps' else torch.float64
