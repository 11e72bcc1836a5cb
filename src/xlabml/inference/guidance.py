"""Guidance: the next token of one text, from its logits with and without what it is conditioned on.

Source: Ho & Salimans 2022, Classifier-free diffusion guidance, https://arxiv.org/abs/2207.12598, eq. 6; of language
models Sanchez et al. 2023, https://arxiv.org/abs/2306.17806. Several conditions: Liu et al. 2022, Compositional visual
generation, https://arxiv.org/abs/2206.01714, eq. 11.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Guided:
    """Chooses the next id of each text, which is in the batch several times: without, and with each condition.

    log p = log p_0 + sum of w_i (log p_i - log p_0), normalised: with one condition, a weight of 1 is the conditional
    model, 0 the unconditional one, more than 1 exaggerates. All rows of a text get the same id.

    Args:
        choose: Chooses ids from the combined logits.
        weights: Of each condition, in the order of the rows behind the first.
    """

    def __init__(
        self, choose: Callable[[Float[Tensor, 'r v'], list[int], int], Int[Tensor, ' r']], weights: Sequence[float]
    ) -> None:
        self.choose = choose
        self.weights = list(weights)

    def __call__(self, logits: Float[Tensor, 'r v'], rows: list[int], n_rows: int) -> Int[Tensor, ' r']:
        n = 1 + len(self.weights)
        log_prob = logits.log_softmax(1).view(-1, n, logits.size(1))  # texts n v
        plain = log_prob[:, 0]
        weights = torch.tensor(self.weights, dtype=logits.dtype, device=logits.device)
        difference = (log_prob[:, 1:] - plain[:, None]).nan_to_num(nan=0.0)  # of excluded ids
        combined = torch.where(plain == -math.inf, -math.inf, plain + (weights[:, None] * difference).sum(1))
        texts = [row // n for row in rows[::n]]
        return self.choose(combined, texts, n_rows // n).repeat_interleave(n)
