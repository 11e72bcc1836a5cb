"""Attention inside the documents of packed rows on a CPU, their lengths known: memory grows with the tokens only.

By blocks of one document after another (short_documents.py), long documents in bf16 by a way of their own where there
is AMX (long_documents.py). Where the processor's entry in `CPU_WAYS` says tiles, passes of many short documents go by
tiles of all of them (tiled_documents.py). In a compiled model all of it is one operator (compiled_documents.py).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlabml.hardware import CpuKind, cpu_kind

from .definition import Pass, Rule, widened
from .long_documents import LEAST, Run, attend_long, attend_long_backward, make_runs
from .masked import attend_fused
from .places import Documents, Segments, longest_text
from .short_documents import Block, attend_blocks, attend_blocks_backward, make_blocks, transpose_all
from .tiled_documents import Tiling, attend_tiles, attend_tiles_backward, make_tiles, make_tiling

CPU_WAYS: dict[CpuKind, Literal['blocks', 'tiles']] = {'amx': 'blocks', 'avx512_bf16': 'tiles', 'other': 'blocks'}
"""The way of many short documents on each kind of processor; fixed, so that results are repeatable (docs/log.md)."""

_SHORT = 32
"""Documents are short where they have fewer tokens on average: else blocks are as fast as tiles, or faster."""

_LONGEST_TILED = 512
"""Where a document has more tokens, tiles would have too large a mask: blocks have none."""

_LONGEST = 1024
"""Where one that is not long has more tokens, all go to torch's kernel, which keeps no n x n probabilities."""


class DocumentsPass(Pass):
    """Packed rows on a CPU, their layout read; zeros where a segment is padding.

    Args:
        is_plain: Compute it as `attend` defines it.
    """

    def __init__(self, rule: Rule, documents: Documents, is_plain: bool = False) -> None:
        assert documents.segments is not None
        self.rule = rule
        self.segments = documents.segments
        self._plan: Plan | Tiling | None = None
        self._is_planned = is_plain or bool(rule.dropout)  # both go document by document
        self._is_plain = is_plain

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """As in Pass."""
        shape = q.shape
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # t h c
        if not self._is_planned:  # by the first layer that attends, whose dtype decides
            parts = part_segments(self.segments, self.rule, q)
            self._plan = make_plan(parts, self.segments, self.rule, q) if is_multiplied_out(parts) else None
            self._is_planned = True
        if self._plan is None:
            return self._one_by_one(q, k, v).view(shape)
        return _Documents.apply(q, *ungroup(q, k, v), self._plan).view(shape)

    def _one_by_one(
        self, q: Float[Tensor, 't h c'], k: Float[Tensor, 't g c'], v: Float[Tensor, 't g c']
    ) -> Float[Tensor, 't h c']:
        """By torch's kernel, or as defined."""
        dtype = q.dtype
        q, k, v = (x.to(widened(x)) for x in (q, k, v))
        lengths = [length for length, _ in self.segments]
        output = []
        # Transposed before they are split, so that the gradient is put together by one cat.
        rows = (x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v))  # 1 h n c
        for (length, is_text), queries, keys, values in zip(self.segments, *rows):
            if length and is_text:
                output.append(attend_fused(queries, keys, values, self.rule, is_plain=self._is_plain))
            elif length:
                output.append(torch.zeros_like(queries))
        return torch.cat([part[0].transpose(0, 1) for part in output]).to(dtype)


