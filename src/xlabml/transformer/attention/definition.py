"""Attention: its definition, the ways to compute it faster, and the layer.

What a query sees follows from positions alone: the same document, not later (causal), not too far (window).
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .cache import Cache

_BLOCK = 512
"""A mask is made for so many queries at a time."""


class Rule(NamedTuple):
    """What a query may see, and how its scores are bent.

    Args:
        causal: A query sees no later key.
        window: It sees keys less than so many tokens away; None: any.
        slopes: For each head, what a score loses by each token of distance; None: nothing.
        score_cap: Scores are bent into -score_cap..score_cap by a tanh; None: left as they are.
        dropout: The ratio of probabilities that are dropped.
    """

    causal: bool = True
    window: int | None = None
    slopes: Float[Tensor, ' h'] | None = None
    score_cap: float | None = None
    dropout: float = 0.0


class Documents(NamedTuple):
    """Where documents begin in packed rows, as the layers need it.

    Args:
        starts: As in Layout, in int32.
        max_length: No segment is longer, in tokens: known without asking the device.
        is_text: As in Layout.
        segment: Of each token.
        segments: Length of each segment, and whether it is text; None where reading it would wait for a device, or
            would be part of what is compiled.
    """

    starts: Int[Tensor, ' s+1']
    max_length: int
    is_text: Bool[Tensor, ' s'] | None
    segment: Int[Tensor, 'b n']
    segments: list[tuple[int, bool]] | None


class Shared(NamedTuple):
    """What the layers of one pass share.

    Args:
        angles: Cosine and sine that turn queries and keys; None: they are not turned.
        slopes: As in Rule.
        backends: The name of each layer's way to compute attention: see backends.py.
        documents: Of packed rows; None: every row is one document.
        cache: Where keys and values are kept; None: nowhere.
        position: Position of each token, where rows of the cache differ in length; None: after all keys.
        segment: With a cache and a layout, the segment of each token, and its position in it.
        made: What one layer makes and others with the same window need: biases, block masks.
    """

    angles: tuple[Float[Tensor, '#b n p'], Float[Tensor, '#b n p']] | None
    slopes: Float[Tensor, ' h'] | None
    backends: list[str]
    documents: Documents | None
    cache: Cache | None
    position: Int[Tensor, 'b n'] | None
    segment: tuple[Int[Tensor, ' t'], Int[Tensor, ' t']] | None
    made: dict[Any, Any]


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
        visible: True where a query may look at a key; None is everywhere. A query that sees nothing yields NaN.
        bias: Added to the scores, after the cap.
        score_cap: Scores are bent into -score_cap..score_cap by a tanh; None: left as they are.
        dropout: The ratio of probabilities that are dropped.
    """
    n_shared = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(n_shared, dim=1), v.repeat_interleave(n_shared, dim=1)
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
    """What queries at these positions see of keys at those, and what is added to the scores."""
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


def mix(
    q: Float[Tensor, 'b h n c'],
    k: Float[Tensor, 'b g m c'],
    v: Float[Tensor, 'b g m c'],
    rule: Rule,
    position: Int[Tensor, 'b n'] | None = None,
    documents: Documents | None = None,
    is_plain: bool = False,
) -> Float[Tensor, 'b h n c']:
    """Attention by torch's fused kernel where it can, else with a mask for a block of queries at a time.

    Nothing here asks the device for a number, or depends on one: shapes follow from the arguments' shapes.

    Args:
        position: Of the queries, where key j is at position j; None: the queries are the last of the keys.
        documents: Of packed rows, in which n = m: a query sees its own segment only, padding as well; None: each row
            is one document.
        is_plain: Compute it as `attend` defines it.
    """
    assert is_plain or rule.score_cap is None  # backends.py sees to it
    n, m = q.size(2), k.size(2)
    if position is None and n == 1 and rule.causal and rule.window is not None:
        k, v = k[:, :, -rule.window :], v[:, :, -rule.window :]
        m = k.size(2)
    sees_all = position is None and (rule.window is None or m <= rule.window) and (not rule.causal or n in (1, m))
    if sees_all and documents is None and rule.slopes is None and not is_plain:
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=rule.dropout, is_causal=rule.causal and n > 1, enable_gqa=q.size(1) != k.size(1)
        )
    reach = [limit for limit in (rule.window, documents and documents.max_length) if limit is not None]
    gqa = q.size(1) != k.size(1)
    if gqa and q.device.type == 'cuda' and not is_plain:  # no fused kernel there takes groups and a mask
        k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
        gqa = False
    mixed = []
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        low, high = 0, m
        if position is None:
            place = torch.arange(m - n + start, m - n + stop, device=q.device)[None]
            if reach:
                low, high = max(0, m - n + start - min(reach) + 1), min(m, m - n + stop + min(reach) - 1)
            if rule.causal:
                high = m - n + stop
        else:
            place = position[:, start:stop]
        visible, bias = make_masks(place, torch.arange(low, high, device=q.device), rule)
        if documents is not None:
            segment = documents.segment
            visible = visible & (segment[:, None, start:stop, None] == segment[:, None, None, low:high])
        part = q[:, :, start:stop], k[:, :, low:high], v[:, :, low:high]
        if is_plain:
            mixed.append(attend(*part, visible, bias, rule.score_cap, rule.dropout))
        else:
            mask = visible if bias is None else bias.masked_fill(~visible, -math.inf).to(q.dtype)
            mixed.append(F.scaled_dot_product_attention(*part, attn_mask=mask, dropout_p=rule.dropout, enable_gqa=gqa))
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=2)
