"""What attention is: the rule of which keys a query attends to, the definition, and what a pass offers a layer.

Which keys a query attends to follows from positions alone: those of its document, not later (causal), not too far away
(window).
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Rule(NamedTuple):
    """Which keys a query attends to, and how its scores are bent.

    Args:
        causal: A query attends to no later key; else to keys on both sides (bidirectional).
        window: It attends to keys less than this many tokens away; None: any.
        slopes: For each head, what a score loses by each token of distance; None: nothing.
        score_cap: Scores are bent into -score_cap..score_cap by a tanh; None: left as they are.
        dropout: The ratio of probabilities that are dropped.
    """

    causal: bool = True
    window: int | None = None
    slopes: Float[Tensor, ' h'] | None = None
    score_cap: float | None = None
    dropout: float = 0.0


class Pass(ABC):
    """Attention of a layer in one call of the trunk: it knows the rule, where documents begin, and the kernel.

    Made anew for each call (`choice.py`); layers that attend alike share one.
    """

    @abstractmethod
    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """The values, mixed by how well each query matches each key; what padding yields means nothing.

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
    """Mix the values by how well each query matches each key.

    The definition that the faster versions are tested against. Source: Vaswani et al. 2017,
    https://arxiv.org/abs/1706.03762, eq. 1; of the cap: Gemma 2, https://arxiv.org/abs/2408.00118, section 2.

    Args:
        k: With fewer heads than q, each serves h / g neighbouring heads of queries.
        visible: True where a query attends to a key; None is everywhere. A query that attends to nothing yields NaN.
        bias: Added to the scores, after the cap.
        score_cap: As in Rule.
        dropout: As in Rule.
    """
    n_shared = q.size(1) // k.size(1)
    k = k.repeat_interleave(n_shared, dim=1)
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
    """Which of the keys at some positions the queries at some positions attend to, and what is added to the scores."""
    distance = position[:, None, :, None] - key_position  # b 1 n m
    visible = distance >= 0 if rule.causal else torch.ones_like(distance, dtype=torch.bool)
    if rule.window is not None:
        visible = visible & (distance.abs() < rule.window)
    return visible, None if rule.slopes is None else -rule.slopes[:, None, None] * distance.abs()


def make_bias(longest: int, rule: Rule, dtype: torch.dtype = torch.float32) -> Float[Tensor, '#h n n']:
    """What is added to the scores: it depends on distance alone, so a shorter document takes a corner of it."""
    place = torch.arange(longest)
    visible, bias = make_masks(place[None], place, rule)
    bias = torch.zeros_like(visible, dtype=dtype) if bias is None else bias.to(dtype)
    return bias.masked_fill(~visible, -math.inf)[0]


def widened(like: Tensor) -> torch.dtype:
    """What products of a tensor are summed up in on a CPU."""
    return torch.promote_types(like.dtype, torch.float32)
