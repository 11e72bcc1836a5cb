"""Attention inside the documents of a packed row, one document after another: memory grows with the row's length only.

On a CPU, documents of a few hundred tokens are multiplied out in float32. Measured on two cores with AMX, 2,048 tokens
in 25 documents of ever new lengths, 3 heads of 64, forward and backward, in ms: this 8, torch's fused kernel called in
the same loop 9, documents of like length padded to one batch 12; in bf16 57, 65 and 17, since oneDNN compiles a kernel
for each new length.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .attention import Rule, Shared, make_masks, mix

_LONGEST = 1024
"""Longer documents go to the fused kernel, which keeps no n x n probabilities for the gradient."""


def mix_documents(
    q: Float[Tensor, 't h c'], k: Float[Tensor, 't g c'], v: Float[Tensor, 't g c'], rule: Rule, shared: Shared
) -> Float[Tensor, 't h c']:
    """Attention in which each segment of the layout is one document; zeros where a segment is padding."""
    segments = shared.segments
    assert segments is not None
    longest = max((length for length, is_text in segments if is_text), default=0)
    if q.device.type == 'cpu' and longest <= _LONGEST and not (rule.is_plain or rule.dropout):
        n_shared = q.size(1) // k.size(1)
        if n_shared > 1:
            k, v = k.repeat_interleave(n_shared, dim=1), v.repeat_interleave(n_shared, dim=1)
        if rule.window not in shared.biases:
            shared.biases[rule.window] = _make_bias(longest, rule, q)
        return _Documents.apply(q, k, v, segments, shared.biases[rule.window])
    lengths = [length for length, _ in segments]
    mixed = []
    # Transposed before they are split, so that the gradient is put together by one cat.
    rows = (x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v))  # 1 h n c
    for (length, is_text), queries, keys, values in zip(segments, *rows):
        if length:
            mixed.append(mix(queries, keys, values, rule) if is_text else torch.zeros_like(queries))
    return torch.cat([part[0].transpose(0, 1) for part in mixed])


def _make_bias(longest: int, rule: Rule, like: Tensor) -> Float[Tensor, '#h n n']:
    """What is added to the scores: it depends on distance alone, so a document takes a corner of it."""
    place = torch.arange(longest, device=like.device)
    visible, bias = make_masks(place[None], place, rule)
    bias = torch.zeros_like(visible, dtype=like.dtype) if bias is None else bias.to(like.dtype)
    return bias.masked_fill(~visible, -math.inf)[0]


class _Documents(torch.autograd.Function):
    """Written out, because autograd would copy each document's slices and gradients once more."""

    @staticmethod
    def forward(ctx, q, k, v, segments, bias):
        """Keeps each document's probabilities."""
        is_whole = all(is_text for _, is_text in segments)
        mixed = torch.empty_like(q) if is_whole else torch.zeros_like(q)
        scale, start, shares = 1 / math.sqrt(q.size(-1)), 0, []
        with torch.autocast('cpu', enabled=False):
            for length, is_text in segments:
                rows = slice(start, start := start + length)
                if length and is_text:
                    queries, keys, values = (x[rows].transpose(0, 1) for x in (q, k, v))  # h n c
                    corner = bias[:, :length, :length]
                    share = torch.baddbmm(corner, queries, keys.mT, alpha=scale).softmax(dim=-1)
                    mixed[rows] = torch.bmm(share, values).transpose(0, 1)
                    shares.append(share)
        ctx.save_for_backward(q, k, v, *shares)
        ctx.segments, ctx.is_whole = segments, is_whole
        return mixed

    @staticmethod
    def backward(ctx, grad):
        """With P the probabilities: dS = P · (dP - sum(P · dP)), then dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO."""
        if torch.is_grad_enabled():  # only with create_graph
            raise RuntimeError('attention inside documents has no second derivative; go back without create_graph')
        q, k, v, *shares = ctx.saved_tensors
        q_grad, k_grad, v_grad = (torch.empty_like(x) if ctx.is_whole else torch.zeros_like(x) for x in (q, k, v))
        scale, start, remaining = 1 / math.sqrt(q.size(-1)), 0, iter(shares)
        with torch.autocast('cpu', enabled=False):
            for length, is_text in ctx.segments:
                rows = slice(start, start := start + length)
                if length and is_text:
                    share = next(remaining)
                    queries, keys, values, out = (x[rows].transpose(0, 1) for x in (q, k, v, grad))
                    v_grad[rows] = torch.bmm(share.mT, out).transpose(0, 1)
                    score_grad = torch._softmax_backward_data(torch.bmm(out, values.mT), share, -1, share.dtype)
                    score_grad *= scale
                    q_grad[rows] = torch.bmm(score_grad, keys).transpose(0, 1)
                    k_grad[rows] = torch.bmm(score_grad.mT, queries).transpose(0, 1)
        return q_grad, k_grad, v_grad, None, None
