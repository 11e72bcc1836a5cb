"""What evaluates: figures of a split, from the outputs of its batches, gathered over all ranks."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from xlabml.batches import Batch


class Monitor(NamedTuple):
    """The figure that says which checkpoint is the best.

    Args:
        name: Its name, `val_` included.
        mode: Whether a smaller or a larger figure is better.
    """

    name: str
    mode: Literal['min', 'max']


@runtime_checkable
class Gather(Protocol):
    """Brings together what the ranks have; every rank calls each function as often, in the same order."""

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""

    def everything(self, values: Any) -> list[Any]:
        """What every rank has, in the order of the ranks."""


class Evaluator(ABC):
    """Figures of an evaluation: `start`, `update` with every batch's outputs, `result` on all ranks at its end.

    Attributes:
        has_own_examples: Whether it evaluates on `examples` of its own, not on those of the split.
    """

    has_own_examples: bool = False

    @property
    def primary(self) -> Monitor | None:
        """The figure that this evaluator would choose checkpoints by; None: none."""
        return None

    @abstractmethod
    def names(self) -> list[str] | None:
        """The names of the figures, without `val_` or `test_`; None: they are known after an evaluation only."""

    def examples(self, data: Any) -> Any:
        """The examples to evaluate on, where `has_own_examples`.

        Args:
            data: The data module.
        """
        raise NotImplementedError(f'{type(self).__name__} brings no examples of its own')

    @abstractmethod
    def start(self) -> None:
        """Forget all batches."""

    @abstractmethod
    def update(self, outputs: Any, batch: Batch) -> None:
        """Take in a batch.

        Args:
            outputs: What `Task.outputs` returns for it.
        """

    @abstractmethod
    def result(self, gather: Gather) -> dict[str, float]:
        """The figures over all batches of all ranks."""

    @property
    def n_counted(self) -> int:
        """How much the last evaluation counted, over all ranks; 0 where this evaluator does not count."""
        return 0
