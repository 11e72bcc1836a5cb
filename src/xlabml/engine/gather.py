"""What the ranks of a run have, brought together."""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor


class RankGather:
    """Gathers over the ranks of a trainer; each rank calls each function as often, in the same order.

    Args:
        trainer: Its strategy brings the values together.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer = trainer

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        strategy = self.trainer.strategy
        return strategy.reduce(values.to(strategy.root_device), reduce_op='sum')

    def everything(self, values: Any) -> list[Any]:
        """What every rank has, in the order of the ranks."""
        if self.trainer.world_size == 1:
            return [values]
        gathered: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, values)
        return gathered
