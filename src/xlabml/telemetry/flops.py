"""The floating-point operations of training: those of the model, not those that the hardware executes.

A matrix costs 2 operations per parameter and token in the forward pass, and twice that in the backward pass (gradients
of its input and of itself): Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1. Embedding lookups cost
nothing; the head is counted, padding is not. Attention costs, for each (query, key) pair that is not masked and each
channel of all heads, 2 for the score and 2 for the weighted sum of values in the forward pass, and twice that in the
backward pass. Recomputation is not counted. Source of the measure (model FLOPs utilization): PaLM,
https://arxiv.org/abs/2204.02311, appendix B.
"""

from collections import Counter

import torch
from jaxtyping import Int
from torch import Tensor, nn

from xlabml.anatomy import find_attention, find_matrices
from xlabml.batches import Layout, layout_lengths

_PER_PAIR = 12
"""2 for the score, 2 for the weighted sum; three times that with the backward pass."""


class TrainFlops:
    """Counts the operations of training on batches, on their device, without synchronization.

    Args:
        model: The whole model.

    Attributes:
        per_token: Operations of the layers' matrices per token that is not padding.
        per_target: Operations of the head per target.
        widths: For each kind of attention, (causal, window): channels of all heads, summed over the layers.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        roles = {name: matrix.roles for name, matrix in find_matrices(model).items()}
        self.per_token = sum(_cost(parameters[name]) for name in roles if 'layer' in roles[name])
        self.per_target = sum(_cost(parameters[name]) for name in roles if 'head' in roles[name])
        self.widths: Counter[tuple[bool, int | None]] = Counter()
        for pairs in find_attention(model):
            self.widths[pairs.causal, pairs.window] += pairs.n_channels
        self._sums: Tensor | None = None

    def add(self, ids: Int[Tensor, 'b n'], layout: Layout | None) -> None:
        """Count the tokens of a batch, and their (query, key) pairs."""
        lengths = layout_lengths(ids, layout)
        pairs = [count_pairs(lengths, causal, window) for causal, window in self.widths]
        sums = torch.stack([lengths.sum(), *pairs])
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self, device: torch.device) -> Int[Tensor, ' k']:
        """The tokens, and the pairs of each kind of attention, since the last call."""
        sums = self._sums
        self._sums = None
        return torch.zeros(1 + len(self.widths), dtype=torch.long, device=device) if sums is None else sums

    def total(self, sums: list[float], n_targets: float) -> float:
        """The FLOPs of the counts of `take` (which may be summed over ranks) and of a number of targets."""
        attention = sum(width * pairs for width, pairs in zip(self.widths.values(), sums[1:]))
        return self.per_token * sums[0] + self.per_target * n_targets + _PER_PAIR * attention


def count_pairs(lengths: Int[Tensor, ' s'], causal: bool, window: int | None) -> Int[Tensor, '']:
    """The number of (query, key) pairs that are not masked, over all documents.

    Token i (from 0) of a document attends to min(i + 1, window) tokens if it is causal: m (m + 1) / 2 pairs among the
    first m = min(length, window) tokens, and m for each later token. In both directions it is twice that, minus one per
    token, which attends to itself once.
    """
    seen = lengths if window is None else lengths.clamp(max=window)
    twice = ((2 * lengths - seen + 1) * seen).sum()
    return twice // 2 if causal else twice - lengths.sum()


def _cost(weight: Tensor) -> int:
    """Operations per token; a matrix that is not trained needs no gradient of itself."""
    return (6 if weight.requires_grad else 4) * weight.numel()
