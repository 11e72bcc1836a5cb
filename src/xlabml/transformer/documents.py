"""Attention inside the documents of a packed row on a CPU, one after another: memory grows with the row's length only.

Documents of a few hundred tokens are multiplied out in float32. Measured on two cores with AMX, 2,048 tokens in 25
documents of ever new lengths, 3 heads of 64, forward and backward, in ms: this 8, torch's fused kernel called in the
same loop 9, documents of like length padded to one batch 12; in bf16 57, 65 and 17, since oneDNN compiles a kernel for
each new length.

Compiled, all of it is one operator that the compiler does not look into, so that new lengths compile nothing anew.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from .attention import Documents, Rule, make_masks, mix

_LONGEST = 1024
"""Longer documents go to the fused kernel, which keeps no n x n probabilities for the gradient."""

_BLOCK = 128
"""So many queries of a document are looked at a time."""

_Segments = list[tuple[int, bool]]


def read_segments(starts: Tensor, is_text: Tensor | None, max_length: int, n_slots: int) -> _Segments:
    """Length of each segment of a layout, and whether it is text. Where it lives on a device, this waits for it.

    Raises:
        ValueError: The layout does not fit n_slots tokens, or a segment is longer than max_length.
    """
    ends = starts.tolist()
    lengths = [end - start for start, end in itertools.pairwise(ends)]
    if ends[0] != 0 or ends[-1] != n_slots or min(lengths, default=-1) < 0:
        raise ValueError(
            f'layout.starts goes from {ends[0]} to {ends[-1]}, but must rise from 0 to the {n_slots} slots of ids'
        )
    if max(lengths) > max_length:
        raise ValueError(f'a segment has {max(lengths)} tokens, but layout.max_length is {max_length}')
    return list(zip(lengths, [True] * len(lengths) if is_text is None else is_text.tolist()))


def mix_documents(
    q: Float[Tensor, 't h c'],
    k: Float[Tensor, 't g c'],
    v: Float[Tensor, 't g c'],
    rule: Rule,
    documents: Documents,
    made: dict,
    is_plain: bool = False,
) -> Float[Tensor, 't h c']:
    """Attention in which each segment is one document; zeros where a segment is padding.

    Args:
        made: As in Shared.
        is_plain: Compute it as `attend` defines it.
    """
    segments = documents.segments
    if segments is None:
        return _mix_unread(q, k, v, rule, documents, is_plain)
    longest = _longest(segments)
    if longest <= _LONGEST and not (is_plain or rule.dropout):
        k, v = _ungroup(q, k, v)
        if ('bias', rule.window) not in made:
            made['bias', rule.window] = _make_bias(longest, rule, q)
        return _Documents.apply(q, k, v, segments, made['bias', rule.window], rule)
    lengths = [length for length, _ in segments]
    mixed = []
    # Transposed before they are split, so that the gradient is put together by one cat.
    rows = (x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v))  # 1 h n c
    for (length, is_text), queries, keys, values in zip(segments, *rows):
        if length:
            part = mix(queries, keys, values, rule, is_plain=is_plain) if is_text else torch.zeros_like(queries)
            mixed.append(part)
    return torch.cat([part[0].transpose(0, 1) for part in mixed])


def _mix_unread(q: Tensor, k: Tensor, v: Tensor, rule: Rule, documents: Documents, is_plain: bool) -> Tensor:
    """The same where the layout is not read: on a device, or while compiling."""
    if q.device.type == 'cpu' and not (is_plain or rule.dropout):
        k, v = _ungroup(q, k, v)
        return _attend_documents(
            q, k, v, documents.starts, documents.is_text, documents.max_length, rule.causal, rule.window, rule.slopes
        )
    q, k, v = (x.unflatten(0, documents.segment.shape).transpose(1, 2) for x in (q, k, v))  # b h n c
    return mix(q, k, v, rule, documents=documents, is_plain=is_plain).transpose(1, 2).flatten(0, 1)


def _ungroup(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    n_shared = q.size(1) // k.size(1)
    return (k, v) if n_shared == 1 else (k.repeat_interleave(n_shared, dim=1), v.repeat_interleave(n_shared, dim=1))


def _longest(segments: _Segments) -> int:
    return max((length for length, is_text in segments if is_text), default=0)


def _make_bias(longest: int, rule: Rule, like: Tensor) -> Float[Tensor, '#h n n']:
    """What is added to the scores: it depends on distance alone, so a document takes a corner of it."""
    place = torch.arange(longest, device=like.device)
    visible, bias = make_masks(place[None], place, rule)
    bias = torch.zeros_like(visible, dtype=like.dtype) if bias is None else bias.to(like.dtype)
    return bias.masked_fill(~visible, -math.inf)[0]


def _blocks(segments: _Segments, rule: Rule) -> Iterator[tuple[slice, slice, tuple[slice, slice, slice]]]:
    """Some queries of a document, all keys that any of them sees, and the corner of the bias that is theirs.

    So half of what a causal query does not see is never multiplied out, and what there is at a time fits a cache.
    """
    start = 0
    for length, is_text in segments:
        back = length if rule.window is None else rule.window - 1
        for first in range(0, length if is_text else 0, _BLOCK):
            end = min(first + _BLOCK, length)
            low, high = max(0, first - back), end if rule.causal else min(length, end + back)
            yield (
                slice(start + first, start + end),
                slice(start + low, start + high),
                (slice(None), slice(first, end), slice(low, high)),
            )
        start += length


def _share(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """The probabilities of some queries: h n c, h m c, #h n m -> h n m."""
    return torch.baddbmm(bias, q, k.mT, alpha=1 / math.sqrt(q.size(-1))).softmax(dim=-1)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, segments: _Segments, bias: Tensor, rule: Rule, shares: list[Tensor] | None
) -> Tensor:
    """Mixed values; the probabilities of each block are put into shares."""
    is_whole = all(is_text for _, is_text in segments)
    mixed = torch.empty_like(q) if is_whole else torch.zeros_like(q)
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))  # h t c
    with torch.autocast('cpu', enabled=False):
        for rows, seen, corner in _blocks(segments, rule):
            share = _share(q[:, rows], k[:, seen], bias[corner])
            mixed[rows] = torch.bmm(share, v[:, seen]).transpose(0, 1)
            if shares is not None:
                shares.append(share)
    return mixed


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: _Segments,
    bias: Tensor,
    rule: Rule,
    shares: list[Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """With P the probabilities: dS = P · (dP - sum(P · dP)), then dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO.

    Args:
        shares: What forward kept; None: the probabilities are made once more.
    """
    grad, q, k, v = (x.transpose(0, 1) for x in (grad, q, k, v))  # h t c
    q_grad, k_grad, v_grad = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    scale, kept = 1 / math.sqrt(q.size(-1)), iter(shares or [])
    with torch.autocast('cpu', enabled=False):
        for rows, seen, corner in _blocks(segments, rule):
            queries, keys, out = q[:, rows], k[:, seen], grad[:, rows]
            share = _share(queries, keys, bias[corner]) if shares is None else next(kept)
            v_grad[:, seen].baddbmm_(share.mT, out)
            score_grad = torch._softmax_backward_data(torch.bmm(out, v[:, seen].mT), share, -1, share.dtype)
            q_grad[:, rows].baddbmm_(score_grad, keys, alpha=scale)
            k_grad[:, seen].baddbmm_(score_grad.mT, queries, alpha=scale)
    return q_grad.transpose(0, 1), k_grad.transpose(0, 1), v_grad.transpose(0, 1)


class _Documents(torch.autograd.Function):
    """Written out, because autograd would copy each document's slices and gradients once more."""

    @staticmethod
    def forward(ctx, q, k, v, segments, bias, rule):
        """Keeps each document's probabilities."""
        shares: list[Tensor] = []
        mixed = _forward(q, k, v, segments, bias, rule, shares)
        ctx.save_for_backward(q, k, v, *shares)
        ctx.segments, ctx.bias, ctx.rule = segments, bias, rule
        return mixed

    @staticmethod
    def backward(ctx, grad):
        """As `_backward` says."""
        if torch.is_grad_enabled():  # only with create_graph
            raise RuntimeError('attention inside documents has no second derivative; go back without create_graph')
        q, k, v, *shares = ctx.saved_tensors
        return *_backward(grad, q, k, v, ctx.segments, ctx.bias, ctx.rule, shares), None, None, None


def _read(
    q: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int, causal: bool, window: int | None,
    slopes: Tensor | None,
) -> tuple[_Segments, Tensor, list[slice]]:  # fmt: skip
    """What an operator works with: segments, biases, and which heads at a time (one, where documents are long)."""
    segments = read_segments(starts, is_text, max_length, q.size(0))
    longest, n_heads = _longest(segments), q.size(1)
    step = n_heads if longest <= _LONGEST else 1
    bias = _make_bias(longest, Rule(causal, window, slopes), q).expand(n_heads, -1, -1)
    return segments, bias, [slice(head, head + step) for head in range(0, n_heads, step)]


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, dim=1)


