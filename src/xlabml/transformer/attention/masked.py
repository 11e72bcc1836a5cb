"""Attention by torch's fused kernel, with masks where it needs some; it runs on every device.

Nothing here asks the device for a number, or depends on one: shapes follow from the arguments' shapes.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .definition import Pass, Rule, attend, make_masks, widened
from .places import Documents

_BLOCK = 512
"""Queries whose mask is made at a time."""


def attend_fused(
    q: Float[Tensor, 'b h n c'],
    k: Float[Tensor, 'b g m c'],
    v: Float[Tensor, 'b g m c'],
    rule: Rule,
    position: Int[Tensor, 'b n'] | None = None,
    documents: Documents | None = None,
    is_plain: bool = False,
) -> Float[Tensor, 'b h n c']:
    """Attention by torch's fused kernel where it can, else with a mask for a block of queries at a time.

    Args:
        position: Of the queries, where key j is at position j; None: the queries are the last of the keys.
        documents: Of packed rows, in which n = m: a query attends to its own segment only, padding as well; None: each
            row is one document.
        is_plain: Compute it as `attend` defines it.
    """
    assert is_plain or rule.score_cap is None  # backends.py refuses it
    n = q.size(2)
    if position is None and n == 1 and rule.causal and rule.window is not None:
        k = k[:, :, -rule.window :]
        v = v[:, :, -rule.window :]
    m = k.size(2)
    # The kernel's own causal mask is that of as many queries as keys.
    is_maskless = position is None and (rule.window is None or m <= rule.window) and (not rule.causal or n in (1, m))
    if is_maskless and documents is None and rule.slopes is None and not is_plain:
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=rule.dropout, is_causal=rule.causal and n > 1, enable_gqa=q.size(1) != k.size(1)
        )
    reach = [limit for limit in (rule.window, documents and documents.max_length) if limit is not None]
    is_grouped = q.size(1) != k.size(1)
    if is_grouped and q.device.type == 'cuda' and not is_plain:  # no fused kernel there takes groups and a mask
        k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
        is_grouped = False
    output = []
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        low = 0
        high = m
        if position is None:
            place = torch.arange(m - n + start, m - n + stop, device=q.device)[None]
            if reach:  # keys out of reach of the whole block are left out
                low = max(0, m - n + start - min(reach) + 1)
                high = min(m, m - n + stop + min(reach) - 1)
            if rule.causal:
                high = m - n + stop
        else:
            place = position[:, start:stop]
        visible, bias = make_masks(place, torch.arange(low, high, device=q.device), rule)  # b h n m
        if documents is not None:
            segment = documents.segment
            visible = visible & (segment[:, None, start:stop, None] == segment[:, None, None, low:high])
        part = q[:, :, start:stop], k[:, :, low:high], v[:, :, low:high]
        if is_plain:
            output.append(attend(*part, visible, bias, rule.score_cap, rule.dropout))
        else:
            mask = visible if bias is None else bias.masked_fill(~visible, -math.inf).to(q.dtype)
            output.append(
                F.scaled_dot_product_attention(*part, attn_mask=mask, dropout_p=rule.dropout, enable_gqa=is_grouped)
            )
    return output[0] if len(output) == 1 else torch.cat(output, dim=2)


class RowsPass(Pass):
    """Every row is one document.

    Args:
        is_plain: Compute it as `attend` defines it.
    """

    def __init__(self, rule: Rule, is_plain: bool = False) -> None:
        self.rule = rule
        self.is_plain = is_plain

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """As in Pass."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # b h n c
        return attend_fused(q, k, v, self.rule, is_plain=self.is_plain).transpose(1, 2)


class MaskedPass(Pass):
    """Packed rows whose layout the host does not read: a mask says which tokens are in one segment.

    Args:
        is_plain: Compute it as `attend` defines it.
    """

    def __init__(self, rule: Rule, documents: Documents, is_plain: bool = False) -> None:
        self.rule = rule
        self.documents = documents
        self.is_plain = is_plain

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """As in Pass."""
        dtype = q.dtype
        if q.device.type == 'cpu':  # in bf16 oneDNN would compile a kernel for each new length
            q, k, v = (x.to(widened(x)) for x in (q, k, v))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # b h n c
        output = attend_fused(q, k, v, self.rule, documents=self.documents, is_plain=self.is_plain)
        return output.transpose(1, 2).to(dtype)
