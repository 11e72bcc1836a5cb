"""Attention by each backend: `compute`, and FlashAttention's and FlexAttention's kernels, told where documents begin.

They read the layout on the device, so that the host waits for nothing. What they give for padding means nothing, and
is finite: a padded segment is a document of its own.
"""

import functools
from collections.abc import Callable
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .backends import find_varlen
from .definition import Documents, Rule, mix
from .documents import mix_documents


def mix_varlen(
    q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c'], rule: Rule,
    documents: Documents | None, made: dict[Any, Any],
) -> Float[Tensor, 'b n h c']:  # fmt: skip
    """By torch's varlen_attn: FlashAttention-2, or what was activated in its place.

    Args:
        documents: None: every row is one document.
        made: As in Shared.
    """
    varlen = find_varlen()
    assert varlen is not None  # else it was not chosen
    starts, longest = _starts(q, documents, made)
    if q.size(2) != k.size(2) and not varlen.has_groups:
        k, v = (x.repeat_interleave(q.size(2) // k.size(2), dim=2) for x in (k, v))
    options: dict[str, Any] = {'window_size': _window(rule)}
    if varlen.has_groups:
        options['enable_gqa'] = q.size(2) != k.size(2)
    parts = (x.flatten(0, 1) for x in (q, k, v))  # t h c
    return varlen.function(*parts, starts, starts, longest, longest, **options).view(q.shape)


def mix_flash_attn(
    q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c'], rule: Rule,
    documents: Documents | None, made: dict[Any, Any],
) -> Float[Tensor, 'b n h c']:  # fmt: skip
    """By the package flash-attn; arguments as in mix_varlen."""
    from flash_attn import flash_attn_varlen_func

    starts, longest = _starts(q, documents, made)
    mixed = flash_attn_varlen_func(
        *(x.flatten(0, 1) for x in (q, k, v)),  # t h c
        cu_seqlens_q=starts,
        cu_seqlens_k=starts,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        dropout_p=rule.dropout,
        causal=rule.causal,
        window_size=_window(rule),
        softcap=rule.score_cap or 0.0,
        alibi_slopes=None if rule.slopes is None else rule.slopes.float(),
        deterministic=torch.are_deterministic_algorithms_enabled(),  # of the gradient; torch's own kernels look
    )
    return mixed.view(q.shape)


def mix_flex(
    q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c'], rule: Rule,
    documents: Documents | None, made: dict[Any, Any],
) -> Float[Tensor, 'b n h c']:  # fmt: skip
    """By FlexAttention; arguments as in mix_varlen, and `made` holds the block masks of `make_block_mask`."""
    cap, slopes = rule.score_cap, rule.slopes

    @no_type_check  # torch looks into it, and at how many arguments it has
    def bend(score, row, head, query, key):
        if cap is not None:
            score = cap * torch.tanh(score / cap)
        return score if slopes is None else score - slopes[head] * (query - key).abs()

    mixed = _flex()(
        *(x.transpose(1, 2) for x in (q, k, v)),  # b h n c
        score_mod=None if cap is None and slopes is None else bend,
        block_mask=made['block mask', rule.window],
        enable_gqa=q.size(2) != k.size(2),
    )
    return mixed.transpose(1, 2)


@torch.compiler.disable
def make_block_mask(
    shape: tuple[int, int], device: torch.device, rule: Rule, segment: Int[Tensor, 'b n'] | None
) -> Any:
    """Which blocks of keys a block of queries sees at all: made once a pass, outside of what is compiled.

    Args:
        shape: Rows and tokens a row.
        segment: As in Documents; None: every row is one document. None crosses a row's end, so that distances in a row
            are those in its documents.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    causal, window = rule.causal, rule.window

    @no_type_check  # as in mix_flex
    def sees(row, head, query, key):
        visible = query >= (key if causal else 0)
        if window is not None:
            visible = visible & ((query - key).abs() < window)
        return visible if segment is None else visible & (segment[row, query] == segment[row, key])

    rows, n = shape
    n_rows = None if segment is None else rows  # None: all see the same
    make = _compile(create_block_mask)  # as it is, it would hold the whole n x n mask
    return make(sees, n_rows, None, n, n, device=device)


def compute(
    backend: str, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c'], rule: Rule,
    documents: Documents | None, made: dict[Any, Any],
) -> Float[Tensor, 'b n h c']:  # fmt: skip
    """Attention without a cache by the backend of a name; arguments as in mix_varlen."""
    if backend in KERNELS:
        return KERNELS[backend](q, k, v, rule, documents, made)
    if documents is not None:
        shape = q.shape
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # t h c
        return mix_documents(q, k, v, rule, documents, made, backend == 'plain').view(shape)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # b h n c
    return mix(q, k, v, rule, is_plain=backend == 'plain').transpose(1, 2)


KERNELS: dict[str, Callable[..., Tensor]] = {
    'varlen': mix_varlen,
    'flash3': mix_varlen,
    'flash4': mix_varlen,
    'flash_attn': mix_flash_attn,
    'flex': mix_flex,
}
"""By their names in backends.py."""


def _flex() -> Callable[..., Tensor]:
    """Compiled once for the process: as it is, it would hold all the scores. In a compiled model it is part of that."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() else _compile(flex_attention)  # type: ignore[return-value]


@functools.cache
def _compile(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


def _starts(q: Tensor, documents: Documents | None, made: dict[Any, Any]) -> tuple[Tensor, int]:
    """Where documents begin in the flattened rows, and how long they are at most."""
    if documents is not None:
        return documents.starts, documents.max_length
    (b, n) = q.shape[:2]
    if 'starts' not in made:
        made['starts'] = torch.arange(0, (b + 1) * n, n, dtype=torch.int32, device=q.device)
    return made['starts'], n


def _window(rule: Rule) -> tuple[int, int]:
    """Tokens to the left and right that a query sees, besides itself; -1: all."""
    side = -1 if rule.window is None else rule.window - 1
    return side, 0 if rule.causal else side
