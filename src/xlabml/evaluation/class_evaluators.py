"""Evaluators of classifiers: the figures of one class, of several, and of a number."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .bootstrap import mean_interval
from .calibration import Reliability, class_reliability, perfect_ece, reliability
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
from .example_evaluator import CalibratedEvaluator, Calibrator, ExampleEvaluator, Examples
from .ranks import spearman
from .regression import mean_absolute_error, rmse


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
        self.reliability = class_reliability(probs, labels)
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
            figures['uncalibrated_ece'] = class_reliability(before, labels).ece
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
        """A line for each ratio that was set and is clearly another one here.

        Sets may hold more than was set: the most probable class is always in them.
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


def _interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f'{name}_low': low, f'{name}_high': high}


def _said(probs: Float[Tensor, 'e k']) -> Float[Tensor, ' ek']:
    """The probability of what each yes or no says."""
    return torch.maximum(probs, 1 - probs).flatten()


def _binary_reliability(probs: Float[Tensor, 'e k'], labels: Float[Tensor, 'e k']) -> Reliability:
    is_right = torch.where(probs >= 0.5, labels.to(torch.float64), 1 - labels.to(torch.float64))
    return reliability(_said(probs), is_right.flatten())
