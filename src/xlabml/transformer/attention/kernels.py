"""Attention by FlashAttention and by FlexAttention, whose kernels are told where documents begin.

They read the layout on the device, so that the host waits for nothing. What they yield for padding means nothing, and
is finite: a padded segment is a document of its own.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .backends import find_varlen
from .definition import Pass, Rule
from .places import Documents


class Rows(NamedTuple):
    """Where documents begin in the flattened rows.

    Args:
        starts: Cumulative lengths, the first 0.
        longest: The longest document, in tokens.
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
    """By torch's varlen_attn: FlashAttention-2, or what was activated in its place.

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
        assert varlen is not None  # else it was not chosen
        starts, longest = self.rows
        is_grouped = q.size(2) != k.size(2)
        if is_grouped and not varlen.has_groups:
            k, v = (x.repeat_interleave(q.size(2) // k.size(2), dim=2) for x in (k, v))
        options: dict[str, Any] = {'window_size': _window(self.rule)}
        if varlen.has_groups:
            options['enable_gqa'] = is_grouped
        parts = (x.flatten(0, 1) for x in (q, k, v))  # t h c
        return varlen.function(*parts, starts, starts, longest, longest, **options).view(q.shape)


class FlashAttnPass(Pass):
    """By the package flash-attn.

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
            deterministic=torch.are_deterministic_algorithms_enabled(),  # of the gradient; torch's own kernels look
        )
        return output.view(q.shape)


class FlexPass(Pass):
    """By FlexAttention.

    Args:
        documents: None: every row is one document.
        shape: Rows and tokens a row.
        device: Of the tokens.
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

        @no_type_check  # torch looks into it, and at how many arguments it has
        def bend(score, row, head, query, key):
            if cap is not None:
                score = cap * torch.tanh(score / cap)
            return score if slopes is None else score - slopes[head] * (query - key).abs()

        output = _flex()(
            *(x.transpose(1, 2) for x in (q, k, v)),  # b h n c
            score_mod=None if cap is None and slopes is None else bend,
            block_mask=self.mask,
            enable_gqa=q.size(2) != k.size(2),
        )
        return output.transpose(1, 2)


@torch.compiler.disable
def make_block_mask(
    shape: tuple[int, int], device: torch.device, rule: Rule, segment: Int[Tensor, 'b n'] | None
) -> Any:
    """Which blocks of keys a block of queries attends to at all: made once a pass, outside of what is compiled.

    Args:
        shape: Rows and tokens a row.
        segment: As in Documents; None: every row is one document. None crosses a row's end, so that distances in a row
            are those in its documents.
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
    make = _compile(create_block_mask)  # as it is, it would hold the whole n x n mask
    return make(is_visible, n_rows, None, n, n, device=device)


def _flex() -> Callable[..., Tensor]:
    """Compiled once for the process: as it is, it would hold all the scores. In a compiled model it is part of that."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() else _compile(flex_attention)  # type: ignore[return-value]


@functools.cache
def _compile(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


def _window(rule: Rule) -> tuple[int, int]:
    """Tokens to the left and right that a query attends to, besides itself; -1: all."""
    side = -1 if rule.window is None else rule.window - 1
    return side, 0 if rule.causal else side
