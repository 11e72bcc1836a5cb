"""Figures of preferences: those of three classes, and what the order of the answers changes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .class_evaluators import ClassEvaluator
from .classification import log_losses
from .example_evaluator import Calibrator, Examples


class PreferenceEvaluator(ClassEvaluator):
    """Figures of a, tie, b: log loss first.

    `swap_error` is the mean over examples of the largest difference of a probability between both orders of the
    answers, each read alone: 0 where the order changes nothing. With a confidence from which on one order stands alone,
    `one_order` is the ratio of examples for which it does, and `gated_loss` the log loss of predicting so.

    Args:
        calibrator: As in the base.
        class_counts: As in the base.
        confidence: The probability of the first order's answer from which on it stands alone; 1: never.
    """

    def __init__(
        self,
        calibrator: Calibrator | None = None,
        class_counts: Sequence[float] | None = None,
        confidence: float = 1.0,
    ) -> None:
        super().__init__(calibrator, False, class_counts)
        self.confidence = confidence

    def names(self) -> list[str]:
        gate = ['one_order', 'gated_loss'] if self.confidence < 1 else []
        return [*super().names(), 'swap_error', *gate]

    def evaluate(self, examples: Examples) -> dict[str, float]:
        figures = super().evaluate(examples)
        assert examples.orders is not None  # of every preference
        orders = torch.stack([self.mix(examples._replace(logits=some)) for some in examples.orders.unbind(1)], dim=1)
        probs = self._probabilities(orders)
        figures['swap_error'] = float((probs[:, 0] - probs[:, 1]).abs().amax(-1).mean())
        if self.confidence < 1:
            is_same = (orders[:, 0] == orders[:, 1].flip(-1)).all(
                -1
            )  # equal answers: one reading stands for both orders
            is_alone = (probs[:, 0].amax(-1) >= self.confidence) & ~is_same
            gated = torch.where(is_alone[:, None], probs[:, 0], self._probabilities(self.mix(examples)))
            figures['one_order'] = float(is_alone.to(torch.float64).mean())
            figures['gated_loss'] = float(log_losses(gated.log(), examples.labels).mean())
        self.figures = figures
        return figures

    def _probabilities(self, logits: Float[Tensor, '*e k']) -> Float[Tensor, '*e k']:
        flat = logits.reshape(-1, logits.size(-1))
        calibrated = flat if self.calibrator is None else self.calibrator.logits(flat)
        return calibrated.softmax(-1).view_as(logits)

    def report(self, classes: list[str]) -> list[str]:
        """As in the base, and what the order changes."""
        lines = super().report(classes)
        if lines and (error := self.figures.get('swap_error', 0.0)):
            lines.append(f'exchanging the answers moves a probability of one order by {error:.4f} in the mean')
        return lines
