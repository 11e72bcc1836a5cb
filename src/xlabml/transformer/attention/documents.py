"""Attention inside the documents of packed rows on a CPU, from their known lengths: memory is linear in the tokens.

Five algorithms: blocks of queries, document by document (short_documents.py); long documents in bf16 on CPUs with AMX
(long_documents.py); documents padded to few lengths, in bf16 on CPUs that multiply it without AMX
(padded_documents.py); tiles over all documents of a pass of many short ones, on CPUs whose entry in `CPU_WAYS` says so
(tiled_documents.py); torch's fused kernel, document by document. In a compiled model all of it is one operator
(compiled_documents.py).
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
from .padded_documents import Padding, attend_padded, attend_padded_backward, gather_all, make_padding
from .places import Documents, Segments, longest_text
from .short_documents import Block, attend_blocks, attend_blocks_backward, make_blocks, transpose_all
from .tiled_documents import Tiling, attend_tiles, attend_tiles_backward, make_tiles, make_tiling

CPU_WAYS: dict[CpuKind, Literal['blocks', 'tiles']] = {'amx': 'blocks', 'avx512_bf16': 'tiles', 'other': 'blocks'}
"""The algorithm for many short documents by kind of CPU (measured: docs/log.md); fixed, so that runs are repeatable."""

_SHORT = 32
"""Mean length in tokens below which tiles are faster than blocks."""

_LONGEST_TILED = 512
"""Longest document that tiles take, in tokens: their masks grow with it, blocks have none."""

_LONGEST = 1024
"""Longest document of blocks, in tokens; beyond it torch's kernel is taken, which keeps no n x n probabilities."""


class DocumentsPass(Pass):
    """Packed rows on a CPU whose layout the host has read; the output of padding is zero.

    Args:
        is_plain: Compute it as `attend` defines it.
    """

    def __init__(self, rule: Rule, documents: Documents, is_plain: bool = False) -> None:
        assert documents.segments is not None
        self.rule = rule
        self.segments = documents.segments
        self._plan: AnyPlan | None = None
        self._is_planned = is_plain or bool(rule.dropout)  # both are computed document by document
        self._is_plain = is_plain

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """As in Pass."""
        shape = q.shape
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # t h c
        if not self._is_planned:  # once a pass, in its first layer, since the plan depends on the dtype
            parts = part_segments(self.segments, self.rule, q)
            self._plan = make_plan(parts, self.segments, self.rule, q) if is_multiplied_out(parts) else None
            self._is_planned = True
        if self._plan is None:
            return self._one_by_one(q, k, v).view(shape)
        return _Documents.apply(q, *ungroup(q, k, v), self._plan).view(shape)

    def _one_by_one(
        self, q: Float[Tensor, 't h c'], k: Float[Tensor, 't g c'], v: Float[Tensor, 't g c']
    ) -> Float[Tensor, 't h c']:
        """Document by document, by torch's kernel or as defined."""
        dtype = q.dtype
        q, k, v = (x.to(widened(x)) for x in (q, k, v))
        lengths = [length for length, _ in self.segments]
        output = []
        # Transposed before the split, so that the backward pass is one cat.
        rows = (x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v))  # 1 h n c
        for (length, is_text), queries, keys, values in zip(self.segments, *rows):
            if length and is_text:
                output.append(attend_fused(queries, keys, values, self.rule, is_plain=self._is_plain))
            elif length:
                output.append(torch.zeros_like(queries))
        return torch.cat([part[0].transpose(0, 1) for part in output]).to(dtype)


