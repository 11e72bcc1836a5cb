"""The base of evaluators of classifiers: all examples of a split, from all ranks, in the order of their documents.

Figures that are no sums need all examples at once; in that order batch size and device count change nothing. What is
calibrated, or mixed with another model, is fitted here.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xlabml.batches import Batch

from .classification import Labels
from .evaluator import Evaluator, Gather


class ExampleOutputs(NamedTuple):
    """What a classifier computes of the examples of a batch.

    Args:
        logits: Those of the classes, before calibration; of a regression, the predicted number in one column.
        labels: Of each example its class, or a number for each column.
        weights: 0 leaves an example out; all others count alike.
        documents: The number of its document, which no other example of the split has; -1: padding, left out.
        orders: Of preferences, the logits by each order of the answers; None: of others.
        beside: The outputs of another model that these are mixed with; None: of none.
    """

    logits: Float[Tensor, 'e k']
    labels: Labels
    weights: Float[Tensor, ' e']
    documents: Int[Tensor, ' e']
    orders: Float[Tensor, 'e 2 k'] | None = None
    beside: Float[Tensor, 'e k'] | None = None


@runtime_checkable
class Calibrator(Protocol):
    """What makes logits that can be trusted of those of a network, fitted on a validation split.

    Attributes:
        set_coverage: How often the set of an example is to hold its class, 0..1.
        answered: Of how many examples the answer is to be given, 0..1.
    """

    set_coverage: float
    answered: float

    def fit(self, logits: Tensor, labels: Tensor) -> None:
        """Fit on logits (e, k) and labels (e,) or (e, k), and keep what was found."""

    def logits(self, logits: Tensor) -> Tensor:
        """Calibrated logits."""

    def sets(self, probs: Tensor) -> Tensor:
        """For each example and class, whether the class is in the example's set."""

    def answers(self, probs: Tensor) -> Tensor:
        """For each example, whether it is answered, and not abstained from."""


@runtime_checkable
class Blender(Protocol):
    """What mixes the outputs of a network with those of another model, fitted on a validation split."""

    def __call__(self, logits: Tensor, beside: Tensor) -> Tensor:
        """Both together."""

    def alone(self, logits: Tensor) -> Tensor:
        """Those of the network alone."""

    def fit(self, logits: Tensor, beside: Tensor, labels: Tensor) -> None:
        """Fit on outputs (e, k) of both and labels (e,) or (e, k), and keep what was found."""

    def soften(self, labels: Tensor) -> Tensor:
        """Labels as they are fitted to, by whatever is fitted to the mixture."""


class Examples(NamedTuple):
    """All examples of an evaluation, over all ranks, in the order of their documents.

    Args:
        logits: As in ExampleOutputs.
        labels: Likewise.
        documents: Likewise.
        orders: Likewise.
        beside: Likewise.
    """

    logits: Float[Tensor, 'e k']
    labels: Labels
    documents: Int[Tensor, ' e']
    orders: Float[Tensor, 'e 2 k'] | None = None
    beside: Float[Tensor, 'e k'] | None = None

    def at(self, is_in: Bool[Tensor, ' e']) -> 'Examples':
        """Some of them, on the CPU."""

        def pick(part: Tensor) -> Tensor:
            return part.detach()[is_in].cpu()

        orders = None if self.orders is None else pick(self.orders)
        beside = None if self.beside is None else pick(self.beside)
        return Examples(pick(self.logits), pick(self.labels), pick(self.documents), orders, beside)


NETWORK = 'network alone'
LINEAR = 'TF-IDF alone'
"""Both models of a mixture, by their names in a table."""

_Evaluated = TypeVar('_Evaluated', bound='ExampleEvaluator')


