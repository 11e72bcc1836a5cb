"""Attention inside the documents of packed rows on a CPU, in a compiled model: one custom operator.

The compiler does not trace into it, so new document lengths cause no recompilation. Its backward pass recomputes the
probabilities, but those of padded documents, which are kept in a tensor that is large enough for any layout.
"""

from collections.abc import Hashable

import torch
from jaxtyping import Float
from torch import Tensor

from xlabml.hardware import cpu_kind

from .definition import Pass, Rule
from .documents import (
    AnyPlan,
    attend_plan,
    attend_plan_backward,
    is_multiplied_out,
    is_padded,
    make_plan,
    part_segments,
    ungroup,
)
from .padded_documents import Padding, most_padded
from .places import Documents, read_segments


class OperatorPass(Pass):
    """Packed rows on a CPU whose layout is read inside the operator only; the output of padding is zero."""

    def __init__(self, rule: Rule, documents: Documents) -> None:
        self.rule = rule
        self.documents = documents

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """As in Pass."""
        rule = self.rule
        documents = self.documents
        shape = q.shape
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # t h c
        k, v = ungroup(q, k, v)
        output, _ = _attend_documents(
            q, k, v, documents.starts, documents.is_text, documents.max_length, rule.causal, rule.window, rule.slopes,
            torch.is_grad_enabled(),
        )  # fmt: skip
        return output.view(shape)


_PLANS: dict[Hashable, list[tuple[slice, AnyPlan]]] = {}
"""The last plans. The layers of a pass ask for the same one, forward and backward."""

_MOST_PLANS = 4


def _read(
    q: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int, causal: bool, window: int | None,
    slopes: Tensor | None,
) -> list[tuple[slice, AnyPlan]]:  # fmt: skip
    """Groups of heads, each with its plan: all heads in one, or one head at a time where documents are long."""
    if slopes is not None:
        return _plan(q, starts, is_text, max_length, Rule(causal, window, slopes))
    layout = tuple(None if x is None else x.numpy().tobytes() for x in (starts, is_text))
    key = cpu_kind(), layout, max_length, q.shape[:2], q.dtype, causal, window
    found = _PLANS.get(key)
    if found is None:
        found = _plan(q, starts, is_text, max_length, Rule(causal, window))
        if len(_PLANS) >= _MOST_PLANS:
            _PLANS.pop(next(iter(_PLANS)), None)
        _PLANS[key] = found
    return found


def _plan(
    q: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int, rule: Rule
) -> list[tuple[slice, AnyPlan]]:
    segments = read_segments(starts, is_text, max_length, q.size(0))
    parts = part_segments(segments, rule, q)
    step = q.size(1) if is_multiplied_out(parts) else 1
    groups = [slice(head, head + step) for head in range(0, q.size(1), step)]
    slopes = rule.slopes
    if slopes is None:
        plan = make_plan(parts, segments, rule, q[:, :step])
        return [(heads, plan) for heads in groups]
    return [(heads, make_plan(parts, segments, rule._replace(slopes=slopes[heads]), q[:, heads])) for heads in groups]


def _join(parts: list[Tensor]) -> Tensor:  # groups of heads: t h c
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


_MOST_KEPT = 1 << 28
"""Bytes that the room for what is kept may have; it is memory only as far as it is used."""


def _room(q: Tensor, starts: Tensor, max_length: int, has_slopes: bool, wants_grad: bool) -> int:
    """Numbers that padded documents may keep, with any layout of as many segments; 0: nothing is kept."""
    if not wants_grad or has_slopes or not is_padded(q.dtype):
        return 0
    n_rows = q.size(1) * most_padded(q.size(0), starts.numel() - 1)
    room = n_rows * (3 * q.size(2) + most_padded(min(max_length, q.size(0)), 1))
    return room if room * q.element_size() <= _MOST_KEPT else 0


@torch.library.custom_op('xlabml::attend_documents', mutates_args=())
def _attend_documents(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int, causal: bool,
    window: int | None, slopes: Tensor | None, wants_grad: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The operator: it reads the lengths of documents itself, and saves its inputs and what it keeps for the backward
    pass."""
    groups = _read(q, starts, is_text, max_length, causal, window, slopes)
    room = q.new_empty(_room(q, starts, max_length, slopes is not None, wants_grad))
    plan = groups[0][1] if len(groups) == 1 else None
    if room.numel() and isinstance(plan, Padding):
        kept: list[Tensor] = []
        output = attend_plan(plan, q, k, v, kept)
        for part, x in zip(plan.split_kept(room, q.size(2)), kept, strict=True):
            part.copy_(x)
        return output, room
    return _join([attend_plan(plan, q[:, heads], k[:, heads], v[:, heads]) for heads, plan in groups]), room


@_attend_documents.register_fake
def _(q, k, v, starts, is_text, max_length, causal, window, slopes, wants_grad=True):
    room = torch.empty(_room(q, starts, max_length, slopes is not None, wants_grad), dtype=q.dtype, device=q.device)
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), room


@torch.library.custom_op('xlabml::attend_documents_backward', mutates_args=())
def _attend_documents_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, is_text: Tensor | None, max_length: int,
    causal: bool, window: int | None, slopes: Tensor | None, room: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    groups = _read(q, starts, is_text, max_length, causal, window, slopes)
    plan = groups[0][1] if len(groups) == 1 else None
    if room.numel() and isinstance(plan, Padding):
        return attend_plan_backward(plan, grad, (), plan.split_kept(room, q.size(2)))
    parts = [attend_plan_backward(plan, grad[:, heads], [x[:, heads] for x in (q, k, v)]) for heads, plan in groups]
    q_grad, k_grad, v_grad = (_join(list(grads)) for grads in zip(*parts))
    return q_grad, k_grad, v_grad


@_attend_documents_backward.register_fake
def _(grad, q, k, v, starts, is_text, max_length, causal, window, slopes, room):
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))


def _save_for_backward(ctx, inputs, output):
    q, k, v, starts, is_text, ctx.max_length, ctx.causal, ctx.window, slopes, _ = inputs
    ctx.save_for_backward(q, k, v, starts, is_text, slopes, output[1])
    ctx.set_materialize_grads(False)  # else zeros are made for the gradient of what is kept


def _backward(ctx, grad, _):
    *parts, slopes, room = ctx.saved_tensors
    grads = _attend_documents_backward(grad, *parts, ctx.max_length, ctx.causal, ctx.window, slopes, room)
    return *grads, None, None, None, None, None, None, None


_attend_documents.register_autograd(_backward, setup_context=_save_for_backward)
