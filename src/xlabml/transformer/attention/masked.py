"""Attention by torch's fused kernel, with masks where they are needed; it runs on every device.

Nothing here synchronizes with the device: shapes follow from the shapes of the arguments.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .definition import Pass, Rule, attend, make_masks, widened
from .places import Documents

_BLOCK = 512
"""Queries per mask: memory is linear in the keys, since no n x n mask is made."""


def attend_fused(
    q: Float[Tensor, 'b h n c'],
    k: Float[Tensor, 'b g m c'],
    v: Float[Tensor, 'b g m c'],
    rule: Rule,
    position: Int[Tensor, 'b n'] | None = None,
    documents: Documents | None = None,
    is_plain: bool = False,
) -> Float[Tensor, 'b h n c']:
    """Attention by torch's fused kernel: in one call without a mask where it can, else in blocks of masked queries.

    Args:
        position: Positions of the queries, key j being at position j; None: the queries are the last n of the m keys.
        documents: Documents of packed rows, where n = m: a query attends to its own segment only, padding included;
            None: each row is one document.
        is_plain: Compute it as `attend` defines it.
    """
    assert is_plain or rule.score_cap is None  # backends.py refuses it
    n = q.size(2)
    # A decoding step with a window: the keys inside the window need no mask.
    if position is None and n == 1 and rule.causal and rule.window is not None:
        k = k[:, :, -rule.window :]
        v = v[:, :, -rule.window :]
    m = k.size(2)
    # The kernel's causal mask aligns the first query with the first key, so it fits n == m only.
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
            place = torch.arange(m - n + start, m - n + stop, device=q.device)[None]  # 1 n
            if reach:  # keys low..high: leave out those that no query of the block can attend to
                low = max(0, m - n + start - min(reach) + 1)
                high = min(m, m - n + stop + min(reach) - 1)
            if rule.causal:
                high = m - n + stop
        else:
            place = position[:, start:stop]
        visible, bias = make_masks(place, torch.arange(low, high, device=q.device), rule)  # b h n m
        if documents is not None:
            segment = documents.segment
            visible = visible & (segment[:, None, start:stop, None] == segment[:, None, None, low:high])  # b 1 n m
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
    """Attention where every row is one document.

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
    """Packed rows whose layout the host does not read: a mask keeps attention inside segments.

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
        if q.device.type == 'cpu':  # float32: in bf16 oneDNN would compile a kernel for each new length
            q, k, v = (x.to(widened(x)) for x in (q, k, v))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # b h n c
        output = attend_fused(q, k, v, self.rule, documents=self.documents, is_plain=self.is_plain)
        return output.transpose(1, 2).to(dtype)
