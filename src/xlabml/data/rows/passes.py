"""Passes: once through what a run reads, an epoch of stores, a stretch of a mixture, or a window of a stream."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from xlabml.data.order import Mixture, Place, permute

from .formats import Examples


class Passes(ABC):
    """What a run reads, pass after pass, each in an order of its own.

    Attributes:
        n_each: How many examples every pass has; None: they differ, or it is not known before a pass is opened.
        unit: Examples that come together, in one step: every pass has a multiple of it, and nothing may cut one.
    """

    n_each: int | None = None
    unit: int = 1

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short name for the examples."""

    @abstractmethod
    def n_rows(self, pass_index: int) -> int:
        """How many examples a pass has.

        Raises:
            ValueError: It cannot be found out, or no pass has an example.
        """

    @abstractmethod
    def open(self, pass_index: int) -> Examples:
        """The examples of a pass that has some."""

    @abstractmethod
    def order(self, pass_index: int, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        """The numbers of the examples at these places of a pass's order."""

    def order_throughout(self, index: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        """The same at places of the endless sequence of all passes; every pass has to have as many examples."""
        assert self.n_each is not None
        pass_index, places = np.divmod(index, self.n_each)
        found = np.empty(len(index), np.int64)
        for one in np.unique(pass_index).tolist():
            here = pass_index == one
            found[here] = self.order(one, places[here])
        return found

    def at_steps(
        self, pass_index: int, numbers: Int64[np.ndarray, ' rows'], steps: Int64[np.ndarray, ' rows']
    ) -> Int64[np.ndarray, ' rows']:
        """The numbers of the examples that are read in place of some, where that depends on the step.

        Args:
            numbers: As `order` returned them.
            steps: The optimizer steps made before each is read.
        """
        return numbers

    def end_at(self, n_steps: int | None) -> None:  # noqa: B027  # most do not depend on it
        """Told where the run ends; None: only a clock ends it.

        Raises:
            SettingsError: What is read depends on it.
        """

    def figures(self, pass_index: int) -> dict[str, float]:
        """Figures of the examples of a pass, for the curves, by name."""
        return {}

    @abstractmethod
    def name(self, document: int) -> str:
        """A document's name for people, by the number that a batch has for it."""

    def sources(self, pass_index: int) -> list[int] | None:
        """The source of each store of a pass; None: each store is a source, in their order."""
        return None

    @abstractmethod
    def epochs(self, end: Place) -> Sequence[float | None]:
        """How often each source is read before a place; None where it is not known yet."""

    def memory(self, place: Place) -> dict[str, Any]:
        """Plain values that a checkpoint holds so that another run finds a place without reading what is before it."""
        return {}

    def recall(self, state: Mapping[str, object]) -> None:  # noqa: B027  # most have nothing to take up
        """Take up what `memory` returned, from among the values of a checkpoint."""


class Epochs(Passes):
    """The same examples over and over, permuted anew each time.

    Args:
        examples: Those of a split.
        seed: The seed of the orders.

    Raises:
        ValueError: There are none.
    """

    def __init__(self, examples: Examples, seed: int) -> None:
        if not len(examples):
            raise ValueError('there is no row to train on; give the split train more documents')
        self.examples = examples
        self.seed = seed
        self.n_each = len(examples)

    @property
    def fingerprint(self) -> str:
        return self.examples.fingerprint

    def n_rows(self, pass_index: int) -> int:
        return len(self.examples)

    def open(self, pass_index: int) -> Examples:
        return self.examples

    def order(self, pass_index: int, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        return permute(places, len(self.examples), self.seed, pass_index)

    def name(self, document: int) -> str:
        return self.examples.name(document)

    def epochs(self, end: Place) -> Sequence[float | None]:
        n_sources = len(self.examples.source_starts) - 1
        return [end.pass_index + end.row / len(self.examples)] * n_sources


class Mixed(Epochs):
    """Examples of several sources by weight; a pass is a period of the mixture.

    Args:
        examples: Those of a split.
        seed: The seed of each source's orders.
        mixture: Which source each example is from.
    """

    def __init__(self, examples: Examples, seed: int, mixture: Mixture) -> None:
        super().__init__(examples, seed)
        self.mixture = mixture
        self.n_each = mixture.period

    def n_rows(self, pass_index: int) -> int:
        return self.mixture.period

    def order(self, pass_index: int, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        return self.mixture.rows(pass_index * self.mixture.period + places, self.seed)

    def epochs(self, end: Place) -> Sequence[float | None]:
        return self.mixture.epochs(end.pass_index * self.mixture.period + end.row)