def ungroup(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat the heads of keys and values: t g c -> t h c."""
    n_shared = q.size(1) // k.size(1)
    if n_shared == 1:
        return k, v
    return k.repeat_interleave(n_shared, dim=1), v.repeat_interleave(n_shared, dim=1)


class Plan(NamedTuple):
    """How the documents of a pass are divided between the algorithms.

    Args:
        runs: Long documents.
        tokens: Indices of the tokens outside of long documents; None: all tokens.
        blocks: Blocks of these tokens.
    """

    runs: list[Run]
    tokens: Int[Tensor, ' n'] | None
    blocks: list[Block]

    def gather(self, x: Float[Tensor, 't h c']) -> Float[Tensor, 'n h c']:
        """Select the tokens of the blocks."""
        return x if self.tokens is None else x[self.tokens]


AnyPlan = Plan | Tiling | Padding


class Parts(NamedTuple):
    """Segments, divided into long documents and others.

    Args:
        long: Token ranges of the long documents.
        others: The other segments; without padding, where there are long documents.
        tokens: As in Plan.
    """

    long: list[slice]
    others: Segments
    tokens: Int[Tensor, ' n'] | None


def part_segments(segments: Segments, rule: Rule, like: Tensor) -> Parts:
    """Divide the segments into long documents and others.

    Args:
        like: A tensor with the dtype of queries, keys and values.
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
    """Whether the score matrices are computed and stored; else torch's kernel, or one head at a time."""
    return longest_text(parts.others) <= _LONGEST


def make_plan(parts: Parts, segments: Segments, rule: Rule, like: Tensor) -> AnyPlan:
    """Choose tiles, padded documents or blocks, and divide the documents.

    Args:
        like: Queries, keys or values, with as many heads as queries.
    """
    texts = [length for length, is_text in segments if is_text and length]
    is_short = sum(texts) < _SHORT * len(texts) and max(texts) <= _LONGEST_TILED
    if is_short and _is_tiled(rule.slopes is not None):
        return make_tiling(segments, rule, like)
    if texts and rule.slopes is None and is_padded(like.dtype):
        return make_padding(segments, rule, like.size(1))
    return Plan(make_runs(parts.long, rule), parts.tokens, make_blocks(parts.others, rule, like))


def describe_way(has_slopes: bool, dtype: torch.dtype) -> str:
    """The algorithm on this CPU, and the reason.

    Args:
        dtype: Dtype of queries, keys and values.
    """
    name = {'amx': 'AMX', 'avx512_bf16': 'AVX-512-BF16, no AMX', 'other': 'neither AMX nor AVX-512-BF16'}[cpu_kind()]
    way = 'padded in bf16' if is_padded(dtype) and not has_slopes else 'by blocks'
    tiles = f', by tiles below {_SHORT} tokens on average' if _is_tiled(has_slopes) else ''
    return f'{way}{tiles} (the CPU has {name})'


def _is_tiled(has_slopes: bool) -> bool:
    return CPU_WAYS[cpu_kind()] == 'tiles' and not has_slopes


def is_padded(dtype: torch.dtype) -> bool:
    """Whether this CPU computes documents of this dtype padded."""
    return dtype == torch.bfloat16 and cpu_kind() == 'avx512_bf16'


def _is_narrow(like: Tensor) -> bool:
    return like.dtype == torch.bfloat16 and cpu_kind() == 'amx'


def attend_plan(plan: AnyPlan, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor] | None = None) -> Tensor:
    """The attention output, t h c, of queries, keys and values, each t h c.

    Args:
        kept: Receives the inputs, if documents are long, and what `attend_blocks`, `attend_tiles` or `attend_padded`
            keeps; None: nothing is kept.
    """
    if isinstance(plan, Tiling):
        return attend_tiles(plan, q, k, v, kept)
    if isinstance(plan, Padding):
        return attend_padded(plan, q, k, v, kept)
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
    plan: AnyPlan, grad: Tensor, qkv: Sequence[Tensor], kept: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, each t h c.

    Args:
        grad: Gradient of the output, t h c.
        qkv: The inputs; not needed where no document is long and `kept` is not empty.
        kept: What `attend_blocks`, `attend_tiles` or `attend_padded` kept; empty: it is recomputed.
    """
    if isinstance(plan, Tiling):
        return attend_tiles_backward(plan, grad, kept[:3] or make_tiles(plan, *qkv), kept[3:])
    if isinstance(plan, Padding):
        return attend_padded_backward(plan, grad, kept[:3] or gather_all(plan, *qkv), kept[3:])
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
    """A backward pass by hand: autograd would copy the slices and gradients of each document once more."""

    @staticmethod
    def forward(ctx, q, k, v, plan):
        """Saves what `attend_plan` keeps."""
        kept: list[Tensor] | None = [] if any(ctx.needs_input_grad) else None
        output = attend_plan(plan, q, k, v, kept)
        if kept is not None:
            ctx.plan = plan
            ctx.save_for_backward(*kept)
        return output

    @staticmethod
    def backward(ctx, grad):
        """`attend_plan_backward`."""
        if torch.is_grad_enabled():  # only with create_graph
            raise RuntimeError(
                'attention inside documents has no second derivative; call backward without create_graph'
            )
        saved = ctx.saved_tensors  # q k v where documents are long, then what is kept of the others
        n_in = 3 if isinstance(ctx.plan, Plan) and ctx.plan.runs else 0
        return *attend_plan_backward(ctx.plan, grad, saved[:n_in], saved[n_in:]), None
