"""What a language model's predictions are worth."""

import abc
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor


def summarize(sums: Mapping[str, float]) -> dict[str, float]:
    """Loss, accuracy and bits per byte from the sums over all targets.

    Args:
        sums: `nats` of all targets, the end of text included; `correct`, how many of them were predicted;
            `count`, how many there were; `n_bytes`, the raw UTF-8 bytes of the text that they stand for.

    Returns:
        `loss` (nats per target), `accuracy` (0..1), `bits_per_byte`; nan where there is nothing to divide by.
    """
    count, n_bytes = sums['count'] or math.nan, sums['n_bytes'] or math.nan
    return {
        'loss': sums['nats'] / count,
        'accuracy': sums['correct'] / count,
        'bits_per_byte': sums['nats'] / math.log(2) / n_bytes,
    }


class TokenMetric(abc.ABC):
    """A number for every target, averaged over all targets of an evaluation: the base for metrics of your own.

    Args:
        name: What the curve is called, behind `val_` and `test_`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abc.abstractmethod
    def values(self, nats: Float[Tensor, ' t'], targets: Int[Tensor, ' t']) -> Float[Tensor, ' t']:
        """One value a target.

        Args:
            nats: The negative log-probability of each target.
            targets: Its id.
        """


class WithinNats(TokenMetric):
    """The share of targets that cost at most so many nats.

    Args:
        limit: In nats: 0.693 is a probability of a half.
    """

    def __init__(self, limit: float = math.log(2), name: str = 'within_nats') -> None:
        super().__init__(name)
        self.limit = limit

    def values(self, nats: Float[Tensor, ' t'], targets: Int[Tensor, ' t']) -> Float[Tensor, ' t']:
        return (nats <= self.limit).to(torch.float32)
