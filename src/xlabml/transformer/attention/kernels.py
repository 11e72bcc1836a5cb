"""Attention by FlashAttention and FlexAttention, whose kernels know where documents begin.

They read the layout on the device, without synchronization. Their output for padding is meaningless but finite: a
padded segment is a document of its own.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .backends import find_varlen
from .definition import Pass, Rule
from .places import Documents


class Rows(NamedTuple):
    """Where documents begin in the concatenated rows.

    Args:
        starts: Cumulative lengths, starting at 0 (cu_seqlens).
        longest: Length of the longest document, in tokens.
    """

    starts: Int[Tensor, ' s+1']
    longest: int


def find_rows(documents: Documents | None, shape: tuple[int, int], device: torch.device) -> Rows:
    """Where documents begin in rows of a shape (b, n).

    Args:
        documents: None: every row is one document.
    """
    if documents is not None:
        return Rows(documents.starts, documents.max_length)
    b, n = shape
    return Rows(torch.arange(0, (b + 1) * n, n, dtype=torch.int32, device=device), n)


class VarlenPass(Pass):
    """Attention by torch's varlen_attn: FlashAttention-2, or the version activated in its place.

    Args:
        rows: Where documents begin.
    """

    def __init__(self, rule: Rule, rows: Rows) -> None:
        self.rule = rule
        self.rows = rows

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """As in Pass."""
        varlen = find_varlen()
        assert varlen is not None  # the choice of the backend has checked it
        starts, longest = self.rows
        is_grouped = q.size(2) != k.size(2)
        if is_grouped and not varlen.has_groups:
            k, v = (x.repeat_interleave(q.size(2) // k.size(2), dim=2) for x in (k, v))
        groups = {'enable_gqa': is_grouped} if varlen.has_groups else {}
        parts = (x.flatten(0, 1) for x in (q, k, v))  # t h c
        options = {'window_size': _window(self.rule), **groups}
        return varlen.function(*parts, starts, starts, longest, longest, **options).view(q.shape)


class FlashAttnPass(Pass):
    """Attention by the package flash-attn.

    Args:
        rows: Where documents begin.
    """

    def __init__(self, rule: Rule, rows: Rows) -> None:
        self.rule = rule
        self.rows = rows

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """As in Pass."""
        from flash_attn import flash_attn_varlen_func

        rule = self.rule
        output = flash_attn_varlen_func(
            *(x.flatten(0, 1) for x in (q, k, v)),  # t h c
            cu_seqlens_q=self.rows.starts,
            cu_seqlens_k=self.rows.starts,
            max_seqlen_q=self.rows.longest,
            max_seqlen_k=self.rows.longest,
            dropout_p=rule.dropout,
            causal=rule.causal,
            window_size=_window(rule),
            softcap=rule.score_cap or 0.0,
            alibi_slopes=None if rule.slopes is None else rule.slopes.float(),
            # A deterministic backward pass; torch's own kernels read this setting by themselves.
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
        return output.view(q.shape)


class FlexPass(Pass):
    """Attention by FlexAttention.

    Args:
        documents: None: every row is one document.
        shape: Rows, and tokens per row.
        device: Device of the tokens.
    """

    def __init__(self, rule: Rule, documents: Documents | None, shape: tuple[int, int], device: torch.device) -> None:
        self.rule = rule
        self.mask = make_block_mask(shape, device, rule, None if documents is None else documents.segment)

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """As in Pass."""
        cap = self.rule.score_cap
        slopes = self.rule.slopes

        @no_type_check  # torch traces it, and inspects its number of arguments
        def modify(score, row, head, query, key):
            if cap is not None:
                score = cap * torch.tanh(score / cap)
            return score if slopes is None else score - slopes[head] * (query - key).abs()

        output = _flex()(
            *(x.transpose(1, 2) for x in (q, k, v)),  # b h n c
            score_mod=None if cap is None and slopes is None else modify,
            block_mask=self.mask,
            enable_gqa=q.size(2) != k.size(2),
        )
        return output.transpose(1, 2)


@torch.compiler.disable
def make_block_mask(
    shape: tuple[int, int], device: torch.device, rule: Rule, segment: Int[Tensor, 'b n'] | None
) -> object:
    """FlexAttention's BlockMask of a pass, made outside of the compiled graph.

    Args:
        shape: Rows, and tokens per row.
        segment: As in Documents; None: every row is one document. No segment crosses the end of a row, so distances
            inside a row are distances inside its documents.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    causal = rule.causal
    window = rule.window

    @no_type_check  # as in FlexPass
    def is_visible(row, head, query, key):
        visible = query >= (key if causal else 0)
        if window is not None:
            visible = visible & ((query - key).abs() < window)
        return visible if segment is None else visible & (segment[row, query] == segment[row, key])

    rows, n = shape
    n_rows = None if segment is None else rows  # None: one mask for all
    make = _compile(create_block_mask)  # uncompiled, it would hold the whole n x n mask
    return make(is_visible, n_rows, None, n, n, device=device)


def _flex() -> Callable[..., Tensor]:
    """flex_attention, compiled once for the process (uncompiled, it would hold all scores), or inlined in a model."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() else _compile(flex_attention)  # type: ignore[return-value]


@functools.cache
def _compile(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


def _window(rule: Rule) -> tuple[int, int]:
    """Tokens to the left and right of a query that it attends to; -1: all."""
    side = -1 if rule.window is None else rule.window - 1
    return side, 0 if rule.causal else side