class ExampleEvaluator(Evaluator):
    """The base: gathers all examples.

    Attributes:
        kind: What the outputs mean: a task, as in SequenceClassifier.
        last: All examples of the last evaluation; None before the first.
        outputs: Their calibrated logits; of a regression, the predicted numbers.
        parts: Likewise, by name, of each model that they are mixed of; {}: of none.
        blender: Mixes the outputs with those beside them; None: they stand alone.
        fits: Whether an evaluation fits what is fitted on its examples. Its own figures are then those of a fit on the
            other half of the examples: what is fitted on an example flatters it.
    """

    kind: ClassVar[str]

    def __init__(self) -> None:
        self.blender: Blender | None = None
        self.fits = False
        self.last: Examples | None = None
        self.outputs: Tensor | None = None
        self.parts: dict[str, Tensor] = {}
        self._seen: list[Examples] = []

    @property
    def n_counted(self) -> int:
        return 0 if self.last is None else self.last.documents.numel()

    def start(self) -> None:
        self._seen = []

    def update(self, outputs: ExampleOutputs, batch: Batch) -> None:
        counts = (outputs.weights > 0) & (outputs.documents >= 0)
        if not outputs.labels.is_floating_point():
            counts = counts & (outputs.labels >= 0)
        logits, labels, _, documents, orders, beside = outputs
        self._seen.append(Examples(logits, labels, documents, orders, beside).at(counts))

    def result(self, gather: Gather) -> dict[str, float]:
        found = [some for rank in gather.everything(self._seen) for some in rank if some.documents.numel()]
        self._seen = []
        if not found:
            self.last = None
            self.outputs = None
            return dict.fromkeys(self.names() or [], float('nan'))
        order = torch.cat([some.documents for some in found]).argsort()
        self.last = Examples(
            torch.cat([some.logits for some in found])[order].to(torch.float64),
            torch.cat([some.labels for some in found])[order],
            torch.cat([some.documents for some in found])[order],
            _joined([some.orders for some in found], order),
            _joined([some.beside for some in found], order),
        )
        return self.evaluate(self.last)

    def mix(self, examples: Examples, fitted_on: Examples | None = None) -> Tensor:
        """The outputs of the examples, mixed with those beside them.

        Args:
            examples: To be mixed.
            fitted_on: What weights are fitted on before; None: they are as they were.
        """
        blender = self.blender
        if blender is None or examples.beside is None:
            return examples.logits
        if fitted_on is not None:
            assert fitted_on.beside is not None
            blender.fit(fitted_on.logits, fitted_on.beside, fitted_on.labels)
        return blender(examples.logits, examples.beside)

    def soften(self, labels: Tensor) -> Tensor:
        """Labels as they are fitted to."""
        return labels if self.blender is None else self.blender.soften(labels)

    def mix_by_halves(self, examples: Examples) -> Tensor:
        """As `mix`; while `fits`, with weights that are fitted on the other half, and then on all."""
        if not self.fits or self.blender is None:
            mixed = self.mix(examples)
        else:
            is_odd = _odd(examples)
            mixed = torch.empty_like(examples.logits)
            for here in (~is_odd, is_odd):
                mixed[here] = self.mix(examples.at(here), examples.at(~here))
            self.mix(examples, examples)
        self.keep_parts(examples)
        return mixed

    def keep_parts(self, examples: Examples) -> None:
        """Keep the outputs of both models."""
        self.parts = {}
        if self.blender is not None and examples.beside is not None:
            self.parts = {NETWORK: self.blender.alone(examples.logits), LINEAR: examples.beside}

    @abstractmethod
    def names(self) -> list[str]:
        """The names of the figures."""

    @abstractmethod
    def evaluate(self, examples: Examples) -> dict[str, float]:
        """The figures of at least one example, by the names of `names`."""


class CalibratedEvaluator(ExampleEvaluator):
    """The base where logits are calibrated.

    Args:
        calibrator: Fitted and applied; None: there is none.
    """

    def __init__(self, calibrator: Calibrator | None = None) -> None:
        super().__init__()
        self.calibrator = calibrator

    def calibrate(self, examples: Examples) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Calibrated logits; with a calibrator, also whether classes are in sets, and whether examples are answered."""
        calibrator = self.calibrator
        if calibrator is None:
            return self.mix_by_halves(examples), None, None
        if not self.fits:
            self.keep_parts(examples)
            return self._apply(calibrator, self.mix(examples))
        is_odd = _odd(examples)
        found = []
        for here in (~is_odd, is_odd):
            others = examples.at(~here)
            calibrator.fit(self.mix(others, others), self.soften(others.labels))
            found.append(self._apply(calibrator, self.mix(examples.at(here))))
        calibrator.fit(self.mix(examples, examples), self.soften(examples.labels))
        self.keep_parts(examples)
        order = is_odd.long().argsort(stable=True).argsort()
        logits, sets, answers = (torch.cat(parts)[order] for parts in zip(*found))
        return logits, sets, answers

    def _apply(self, calibrator: Calibrator, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        calibrated = calibrator.logits(logits)
        probs = self.probabilities(calibrated)
        return calibrated, calibrator.sets(probs), calibrator.answers(probs)

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """The probabilities that logits stand for."""


def _odd(examples: Examples) -> Bool[Tensor, ' e']:
    """Every other example: a half that follows from their order."""
    return torch.arange(len(examples.logits)) % 2 == 1


def _joined(parts: Sequence[Tensor | None], order: Tensor) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known)[order].to(torch.float64) if known else None
