"""What every loss of a language model gives back, and the base of users' own."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn


class LossSums(NamedTuple):
    """Sums over the targets that count.

    Args:
        objective: What the optimizer lowers, in float32.
        nats: Plain cross-entropy, whatever the objective adds to it; carries no gradient.
        correct: How many targets were the prediction: the token with the largest logit, of several the first
            (`logits.argmax(-1)`), and none where a logit is NaN.
        count: How many targets were counted.
    """

    objective: Float[Tensor, '']
    nats: Float[Tensor, '']
    correct: Int[Tensor, '']
    count: Int[Tensor, '']  # type: ignore[assignment]  # hides tuple.count, which nobody needs of sums

    @property
    def hits(self) -> Int[Tensor, '']:
        """An earlier name of `correct`, for losses of users."""
        return self.correct


class Loss(nn.Module, ABC):
    """A loss over hidden states and the vocabulary head, so that it may never hold the whole logits."""

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
            targets: batches.IGNORED where nothing is counted.
            logit_cap: Logits are bent into -logit_cap..logit_cap by a tanh; None: left as they are.
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
        """The plain cross-entropy of each target, in nats; 0 where it is ignored. Arguments as in forward."""