@torch.library.custom_op('xlabml::attend_documents', mutates_args=())
def _attend_documents(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int, causal: bool,
    window: int | None, slopes: Tensor | None,
) -> Tensor:  # fmt: skip
    """The operator: what a document's length is, is its own affair. Its gradient makes probabilities once more."""
    segments, bias, groups = _read(q, starts, is_text, max_length, causal, window, slopes)
    rule = Rule(causal, window)
    parts = [_forward(q[:, heads], k[:, heads], v[:, heads], segments, bias[heads], rule, None) for heads in groups]
    return _join(parts)


@_attend_documents.register_fake
def _(q, k, v, starts, is_text, max_length, causal, window, slopes):
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@torch.library.custom_op('xlabml::attend_documents_backward', mutates_args=())
def _attend_documents_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int,
    causal: bool, window: int | None, slopes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    segments, bias, groups = _read(q, starts, is_text, max_length, causal, window, slopes)
    rule = Rule(causal, window)
    parts = [
        _backward(grad[:, heads], q[:, heads], k[:, heads], v[:, heads], segments, bias[heads], rule, None)
        for heads in groups
    ]
    q_grad, k_grad, v_grad = (_join(list(grads)) for grads in zip(*parts))
    return q_grad, k_grad, v_grad


@_attend_documents_backward.register_fake
def _(grad, q, k, v, starts, is_text, max_length, causal, window, slopes):
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))


def _keep(ctx, inputs, output):
    q, k, v, starts, is_text, ctx.max_length, ctx.causal, ctx.window, slopes = inputs
    ctx.save_for_backward(q, k, v, starts, is_text, slopes)


def _go_back(ctx, grad):
    *parts, slopes = ctx.saved_tensors
    grads = _attend_documents_backward(grad, *parts, ctx.max_length, ctx.causal, ctx.window, slopes)
    return *grads, None, None, None, None, None, None


_attend_documents.register_autograd(_go_back, setup_context=_keep)
