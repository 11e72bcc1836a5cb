"""Probabilities of two answers that are exactly mirrored where their logits are."""

import torch
from jaxtyping import Float
from torch import Tensor


def mirrored_log_softmax(logits: Float[Tensor, 'e 3']) -> Float[Tensor, 'e 3']:
    """log_softmax over a, tie, b, whose result is mirrored to the last bit where the logits are.

    A sum of three depends on its order; that of a and b does not, and the tie is added to it.
    """
    a, tie, b = logits.unbind(1)
    return logits - torch.logaddexp(torch.logaddexp(a, b), tie)[:, None]
