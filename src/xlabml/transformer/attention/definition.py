"""The definition of attention, the rule of which keys a query attends to, and the interface of a pass.

Which keys a query attends to follows from positions alone: keys of its document, no later ones (causal), none outside
of its window.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Rule(NamedTuple):
    """Which keys a query attends to, and how its scores are modified.

    Args:
        causal: A query attends to no later key; else to keys on both sides (bidirectional).
        window: It attends to keys less than this many tokens away; None: any distance.
        slopes: For each head, what a score loses per token of distance (ALiBi); None: nothing.
        score_cap: Soft cap: a tanh bounds scores to -score_cap..score_cap; None: no cap.
        dropout: Dropout ratio of the probabilities.
    """

    causal: bool = True
    window: int | None = None
    slopes: Float[Tensor, ' h'] | None = None
    score_cap: float | None = None
    dropout: float = 0.0


class Pass(ABC):
    """Attention of a layer in one call of the trunk: the rule, where documents begin, and the kernel.

    Made for each call (`choice.py`); layers with the same rule share one.
    """

    @abstractmethod
    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """The attention output; that of padding is meaningless.

        Args:
            k: With fewer heads than q, each serves h / g neighbouring heads of queries.
        """


def attend(
    q: Float[Tensor, 'b h n c'],
    k: Float[Tensor, 'b g m c'],
    v: Float[Tensor, 'b g m c'],
    visible: Bool[Tensor, '#b #h n m'] | None = None,
    bias: Float[Tensor, '#b #h n m'] | None = None,
    score_cap: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, 'b h n c']:
    """Scaled dot-product attention.

    The definition that the faster versions are tested against. Source: Vaswani et al. 2017,
    https://arxiv.org/abs/1706.03762, eq. 1; the cap: Gemma 2, https://arxiv.org/abs/2408.00118, section 2.

    Args:
        k: With fewer heads than q, each serves h / g neighbouring heads of queries.
        visible: True where a query may attend to a key; None attends everywhere. A fully masked query yields NaN.
        bias: Added to the scores, after the cap.
        score_cap: As in Rule.
        dropout: As in Rule.
    """
    n_shared = q.size(1) // k.size(1)
    k = k.repeat_interleave(n_shared, dim=1)  # b h m c
    v = v.repeat_interleave(n_shared, dim=1)
    score = (q @ k.mT / math.sqrt(q.size(-1))).to(torch.promote_types(q.dtype, torch.float32))  # b h n m
    if score_cap is not None:
        score = score_cap * torch.tanh(score / score_cap)
    if bias is not None:
        score = score + bias
    if visible is not None:
        score = score.masked_fill(~visible, -math.inf)
    return F.dropout(score.softmax(dim=-1), dropout).to(v.dtype) @ v


def make_masks(
    position: Int[Tensor, '#b n'], key_position: Int[Tensor, ' m'], rule: Rule
) -> tuple[Bool[Tensor, '#b 1 n m'], Float[Tensor, '#b h n m'] | None]:
    """The mask of which keys each query may attend to, and the bias on its scores (None: none), from positions."""
    distance = position[:, None, :, None] - key_position  # b 1 n m
    visible = distance >= 0 if rule.causal else torch.ones_like(distance, dtype=torch.bool)
    if rule.window is not None:
        visible = visible & (distance.abs() < rule.window)
    return visible, None if rule.slopes is None else -rule.slopes[:, None, None] * distance.abs()


def make_bias(longest: int, rule: Rule, dtype: torch.dtype = torch.float32) -> Float[Tensor, '#h n n']:
    """The bias on the scores, -inf where masked. It depends on distance alone: a shorter document takes a corner."""
    place = torch.arange(longest)
    visible, bias = make_masks(place[None], place, rule)
    bias = torch.zeros_like(visible, dtype=dtype) if bias is None else bias.to(dtype)
    return bias.masked_fill(~visible, -math.inf)[0]


def widened(like: Tensor) -> torch.dtype:
    """The dtype in which a CPU accumulates matrix products of a tensor."""
    return torch.promote_types(like.dtype, torch.float32)
