"""Figures of class probabilities, as functions of all examples of an evaluation.

A label is a class, or a share of each class: what raters said, or a soft label. Classes are the columns of
probabilities, in their order. Everything is computed in float64, on any device.
"""

import math
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .ranks import auroc

Labels: TypeAlias = Int[Tensor, ' e'] | Float[Tensor, 'e k']


def as_shares(labels: Labels, n_classes: int) -> Float[Tensor, 'e k']:
    """Labels as a share of each class; that of a hard label is 1 for its class."""
    if labels.is_floating_point():
        return labels.to(torch.float64)
    return F.one_hot(labels.long(), n_classes).to(torch.float64)


def as_classes(labels: Labels) -> Int[Tensor, ' e']:
    """The class with the largest share, of several the first."""
    return labels.argmax(-1) if labels.is_floating_point() else labels.long()


def log_losses(log_probs: Float[Tensor, 'e k'], labels: Labels) -> Float[Tensor, ' e']:
    """The cross-entropy of each example in nats: infinite where a class that has a share has probability 0."""
    shares = as_shares(labels, log_probs.size(1))
    return -torch.where(shares > 0, shares * log_probs.to(torch.float64), 0.0).sum(1)


def brier_scores(probs: Float[Tensor, 'e k'], labels: Labels) -> Float[Tensor, ' e']:
    """The squared distance of each example's probabilities from its shares, 0..2.

    Source: Brier 1950, https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2: the sum over all classes;
    that of one of two classes is half of it.
    """
    return (probs.to(torch.float64) - as_shares(labels, probs.size(1))).square().sum(1)


def is_correct(probs: Float[Tensor, 'e k'], labels: Labels) -> Float[Tensor, ' e']:
    """1 where the most probable class is that with the largest share, else 0; of several the first."""
    return (probs.argmax(-1) == as_classes(labels)).to(torch.float64)


def confusion_matrix(predicted: Int[Tensor, ' e'], labels: Int[Tensor, ' e'], n_classes: int) -> Int[Tensor, 'k k']:
    """How many examples of each class (rows) were predicted to be of each class (columns)."""
    pairs = labels.long() * n_classes + predicted.long()
    return torch.bincount(pairs, minlength=n_classes * n_classes).view(n_classes, n_classes)


class ClassReport(NamedTuple):
    """Figures of each class. A ratio with nothing to divide by is 0.

    Args:
        precision: Of those predicted to be of the class, the ratio that is.
        recall: Of those of the class, the ratio that was predicted to be.
        f1: The harmonic mean of both.
        n_labels: Examples of the class.
        n_predicted: Examples that were predicted to be of it.
    """

    precision: Float[Tensor, ' k']
    recall: Float[Tensor, ' k']
    f1: Float[Tensor, ' k']
    n_labels: Int[Tensor, ' k']
    n_predicted: Int[Tensor, ' k']

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that have an example or a prediction; nan where there are none."""
        is_met = (self.n_labels > 0) | (self.n_predicted > 0)
        return float(self.f1[is_met].mean()) if is_met.any() else math.nan

    def describe(self, classes: list[str]) -> list[str]:
        """A table, a line a class, for people."""
        width = max(5, *map(len, classes))
        lines = [f'{"class":{width}}  precision  recall      f1  examples  predicted']
        for i, name in enumerate(classes):
            figures = f'{self.precision[i]:9.3f}  {self.recall[i]:6.3f}  {self.f1[i]:6.3f}'
            lines.append(f'{name:{width}}  {figures}  {int(self.n_labels[i]):8,}  {int(self.n_predicted[i]):9,}')
        return lines


def class_report(
    correct: Int[Tensor, ' k'], n_labels: Int[Tensor, ' k'], n_predicted: Int[Tensor, ' k']
) -> ClassReport:
    """The report of each class from three counts: of its examples, of its predictions, and of those that are both."""
    both = correct.to(torch.float64)
    return ClassReport(
        both / n_predicted.clamp(min=1),
        both / n_labels.clamp(min=1),
        2 * both / (n_labels + n_predicted).clamp(min=1),
        n_labels,
        n_predicted,
    )


def report_of(confusion: Int[Tensor, 'k k']) -> ClassReport:
    """The report of each class from a confusion matrix."""
    return class_report(confusion.diagonal(), confusion.sum(1), confusion.sum(0))


def one_vs_rest_auroc(probs: Float[Tensor, 'e k'], labels: Int[Tensor, ' e']) -> float:
    """The mean over classes of the AUROC of each class against all others.

    Classes of which there is no example, or nothing else, are left out; nan where all are.
    Source: Provost & Domingos 2000, without weights.
    """
    areas = [auroc(probs[:, i], labels == i) for i in range(probs.size(1))]
    known = [area for area in areas if not math.isnan(area)]
    return sum(known) / len(known) if known else math.nan


# Several labels an example: each class is a yes or no of its own.


def binary_log_losses(logits: Float[Tensor, 'e k'], labels: Float[Tensor, 'e k']) -> Float[Tensor, ' e']:
    """The mean over classes of the binary cross-entropy of each example, in nats."""
    wide = logits.to(torch.float64)
    return F.binary_cross_entropy_with_logits(wide, labels.to(torch.float64), reduction='none').mean(1)


def multi_label_report(
    probs: Float[Tensor, 'e k'], labels: Float[Tensor, 'e k'], threshold: float = 0.5
) -> ClassReport:
    """The report of each class; a class is predicted from `threshold` on, and is there from a share of a half on."""
    is_predicted = probs >= threshold
    is_there = labels >= 0.5
    return class_report((is_predicted & is_there).sum(0), is_there.sum(0), is_predicted.sum(0))


def multi_label_auroc(probs: Float[Tensor, 'e k'], labels: Float[Tensor, 'e k']) -> float:
    """The mean over classes of each one's AUROC; a class that all examples have, or none, is left out."""
    areas = [auroc(probs[:, i], labels[:, i] >= 0.5) for i in range(probs.size(1))]
    known = [area for area in areas if not math.isnan(area)]
    return sum(known) / len(known) if known else math.nan
