"""Attention inside the documents of a packed row on a CPU, one after another: memory grows with the row's length only.

By blocks of one document after another (short_documents.py), long documents in bf16 by a way of their own where there
is AMX (long_documents.py). Where the processor's entry in `CPU_WAYS` says tiles, passes of many short documents go by
tiles of all of them (tiled_documents.py).

Compiled, all of it is one operator that the compiler does not look into, so that new lengths compile nothing anew.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlabml.hardware import CpuKind, cpu_kind

from .definition import Documents, Rule, mix
from .long_documents import LEAST, Run, make_runs, mix_long, unmix_long
from .short_documents import (
    Block,
    Segments,
    longest_text,
    make_blocks,
    mix_blocks,
    turn_all,
    unmix_blocks,
    widened,
)
from .tiled_documents import Tiling, make_tiling, mix_tiles, turn_tiles, unmix_tiles

CPU_WAYS: dict[CpuKind, Literal['blocks', 'tiles']] = {'amx': 'blocks', 'avx512_bf16': 'tiles', 'other': 'blocks'}
"""The way of many short documents on each kind of processor; fixed, so that results are repeatable (docs/log.md)."""

_SHORT = 32
"""Documents are short where they have fewer tokens on average: else blocks are as fast as tiles, or faster."""

_LONGEST_TILED = 512
"""Where a document has more tokens, tiles would have too large a mask: blocks have none."""

_LONGEST = 1024
"""Where one that is not long has more tokens, all go to torch's kernel, which keeps no n x n probabilities."""


def read_segments(starts: Tensor, is_text: Tensor | None, max_length: int, n_slots: int) -> Segments:
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
    if segments is None or q.device.type != 'cpu':  # with a cache a device's layout is read too
        return _mix_unread(q, k, v, rule, documents, is_plain)
    if not (is_plain or rule.dropout):
        key = 'documents', rule.window
        if key not in made:
            parts = _part(segments, rule, q)
            made[key] = _make_plan(parts, segments, rule, q) if longest_text(parts.others) <= _LONGEST else None
        if made[key] is not None:
            return _Documents.apply(q, *_ungroup(q, k, v), made[key])
    dtype = q.dtype
    q, k, v = (x.to(widened(x)) for x in (q, k, v))
    lengths = [length for length, _ in segments]
    mixed = []
    # Transposed before they are split, so that the gradient is put together by one cat.
    rows = (x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v))  # 1 h n c
    for (length, is_text), queries, keys, values in zip(segments, *rows):
        if length:
            part = mix(queries, keys, values, rule, is_plain=is_plain) if is_text else torch.zeros_like(queries)
            mixed.append(part)
    return torch.cat([part[0].transpose(0, 1) for part in mixed]).to(dtype)


def _mix_unread(q: Tensor, k: Tensor, v: Tensor, rule: Rule, documents: Documents, is_plain: bool) -> Tensor:
    """The same where the layout is not read: on a device, or while compiling."""
    if q.device.type == 'cpu' and not (is_plain or rule.dropout):
        k, v = _ungroup(q, k, v)
        return _attend_documents(
            q, k, v, documents.starts, documents.is_text, documents.max_length, rule.causal, rule.window, rule.slopes
        )
    dtype = q.dtype
    if q.device.type == 'cpu':
        q, k, v = (x.to(widened(x)) for x in (q, k, v))
    q, k, v = (x.unflatten(0, documents.segment.shape).transpose(1, 2) for x in (q, k, v))  # b h n c
    return mix(q, k, v, rule, documents=documents, is_plain=is_plain).transpose(1, 2).flatten(0, 1).to(dtype)


def _ungroup(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    n_shared = q.size(1) // k.size(1)
    return (k, v) if n_shared == 1 else (k.repeat_interleave(n_shared, dim=1), v.repeat_interleave(n_shared, dim=1))


class _Plan(NamedTuple):
    """How the documents of a pass are looked at, one part after another.

    Args:
        runs: Long documents.
        tokens: Which tokens are not of these; None: all.
        blocks: Of these tokens.
    """

    runs: list[Run]
    tokens: Int[Tensor, ' n'] | None
    blocks: list[Block]

    def pick(self, x: Float[Tensor, 't h c']) -> Float[Tensor, 'n h c']:
        """What blocks look at."""
        return x if self.tokens is None else x[self.tokens]


class _Parts(NamedTuple):
    """Segments apart.

    Args:
        long: Where long documents are, in all tokens.
        others: The rest; where there are long ones, without padding.
        tokens: As in _Plan.
    """

    long: list[slice]
    others: Segments
    tokens: Int[Tensor, ' n'] | None


def _part(segments: Segments, rule: Rule, like: Tensor) -> _Parts:
    """Tell long documents from others.

    Args:
        like: Has the type of queries, keys and values.
    """
    most = math.inf if rule.slopes is None else _LONGEST
    can_be_long = _is_narrow(like) and rule.window is None
    starts = itertools.accumulate((length for length, _ in segments), initial=0)
    long, others, tokens = [], [], [torch.empty(0, dtype=torch.long)]
    for start, (length, is_text) in zip(starts, segments):
        if can_be_long and is_text and LEAST <= length <= most:
            long.append(slice(start, start + length))
        elif is_text and length:
            others.append((length, True))
            tokens.append(torch.arange(start, start + length))
    return _Parts(long, others, torch.cat(tokens)) if long else _Parts([], segments, None)


def _make_plan(parts: _Parts, segments: Segments, rule: Rule, like: Tensor) -> _Plan | Tiling:
    texts = [length for length, is_text in segments if is_text and length]
    is_short = sum(texts) < _SHORT * len(texts) and max(texts) <= _LONGEST_TILED
    if is_short and _is_tiled(rule.slopes is not None):
        return make_tiling(segments, rule, like)
    return _Plan(make_runs(parts.long, rule), parts.tokens, make_blocks(parts.others, rule, like))


def describe_way(has_slopes: bool) -> str:
    """The way that this processor goes, and why."""
    name = {'amx': 'AMX', 'avx512_bf16': 'AVX-512-BF16, no AMX', 'other': 'neither AMX nor AVX-512-BF16'}[cpu_kind()]
    if _is_tiled(has_slopes):
        return f'by blocks, by tiles below {_SHORT} tokens on average (the CPU has {name})'
    return f'by blocks (the CPU has {name})'


def _is_tiled(has_slopes: bool) -> bool:
    return CPU_WAYS[cpu_kind()] == 'tiles' and not has_slopes


def _is_narrow(like: Tensor) -> bool:
    return like.dtype == torch.bfloat16 and cpu_kind() == 'amx'


def _mix(plan: _Plan | Tiling, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor] | None = None) -> Tensor:
    """Mixed values, t h c, of queries, keys and values, each t h c.

    Args:
        kept: Where what came in is put, if documents are long, and what `mix_blocks` or `mix_tiles` keeps; None:
            nowhere.
    """
    if isinstance(plan, Tiling):
        return mix_tiles(plan, q, k, v, kept)
    if kept is not None and plan.runs:
        kept += q, k, v
    if plan.tokens is None:
        return mix_blocks(plan.blocks, q, k, v, kept)
    mixed = torch.zeros(q.shape, dtype=q.dtype)
    if plan.blocks:
        mixed[plan.tokens] = mix_blocks(plan.blocks, plan.pick(q), plan.pick(k), plan.pick(v), kept)
    for run in plan.runs:
        mix_long(run, q, k, v, mixed)
    return mixed


