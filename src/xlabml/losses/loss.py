"""The base class of losses over a vocabulary, and the sums that they return."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn


class LossSums(NamedTuple):
    """Sums over the targets that are not ignored.

    Args:
        objective: The objective that the optimizer minimizes, in float32.
        nats: Negative log-likelihood in nats, without what the objective adds to it; carries no gradient.
        correct: Number of targets that equal the prediction, the token with the largest logit (the first of several,
            as `logits.argmax(-1)`); none where a logit is NaN.
        count: Number of targets.
    """

    objective: Float[Tensor, '']
    nats: Float[Tensor, '']
    correct: Int[Tensor, '']
    count: Int[Tensor, '']  # type: ignore[assignment]  # hides tuple.count

    @property
    def hits(self) -> Int[Tensor, '']:
        """An earlier name of `correct`, for users' losses."""
        return self.correct


class Loss(nn.Module, ABC):
    """A loss over hidden states and the vocabulary head, so that it need not hold all logits at once."""

    @abstractmethod
    def forward(
        self,
        hidden: Float[Tensor, 't d'],
        weight: Float[Tensor, 'v d'],
        targets: Int[Tensor, ' t'],
        bias: Float[Tensor, ' v'] | None = None,
        logit_cap: float | None = None,
    ) -> LossSums:
        """Sum the loss over the targets.

        Args:
            weight: The head: logits are hidden @ weight.T + bias.
            targets: Token ids; batches.IGNORED where a target is ignored.
            logit_cap: Soft cap: a tanh bounds logits to -logit_cap..logit_cap; None: no cap.
        """

    @abstractmethod
    def nats(
        self,
        hidden: Float[Tensor, 't d'],
        weight: Float[Tensor, 'v d'],
        targets: Int[Tensor, ' t'],
        bias: Float[Tensor, ' v'] | None = None,
        logit_cap: float | None = None,
    ) -> Float[Tensor, ' t']:
        """Negative log-likelihood of each target in nats; 0 where it is ignored. Arguments as in forward."""