def ungroup(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values, t g c, with as many heads as the queries have, t h c."""
    n_shared = q.size(1) // k.size(1)
    if n_shared == 1:
        return k, v
    return k.repeat_interleave(n_shared, dim=1), v.repeat_interleave(n_shared, dim=1)


class Plan(NamedTuple):
    """In which parts the documents of a pass are computed.

    Args:
        runs: Long documents.
        tokens: Which tokens are not of these; None: all.
        blocks: Of these tokens.
    """

    runs: list[Run]
    tokens: Int[Tensor, ' n'] | None
    blocks: list[Block]

    def gather(self, x: Float[Tensor, 't h c']) -> Float[Tensor, 'n h c']:
        """The tokens of the blocks."""
        return x if self.tokens is None else x[self.tokens]


class Parts(NamedTuple):
    """Segments apart.

    Args:
        long: Where long documents are, in all tokens.
        others: The rest; where there are long ones, without padding.
        tokens: As in Plan.
    """

    long: list[slice]
    others: Segments
    tokens: Int[Tensor, ' n'] | None


def part_segments(segments: Segments, rule: Rule, like: Tensor) -> Parts:
    """Tell long documents from others.

    Args:
        like: Has the type of queries, keys and values.
    """
    most = math.inf if rule.slopes is None else _LONGEST
    can_be_long = _is_narrow(like) and rule.window is None
    starts = itertools.accumulate((length for length, _ in segments), initial=0)
    long: list[slice] = []
    others: Segments = []
    tokens = [torch.empty(0, dtype=torch.long)]
    for start, (length, is_text) in zip(starts, segments):
        if can_be_long and is_text and LEAST <= length <= most:
            long.append(slice(start, start + length))
        elif is_text and length:
            others.append((length, True))
            tokens.append(torch.arange(start, start + length))
    return Parts(long, others, torch.cat(tokens)) if long else Parts([], segments, None)


def is_multiplied_out(parts: Parts) -> bool:
    """Whether scores of whole documents are kept; else torch's kernel, or a head at a time."""
    return longest_text(parts.others) <= _LONGEST


def make_plan(parts: Parts, segments: Segments, rule: Rule, like: Tensor) -> Plan | Tiling:
    """Choose tiles or blocks, and cut the documents.

    Args:
        like: Has the type of queries, keys and values.
    """
    texts = [length for length, is_text in segments if is_text and length]
    is_short = sum(texts) < _SHORT * len(texts) and max(texts) <= _LONGEST_TILED
    if is_short and _is_tiled(rule.slopes is not None):
        return make_tiling(segments, rule, like)
    return Plan(make_runs(parts.long, rule), parts.tokens, make_blocks(parts.others, rule, like))


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


def attend_plan(plan: Plan | Tiling, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor] | None = None) -> Tensor:
    """Mixed values, t h c, of queries, keys and values, each t h c.

    Args:
        kept: Receives the inputs, if documents are long, and what `attend_blocks` or `attend_tiles` keeps; None:
            nothing is kept.
    """
    if isinstance(plan, Tiling):
        return attend_tiles(plan, q, k, v, kept)
    if kept is not None and plan.runs:
        kept += q, k, v
    if plan.tokens is None:
        return attend_blocks(plan.blocks, q, k, v, kept)
    output = torch.zeros(q.shape, dtype=q.dtype)
    if plan.blocks:
        output[plan.tokens] = attend_blocks(plan.blocks, plan.gather(q), plan.gather(k), plan.gather(v), kept)
    for run in plan.runs:
        attend_long(run, q, k, v, output)
    return output


def attend_plan_backward(
    plan: Plan | Tiling, grad: Tensor, qkv: Sequence[Tensor], kept: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, each t h c.

    Args:
        grad: Of the output, t h c.
        qkv: The inputs; not needed where no document is long and something is kept.
        kept: By `attend_blocks` or `attend_tiles`; empty: it is computed once more.
    """
    if isinstance(plan, Tiling):
        return attend_tiles_backward(plan, grad, kept[:3] or make_tiles(plan, *qkv), kept[3:])
    some = []
    if plan.blocks or plan.tokens is None:
        transposed = kept[:3] or transpose_all(*(plan.gather(x) for x in qkv))
        some = attend_blocks_backward(plan.blocks, plan.gather(grad), transposed, kept[3:])
    if plan.tokens is None:
        return some[0], some[1], some[2]
    grads = [torch.zeros(grad.shape, dtype=grad.dtype) for _ in range(3)]
    for whole, part in zip(grads, some):
        whole[plan.tokens] = part
    for run in plan.runs:
        attend_long_backward(run, grad, qkv, grads)
    return grads[0], grads[1], grads[2]


class _Documents(torch.autograd.Function):
    """Written out, because autograd would copy each document's slices and gradients once more."""

    @staticmethod
    def forward(ctx, q, k, v, plan):
        """Keeps what `attend_plan` says."""
        kept: list[Tensor] | None = [] if any(ctx.needs_input_grad) else None
        output = attend_plan(plan, q, k, v, kept)
        if kept is not None:
            ctx.plan = plan
            ctx.save_for_backward(*kept)
        return output

    @staticmethod
    def backward(ctx, grad):
        """As `attend_plan_backward` says."""
        if torch.is_grad_enabled():  # only with create_graph
            raise RuntimeError('attention inside documents has no second derivative; go back without create_graph')
        saved = ctx.saved_tensors
        n_in = 3 if isinstance(ctx.plan, Plan) and ctx.plan.runs else 0
        return *attend_plan_backward(ctx.plan, grad, saved[:n_in], saved[n_in:]), None
