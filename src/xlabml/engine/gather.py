"""Gather values over the ranks of a run."""

from typing import TypeVar

import lightning.pytorch as L
import torch
from torch import Tensor

_T = TypeVar('_T')


class RankGather:
    """Gathers over the ranks of a trainer; all ranks make the same calls in the same order.

    Args:
        trainer: The trainer whose strategy communicates.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer = trainer

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        strategy = self.trainer.strategy
        return strategy.reduce(values.to(strategy.root_device), reduce_op='sum')

    def everything(self, values: _T) -> list[_T]:
        """The values of every rank, in the order of the ranks."""
        if self.trainer.world_size == 1:
            return [values]
        gathered = [values] * self.trainer.world_size  # each is overwritten
        torch.distributed.all_gather_object(gathered, values)
        return gathered
