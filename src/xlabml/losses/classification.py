"""Losses of classifiers: logits and labels -> one loss for each example.

A label is a class, or a share for each class: a soft label, a teacher's probabilities, or what all raters of an item
said (the cross-entropy with their shares is the mean of that with each rating). The caller weighs the losses, adds them
up, and divides by the examples of the whole optimizer step.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import IGNORED


class ClassLoss(nn.Module, ABC):
    """One loss for each example; 0 where its class is `batches.IGNORED`. Computed in float32 or wider."""

    def forward(
        self, logits: Float[Tensor, 'e k'], labels: Int[Tensor, ' e'] | Float[Tensor, 'e k']
    ) -> Float[Tensor, ' e']:
        """The loss of each example.

        Args:
            logits: Of the classes; of a regression, the predicted number.
            labels: The class of each example, or a number for each logit.
        """
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        with torch.autocast(logits.device.type, enabled=False):
            if labels.is_floating_point():
                return self.losses(wide, labels.to(wide.dtype))
            is_known = labels != IGNORED
            shares = F.one_hot(labels.clamp(min=0), wide.size(1)).to(wide.dtype)
            return self.losses(wide, shares).masked_fill(~is_known, 0)

    @abstractmethod
    def losses(self, logits: Float[Tensor, 'e k'], shares: Float[Tensor, 'e k']) -> Float[Tensor, ' e']:
        """The loss of each example, from a number for each logit."""


class ClassCrossEntropy(ClassLoss):
    """Cross-entropy with one class an example, or with the share of each class.

    Args:
        label_smoothing: The ratio of a label that is spread evenly over all classes, 0..1. Source: Szegedy et al. 2016,
            https://arxiv.org/abs/1512.00567, section 7.
        focal: γ: the loss of a class is multiplied by (1 − p)^γ, so that what is certain already counts less. Source:
            Lin et al. 2017, https://arxiv.org/abs/1708.02002, eq. 4. It makes probabilities that are too small, which
            calibration mends.
        class_weights: A factor on the loss of each class, in their order; None: 1 for all. Weights whose mean over the
            training examples is 1 leave the learning rate what it is.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self, label_smoothing: float = 0.0, focal: float = 0.0, class_weights: list[float] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'loss.label_smoothing is {label_smoothing}; it must be 0 or more, and below 1')
        self.label_smoothing = label_smoothing
        self.focal = _check_focal(focal)
        self.class_weights = _check_weights(class_weights, 'class_weights')

    def losses(self, logits: Float[Tensor, 'e k'], shares: Float[Tensor, 'e k']) -> Float[Tensor, ' e']:
        k = logits.size(1)
        if self.label_smoothing:
            shares = shares * (1 - self.label_smoothing) + shares.sum(1, keepdim=True) * (self.label_smoothing / k)
        log_probs = logits.log_softmax(-1)
        costs = shares * log_probs.neg()
        if self.focal:
            # 1 - p from the log-probability, so that the gradient is finite where p is 1.
            costs = costs * _complement(log_probs) ** self.focal
        # A class of probability 0 that has no share costs nothing.
        return (costs * _weights(self.class_weights, 'class_weights', logits)).masked_fill(shares == 0, 0).sum(1)


