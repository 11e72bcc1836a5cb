"""The base class of evaluators: figures of a split, from the outputs of its batches, gathered over all ranks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from xlabml.batches import Batch


class Monitor(NamedTuple):
    """The figure that ranks checkpoints.

    Args:
        name: Its name, `val_` included.
        mode: Whether a smaller or a larger figure is better.
    """

    name: str
    mode: Literal['min', 'max']


TextScores: TypeAlias = Callable[[Float[Tensor, 'q w'], Float[Tensor, 'n w']], Float[Tensor, 'q n']]
"""How near each document is to each query, of texts that are several vectors each (late interaction)."""

_T = TypeVar('_T')


@runtime_checkable
class Gather(Protocol):
    """Gathers values over the ranks; all ranks make the same calls in the same order."""

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""

    def everything(self, values: _T) -> list[_T]:
        """The values of every rank, in the order of the ranks."""


class Evaluator(ABC):
    """Figures of an evaluation: `start`, `update` with the outputs of each batch, `result` on all ranks at the end.

    Attributes:
        has_own_examples: Whether it evaluates on its own `examples`, not on those of the split.
        needs_nats: Of a task of tokens, whether it needs the negative log-likelihood of each target.
        needs_entropy: Of such a task, whether it also needs the entropy of the distribution of each target.
    """

    has_own_examples: bool = False
    needs_nats: bool = False
    needs_entropy: bool = False

    @property
    def primary(self) -> Monitor | None:
        """The figure by which this evaluator ranks checkpoints; None: none."""
        return None

    @abstractmethod
    def names(self) -> list[str] | None:
        """The names of the figures, without `val_` or `test_`; None: unknown before an evaluation."""

    def examples(self, data: Any) -> Any:
        """The examples to evaluate on, where `has_own_examples`.

        Args:
            data: The data module.
        """
        raise NotImplementedError(f'{type(self).__name__} brings no examples of its own')

    def open(self) -> None:  # noqa: B027  # most read nothing
        """Read the files that it needs; called before work starts.

        Raises:
            ValueError: They are not there, or cannot be used.
        """

    def compare_by(self, scores: TextScores) -> None:  # noqa: B027  # most compare no vectors
        """Told how texts are compared where each is several vectors.

        Raises:
            SettingsError: It compares single vectors only.
        """

    def outputs_of(self, task: Any, batch: Batch) -> Any:
        """The input of `update` for a batch of its own examples; by default that of the other evaluators."""
        return task.outputs(batch)

    @abstractmethod
    def start(self) -> None:
        """Begin an evaluation, without earlier batches."""

    def reads(self, batch: Batch) -> bool:
        """Whether a batch is of the kind that it evaluates; of several formats, the others are not handed to it."""
        return True

    @abstractmethod
    def update(self, outputs: Any, batch: Batch) -> None:
        """Add a batch.

        Args:
            outputs: The result of `Task.outputs` for it.
        """

    @abstractmethod
    def result(self, gather: Gather) -> dict[str, float]:
        """The figures over all batches of all ranks."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Plain values that the last validation has found, for the checkpoints that are saved behind it, by name."""
        return {}

    @property
    def n_counted(self) -> int:
        """The count of the last evaluation (targets, examples …), over all ranks; 0 where there is none."""
        return 0