def _unmix(
    plan: _Plan | Tiling, grad: Tensor, qkv: Sequence[Tensor], kept: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, each t h c.

    Args:
        grad: Of the mixed values, t h c.
        qkv: As they came in; not needed where no document is long and something is kept.
        kept: By `mix_blocks` or `mix_tiles`; nothing: it is made once more.
    """
    if isinstance(plan, Tiling):
        return unmix_tiles(plan, grad, kept[:3] or turn_tiles(plan, *qkv), kept[3:])
    some = []
    if plan.blocks or plan.tokens is None:
        turned = kept[:3] or turn_all(*(plan.pick(x) for x in qkv))
        some = unmix_blocks(plan.blocks, plan.pick(grad), turned, kept[3:])
    if plan.tokens is None:
        return some[0], some[1], some[2]
    grads = [torch.zeros(grad.shape, dtype=grad.dtype) for _ in range(3)]
    for whole, part in zip(grads, some):
        whole[plan.tokens] = part
    for run in plan.runs:
        unmix_long(run, grad, qkv, grads)
    return grads[0], grads[1], grads[2]


class _Documents(torch.autograd.Function):
    """Written out, because autograd would copy each document's slices and gradients once more."""

    @staticmethod
    def forward(ctx, q, k, v, plan):
        """Keeps what `_mix` says."""
        kept: list[Tensor] | None = [] if any(ctx.needs_input_grad) else None
        mixed = _mix(plan, q, k, v, kept)
        if kept is not None:
            ctx.plan = plan
            ctx.save_for_backward(*kept)
        return mixed

    @staticmethod
    def backward(ctx, grad):
        """As `_unmix` says."""
        if torch.is_grad_enabled():  # only with create_graph
            raise RuntimeError('attention inside documents has no second derivative; go back without create_graph')
        saved, n_in = ctx.saved_tensors, 3 if isinstance(ctx.plan, _Plan) and ctx.plan.runs else 0
        return *_unmix(ctx.plan, grad, saved[:n_in], saved[n_in:]), None


def _read(
    q: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int, causal: bool, window: int | None,
    slopes: Tensor | None,
) -> list[tuple[slice, _Plan | Tiling]]:  # fmt: skip
    """What an operator works with, and on which heads at a time (one, where they are many tokens)."""
    rule = Rule(causal, window, slopes)
    segments = read_segments(starts, is_text, max_length, q.size(0))
    parts = _part(segments, rule, q)
    step = q.size(1) if longest_text(parts.others) <= _LONGEST else 1
    groups = [slice(head, head + step) for head in range(0, q.size(1), step)]
    if slopes is None:
        plan = _make_plan(parts, segments, rule, q)
        return [(heads, plan) for heads in groups]
    return [(heads, _make_plan(parts, segments, rule._replace(slopes=slopes[heads]), q)) for heads in groups]


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@torch.library.custom_op('xlabml::attend_documents', mutates_args=())
def _attend_documents(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int, causal: bool,
    window: int | None, slopes: Tensor | None,
) -> Tensor:  # fmt: skip
    """The operator: what a document's length is, is its own affair. Its gradient makes probabilities once more."""
    groups = _read(q, starts, is_text, max_length, causal, window, slopes)
    return _join([_mix(plan, q[:, heads], k[:, heads], v[:, heads]) for heads, plan in groups])


@_attend_documents.register_fake
def _(q, k, v, starts, is_text, max_length, causal, window, slopes):
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@torch.library.custom_op('xlabml::attend_documents_backward', mutates_args=())
def _attend_documents_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int,
    causal: bool, window: int | None, slopes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    groups = _read(q, starts, is_text, max_length, causal, window, slopes)
    parts = [_unmix(plan, grad[:, heads], [x[:, heads] for x in (q, k, v)]) for heads, plan in groups]
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