class Distillation(ClassLoss):
    """Learn from a teacher's probabilities, which are the soft labels: T² times the divergence from both at T.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2.

    Args:
        temperature: T, by which the logits of both are divided.
        hard_ratio: The ratio of the loss that is cross-entropy with the teacher's most probable class, 0..1.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(self, temperature: float = 2.0, hard_ratio: float = 0.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'loss.temperature is {temperature}; give a positive number')
        if not 0 <= hard_ratio <= 1:
            raise ValueError(f'loss.hard_ratio is {hard_ratio}; it must lie in 0..1')
        self.temperature = temperature
        self.hard_ratio = hard_ratio

    def losses(self, logits: Float[Tensor, 'e k'], shares: Float[Tensor, 'e k']) -> Float[Tensor, ' e']:
        t = self.temperature
        teacher = (shares.log() / t).softmax(-1)  # a class of share 0 keeps it
        student = (logits / t).log_softmax(-1)
        divergence = (torch.special.xlogy(teacher, teacher) - teacher * student).sum(1)
        soft = t * t * divergence
        if not self.hard_ratio:
            return soft
        hard = F.cross_entropy(logits, shares.argmax(-1), reduction='none')
        return (1 - self.hard_ratio) * soft + self.hard_ratio * hard


class BinaryCrossEntropy(ClassLoss):
    """Several labels an example: the mean over classes of a yes or no for each.

    Args:
        label_smoothing: The ratio of a label that is moved to a half, 0..1.
        focal: As in `ClassCrossEntropy`, for the probability of what is there.
        positive_weights: A factor on the loss of each class where it is there, in the order of classes; None: 1.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self, label_smoothing: float = 0.0, focal: float = 0.0, positive_weights: list[float] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'loss.label_smoothing is {label_smoothing}; it must be 0 or more, and below 1')
        self.label_smoothing = label_smoothing
        self.focal = _check_focal(focal)
        self.positive_weights = _check_weights(positive_weights, 'positive_weights')

    def losses(self, logits: Float[Tensor, 'e k'], shares: Float[Tensor, 'e k']) -> Float[Tensor, ' e']:
        shares = shares * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        yes = F.logsigmoid(logits)
        no = F.logsigmoid(-logits)
        yes_costs = -shares * yes * _weights(self.positive_weights, 'positive_weights', logits)
        no_costs = -(1 - shares) * no
        if self.focal:
            yes_costs = yes_costs * no.exp() ** self.focal
            no_costs = no_costs * yes.exp() ** self.focal
        return (yes_costs + no_costs).mean(1)


class SquaredError(ClassLoss):
    """The squared distance of the predicted number, the mean over columns."""

    def losses(self, logits: Float[Tensor, 'e k'], shares: Float[Tensor, 'e k']) -> Float[Tensor, ' e']:
        return (logits - shares).square().mean(1)


class Huber(ClassLoss):
    """Half the squared distance up to `delta`, and beyond it a line: few labels that are far off count less.

    Source: Huber 1964, https://doi.org/10.1214/aoms/1177703732.

    Args:
        delta: In the unit of the labels.

    Raises:
        ValueError: delta is not positive.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        if not delta > 0:
            raise ValueError(f'loss.delta is {delta}; give a positive number')
        self.delta = delta

    def losses(self, logits: Float[Tensor, 'e k'], shares: Float[Tensor, 'e k']) -> Float[Tensor, ' e']:
        return F.huber_loss(logits, shares, reduction='none', delta=self.delta).mean(1)


def _complement(log_probs: Float[Tensor, 'e k']) -> Float[Tensor, 'e k']:
    """1 − p; its least is not 0, where a power below 1 has no finite gradient."""
    return -torch.expm1(log_probs.clamp(max=-torch.finfo(log_probs.dtype).eps))


def _weights(weights: list[float] | None, name: str, logits: Float[Tensor, 'e k']) -> Tensor:
    if weights is None:
        return logits.new_ones(())
    if len(weights) != logits.size(1):
        raise ValueError(
            f'model.loss.{name} has {len(weights)} weights, but there are {logits.size(1)} classes; give one for each, '
            'in their order'
        )
    return logits.new_tensor(weights)


def _check_weights(weights: list[float] | None, name: str) -> list[float] | None:
    for weight in weights or []:
        if not 0 <= weight < float('inf'):
            raise ValueError(f'loss.{name} has {weight}; a weight is 0 or more')
    return None if weights is None else list(weights)


def _check_focal(focal: float) -> float:
    if not 0 <= focal < float('inf'):
        raise ValueError(f'loss.focal is {focal}; give 0 or more')
    return focal
