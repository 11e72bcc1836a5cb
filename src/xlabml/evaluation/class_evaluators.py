"""Evaluators of classifiers: what all ranks have of a split, in one order, and the figures of it.

Figures that are no sums need all examples at once; these are gathered, and put in the order of their documents, so
that batch size and device count change nothing.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xlabml.batches import Batch

from .bootstrap import mean_interval
from .calibration import Reliability, perfect_ece, reliability
from .classification import (
    Labels,
    as_classes,
    binary_log_losses,
    brier_scores,
    confusion_matrix,
    is_correct,
    log_losses,
    multi_label_auroc,
    multi_label_report,
    one_vs_rest_auroc,
    report_of,
)
from .evaluator import Evaluator, Gather
from .ranks import spearman
from .regression import mean_absolute_error, rmse


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


class ClassEvaluator(CalibratedEvaluator):
    """Figures of one class an example: log loss first.

    Args:
        calibrator: As in the base.
        is_ordinal: Whether the classes have an order: how far a prediction is off counts too.
        class_counts: Training examples of each class: what their shares alone would reach is reported beside; None: it
            is not known.

    Attributes:
        confusion: Of the last evaluation: rows are labels, columns predictions; None before the first.
        reliability: Confidence against accuracy in the last evaluation.
        figures: Of the last evaluation.
    """

    kind: ClassVar[str] = 'single-label'

    def __init__(
        self,
        calibrator: Calibrator | None = None,
        is_ordinal: bool = False,
        class_counts: Sequence[float] | None = None,
    ) -> None:
        super().__init__(calibrator)
        self.is_ordinal = is_ordinal
        self.class_counts = class_counts
        self.figures: dict[str, float] = {}
        self.confusion: Int[Tensor, 'k k'] | None = None
        self.reliability: Reliability | None = None
        self._covered: Float[Tensor, ' e'] | None = None
        self._answered: Float[Tensor, ' e'] | None = None

    def names(self) -> list[str]:
        names = ['loss', 'loss_low', 'loss_high', 'accuracy', 'accuracy_low', 'accuracy_high', 'macro_f1', 'auroc']
        names += ['brier', 'ece', 'perfect_ece']
        if self.is_ordinal:
            names += ['class_error', 'spearman']
        if self.class_counts is not None:
            names += ['majority_loss', 'majority_accuracy']
        if self.calibrator is not None:
            names += ['uncalibrated_loss', 'uncalibrated_ece', 'set_coverage', 'set_size']
            names += ['answered', 'answered_accuracy']
        return names

    def probabilities(self, logits: Float[Tensor, 'e k']) -> Float[Tensor, 'e k']:
        return logits.softmax(-1)

    def evaluate(self, examples: Examples) -> dict[str, float]:
        labels = examples.labels
        logits, sets, answers = self.calibrate(examples)
        self.outputs = logits
        probs = self.probabilities(logits)
        classes = as_classes(labels)
        correct = is_correct(probs, labels)
        loss = mean_interval(log_losses(logits.log_softmax(-1), labels))
        accuracy = mean_interval(correct)
        self.confusion = confusion_matrix(probs.argmax(-1), classes, probs.size(1))
        self.reliability = _reliability(probs, labels)
        figures = {
            **_interval('loss', *loss),
            **_interval('accuracy', *accuracy),
            'macro_f1': report_of(self.confusion).macro_f1,
            'auroc': one_vs_rest_auroc(probs, classes),
            'brier': float(brier_scores(probs, labels).mean()),
            'ece': self.reliability.ece,
            'perfect_ece': perfect_ece(probs.max(-1).values),
        }
        if self.is_ordinal:
            expected = probs @ torch.arange(probs.size(1), dtype=probs.dtype)
            figures['class_error'] = mean_absolute_error(probs.argmax(-1).to(torch.float64), classes)
            figures['spearman'] = spearman(expected, classes)
        if self.class_counts is not None:
            figures |= majority_figures(self.class_counts, labels)
        if sets is not None and answers is not None:
            before = self.probabilities(examples.logits)
            figures['uncalibrated_loss'] = float(log_losses(examples.logits.log_softmax(-1), labels).mean())
            figures['uncalibrated_ece'] = _reliability(before, labels).ece
            self._covered = sets.gather(1, classes[:, None])[:, 0].to(torch.float64)
            self._answered = answers.to(torch.float64)
            figures['set_coverage'] = float(self._covered.mean())
            figures['set_size'] = float(sets.sum(1).to(torch.float64).mean())
            figures['answered'] = float(self._answered.mean())
            figures['answered_accuracy'] = float(correct[answers].mean())
        self.figures = figures
        return figures

    def report(self, classes: list[str]) -> list[str]:
        """The last evaluation class by class, and what is to be doubted in it, for people; [] before the first."""
        if self.confusion is None:
            return []
        found = report_of(self.confusion)
        lines = found.describe(classes)
        predicted = [name for name, n in zip(classes, found.n_predicted.tolist()) if n]
        if len(predicted) == 1 and len(classes) > 1:
            lines.append(
                f'every example was predicted to be {predicted[0]!r}: the classifier has collapsed to one class'
            )
        if self.figures.get('loss_high', 0.0) >= self.figures.get('majority_loss', float('inf')):
            lines.append(
                "the loss is not clearly below that of the classes' shares in the training split "
                f'({self.figures["majority_loss"]:.4f})'
            )
        return lines + self._broken_promises()

    def _broken_promises(self) -> list[str]:
        """A line for each ratio that was asked for and is clearly another one here.

        Sets may hold more than was asked for: the most probable class is always in them.
        """
        calibrator = self.calibrator
        if calibrator is None or self._covered is None or self._answered is None:
            return []
        lines = []
        for held, asked, what, may_be_more in (
            (self._covered, calibrator.set_coverage, 'the sets of classes hold the true one of', True),
            (self._answered, calibrator.answered, 'an answer is given to', False),
        ):
            found = mean_interval(held)
            if found.high < asked or (found.low > asked and not may_be_more):
                lines.append(
                    f'{what} {found.value:.1%} [{found.low:.1%}, {found.high:.1%}] of the examples, where {asked:.0%} '
                    'was asked for: what is fitted on the validation split does not hold for these'
                )
        return lines


class MultiLabelEvaluator(CalibratedEvaluator):
    """Figures of classes of which an example may have several, or none.

    `loss` is the binary cross-entropy a class; `accuracy` counts examples of which all classes are right. Calibration
    error is that of all yes-or-no answers, each by the probability of what it says.
    """

    kind: ClassVar[str] = 'multi-label'

    def names(self) -> list[str]:
        names = ['loss', 'loss_low', 'loss_high', 'accuracy', 'micro_f1', 'macro_f1', 'auroc', 'brier']
        names += ['ece', 'perfect_ece']
        return names if self.calibrator is None else [*names, 'uncalibrated_loss', 'uncalibrated_ece']

    def probabilities(self, logits: Float[Tensor, 'e k']) -> Float[Tensor, 'e k']:
        return logits.sigmoid()

    def evaluate(self, examples: Examples) -> dict[str, float]:
        labels = examples.labels
        logits, _, _ = self.calibrate(examples)
        self.outputs = logits
        probs = self.probabilities(logits)
        report = multi_label_report(probs, labels)
        n_both = (report.recall * report.n_labels).sum()
        figures = {
            **_interval('loss', *mean_interval(binary_log_losses(logits, labels))),
            'accuracy': float(((probs >= 0.5) == (labels >= 0.5)).all(1).to(torch.float64).mean()),
            'micro_f1': float(2 * n_both / (report.n_labels + report.n_predicted).sum().clamp(min=1)),
            'macro_f1': report.macro_f1,
            'auroc': multi_label_auroc(probs, labels),
            'brier': float((probs - labels).square().mean()),
            'ece': _binary_reliability(probs, labels).ece,
            'perfect_ece': perfect_ece(_said(probs)),
        }
        if self.calibrator is not None:
            figures['uncalibrated_loss'] = float(binary_log_losses(examples.logits, labels).mean())
            figures['uncalibrated_ece'] = _binary_reliability(self.probabilities(examples.logits), labels).ece
        return figures


class RegressionEvaluator(ExampleEvaluator):
    """Figures of one predicted number an example, in the unit of the labels; nothing is calibrated."""

    kind: ClassVar[str] = 'regression'

    def names(self) -> list[str]:
        return ['loss', 'loss_low', 'loss_high', 'rmse', 'mean_absolute_error', 'spearman']

    def evaluate(self, examples: Examples) -> dict[str, float]:
        self.outputs = self.mix_by_halves(examples)
        predicted = self.outputs[:, 0]
        labels = examples.labels.view(-1).to(torch.float64)
        return {
            **_interval('loss', *mean_interval((predicted - labels).square())),
            'rmse': rmse(predicted, labels),
            'mean_absolute_error': mean_absolute_error(predicted, labels),
            'spearman': spearman(predicted, labels),
        }


def majority_figures(train_counts: Sequence[float], labels: Labels) -> dict[str, float]:
    """The log loss and accuracy of always answering with the classes' shares of the training split.

    Args:
        train_counts: Examples of each class in the training split; a class of none counts as one half.
        labels: Of the evaluation.
    """
    counts = torch.tensor(train_counts, dtype=torch.float64).clamp(min=0.5)
    probs = (counts / counts.sum()).expand(len(labels), -1)
    return {
        'majority_loss': float(log_losses(probs.log(), labels).mean()),
        'majority_accuracy': float(is_correct(probs, labels).mean()),
    }


def _odd(examples: Examples) -> Bool[Tensor, ' e']:
    """Every other example: a half that follows from their order."""
    return torch.arange(len(examples.logits)) % 2 == 1


def _joined(parts: Sequence[Tensor | None], order: Tensor) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known)[order].to(torch.float64) if known else None


def _interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f'{name}_low': low, f'{name}_high': high}


def _reliability(probs: Float[Tensor, 'e k'], labels: Labels) -> Reliability:
    confidence, predicted = probs.max(-1)
    if labels.is_floating_point():
        correct = labels.to(torch.float64).gather(1, predicted[:, None])[:, 0]
    else:
        correct = (predicted == labels).to(torch.float64)
    return reliability(confidence, correct)


def _said(probs: Float[Tensor, 'e k']) -> Float[Tensor, ' ek']:
    """The probability of what each yes or no says."""
    return torch.maximum(probs, 1 - probs).flatten()


def _binary_reliability(probs: Float[Tensor, 'e k'], labels: Float[Tensor, 'e k']) -> Reliability:
    is_right = torch.where(probs >= 0.5, labels.to(torch.float64), 1 - labels.to(torch.float64))
    return reliability(_said(probs), is_right.flatten())
