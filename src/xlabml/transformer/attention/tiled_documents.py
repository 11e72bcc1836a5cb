"""Attention inside the documents of packed rows on a CPU, in a few large float32 products that all threads share.

The tokens are cut into tiles of equal length, regardless of where documents end. The queries of a tile are multiplied
with the tiles of keys that any of them attends to. Query tiles with the same number of key tiles form one batched
product, so the number of products depends on the longest document, not on the number of documents. A mask hides the
other keys of these tiles. Memory grows with tokens x the longest document.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .definition import Rule, widened
from .places import Segments

_TILE = 32
"""Tokens per tile: shorter tiles compute fewer masked scores, longer ones multiply faster."""


class Group(NamedTuple):
    """Query tiles with the same number of key tiles.

    Args:
        tiles: Indices of the query tiles.
        keys: Indices of the key tiles of each query tile, concatenated.
        bias: Added to the scores: -inf where a query does not attend to a key.
    """

    tiles: Int[Tensor, ' g']
    keys: Int[Tensor, ' s']
    bias: Float[Tensor, 'g n m']

    def gather_queries(self, x: Float[Tensor, 'h t d']) -> Float[Tensor, 'r n c']:
        """Select the query tiles: r is (h g), n the tokens of a tile."""
        return x.index_select(1, self.tiles).view(x.size(0) * self.tiles.numel(), _TILE, -1)

    def gather_keys(self, x: Float[Tensor, 'h t d']) -> Float[Tensor, 'r m c']:
        """Select the key tiles of each query tile: r is (h g), m the tokens of its key tiles."""
        return x.index_select(1, self.keys).view(x.size(0) * self.tiles.numel(), self.bias.size(2), -1)

    def probabilities(self, queries: Tensor, keys: Tensor) -> Float[Tensor, 'r n m']:
        """softmax(Q Kᵀ + bias), in the memory of the scores."""
        # Not by bmm, whose output selective checkpointing stores: this one is overwritten.
        scores = queries.new_empty(*queries.shape[:2], keys.size(1)).baddbmm_(queries, keys.mT, beta=0)
        scores.unflatten(0, (-1, self.tiles.numel())).add_(self.bias)
        return torch.softmax(scores, dim=-1, out=scores)


class Tiling(NamedTuple):
    """How the tokens of a pass are cut into tiles.

    Args:
        n_tiles: Number of tiles; the last one may extend beyond the tokens.
        groups: The query tiles with text.
        padding: Indices of padding tokens; None: there are none.
    """

    n_tiles: int
    groups: list[Group]
    padding: Int[Tensor, ' p'] | None


def make_tiling(segments: Segments, rule: Rule, like: Tensor) -> Tiling:
    """Cut the tokens of a pass into tiles.

    Args:
        rule: Without slopes.
        like: A tensor with the dtype of queries, keys and values.
    """
    lengths = torch.tensor([length for length, _ in segments], dtype=torch.long)
    n_tokens = int(lengths.sum())
    n_tiles = -(-n_tokens // _TILE)
    place = torch.arange(n_tiles * _TILE)
    is_text = torch.zeros(n_tiles * _TILE, dtype=torch.bool)
    is_text[:n_tokens] = torch.tensor([is_text for _, is_text in segments], dtype=torch.bool).repeat_interleave(lengths)
    # Each token attends to keys low..high - 1. Padding attends to itself, since an empty softmax would be NaN.
    ends = lengths.cumsum(0)
    low = place.clone()
    high = place + 1
    low[:n_tokens] = (ends - lengths).repeat_interleave(lengths)
    high[:n_tokens] = ends.repeat_interleave(lengths)
    if rule.window is not None:
        low = low.maximum(place - rule.window + 1)
        high = high.minimum(place + rule.window)
    if rule.causal:
        high = place + 1
    low = low.where(is_text, place)
    high = high.where(is_text, place + 1)

    # For each query tile, the first key tile and the number of key tiles.
    tiled_low, tiled_high = (x.view(n_tiles, _TILE) for x in (low, high))
    first = tiled_low.amin(1) // _TILE
    n_keys = -(-tiled_high.amax(1) // _TILE) - first
    n_keys = n_keys.where(is_text.view(n_tiles, _TILE).any(1), 0)  # tiles of padding are left out
    groups = []
    for n in n_keys.unique().tolist():
        if n:
            tiles = (n_keys == n).nonzero()[:, 0]
            keys = first[tiles, None] + torch.arange(n)  # g n
            key = place.view(n_tiles, _TILE)[keys].flatten(1)[:, None]  # g 1 m
            is_masked = (key < tiled_low[tiles, :, None]) | (key >= tiled_high[tiles, :, None])  # g n m
            bias = torch.zeros(is_masked.shape, dtype=widened(like)).masked_fill_(is_masked, -math.inf)
            groups.append(Group(tiles, keys.flatten(), bias))
    padding = (~is_text[:n_tokens]).nonzero()[:, 0]
    return Tiling(n_tiles, groups, padding if padding.numel() else None)


def attend_tiles(
    tiling: Tiling,
    q: Float[Tensor, 't h c'],
    k: Float[Tensor, 't h c'],
    v: Float[Tensor, 't h c'],
    kept: list[Tensor] | None,
) -> Float[Tensor, 't h c']:
    """The attention output of queries, keys and values.

    Args:
        kept: Receives the result of `make_tiles`, then the probabilities of each group; None: nothing is kept.
    """
    queries, keys, values = tiled = make_tiles(tiling, q, k, v)
    output = torch.zeros_like(queries)
    if kept is not None:
        kept += tiled
    with torch.autocast('cpu', enabled=False):
        for group in tiling.groups:
            probs = group.probabilities(group.gather_queries(queries), group.gather_keys(keys))
            part = torch.bmm(probs, group.gather_keys(values))  # r n c
            output.index_copy_(1, group.tiles, part.view(q.size(1), -1, output.size(2)))
            if kept is not None:
                kept.append(probs)
    back = _from_tiles(output, q)
    return back if tiling.padding is None else back.index_fill_(0, tiling.padding, 0)


def attend_tiles_backward(
    tiling: Tiling, grad: Float[Tensor, 't h c'], tiled: Sequence[Tensor], saved: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, each t h c.

    With P the probabilities: dS = P · (dP - sum(P · dP)), then dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO.

    Args:
        grad: Gradient of the output.
        tiled: The result of `make_tiles`.
        saved: The probabilities of each group; empty: they are recomputed.
    """
    n_heads = grad.size(1)
    scale = 1 / math.sqrt(grad.size(2))
    q, k, v = tiled
    like = grad
    if tiling.padding is not None:
        grad = grad.index_fill(0, tiling.padding, 0)
    out_grad = _to_tiles(tiling, grad, q.dtype)
    q_grad, k_grad, v_grad = (torch.zeros_like(x) for x in (q, k, v))
    with torch.autocast('cpu', enabled=False):
        for i, group in enumerate(tiling.groups):
            queries = group.gather_queries(q)  # r n c
            out = group.gather_queries(out_grad)  # r n c
            keys = group.gather_keys(k)  # r m c
            values = group.gather_keys(v)  # r m c
            probs = saved[i] if saved else group.probabilities(queries, keys)
            score_grad = torch.bmm(out, values.mT)  # r n m: dP, then dS in its place
            torch._softmax_backward_data(score_grad, probs, -1, probs.dtype, grad_input=score_grad)
            part = torch.bmm(score_grad, keys).mul_(scale)
            # Each query tile is in one group, a key tile in several: dQ is copied, dK and dV are summed.
            q_grad.index_copy_(1, group.tiles, part.view(n_heads, -1, q.size(2)))
            k_grad.index_add_(1, group.keys, torch.bmm(score_grad.mT, queries).view(n_heads, -1, q.size(2)))
            v_grad.index_add_(1, group.keys, torch.bmm(probs.mT, out).view(n_heads, -1, q.size(2)))
    return _from_tiles(q_grad, like), _from_tiles(k_grad, like), _from_tiles(v_grad, like)


def make_tiles(tiling: Tiling, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """Copies in the dtype of accumulation, t h c -> (heads, tiles, tile length x channels).

    Queries are scaled, so that scores need not be.
    """
    queries, keys, values = (_to_tiles(tiling, x, widened(x)) for x in (q, k, v))
    return [queries.mul_(1 / math.sqrt(q.size(-1))), keys, values]


def _to_tiles(tiling: Tiling, x: Float[Tensor, 't h c'], dtype: torch.dtype) -> Float[Tensor, 'h n d']:
    n_tokens, n_heads, d_head = x.shape
    tiled = torch.empty(n_heads, tiling.n_tiles * _TILE, d_head, dtype=dtype)
    tiled[:, :n_tokens].copy_(x.transpose(0, 1))
    tiled[:, n_tokens:] = 0
    return tiled.view(n_heads, tiling.n_tiles, -1)


def _from_tiles(x: Float[Tensor, 'h n d'], like: Float[Tensor, 't h c']) -> Float[Tensor, 't h c']:
    whole = x.view(x.size(0), -1, like.size(2))[:, : like.size(0)]
    return torch.empty(like.shape, dtype=like.dtype).copy_(whole.transpose(0, 1))
