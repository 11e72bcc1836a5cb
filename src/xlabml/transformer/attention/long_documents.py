"""Attention inside long documents of packed rows on a CPU, in bf16; only the inputs are stored for the backward pass.

The forward pass is torch's fused kernel. The backward pass is faster here than in that kernel: it recomputes the
probabilities of a block of queries at a time. Factors of products are rounded to bf16; sums and scores are float32, as
in that kernel. Documents are padded to a multiple of `_STEP`, so that shapes recur: oneDNN compiles a kernel per shape.
"""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .definition import Rule, make_bias

LEAST = 256
"""The shortest long document, in tokens."""

_ROWS = 256
"""Queries of each document per block of the backward pass."""

_STEP = 64
"""Queries and keys are padded to a multiple of this many tokens."""

_AT_ONCE = 1024
"""Documents of similar length are computed together up to this many tokens."""


class Run(NamedTuple):
    """Documents that are computed together, padded to one length.

    Args:
        places: Token ranges of neighbouring documents of equal length, and the number of documents in each.
        n_documents: Number of documents.
        padded: Length to which they are padded, in tokens.
        causal: As in Rule.
        causal_mask: Mask of a diagonal square of scores, 0 or -inf; None: the bias has it, or nothing is masked.
        bias: Added to all scores (slopes, with the causal mask); None: no bias.
        padding_mask: Mask of padded keys of each document, 0 or -inf; None: the causal mask hides them from text.
    """

    places: list[tuple[slice, int]]
    n_documents: int
    padded: int
    causal: bool
    causal_mask: Float[Tensor, 'n n'] | None
    bias: Float[Tensor, 'h 1 n n'] | None
    padding_mask: Float[Tensor, '1 s 1 n'] | None

    @property
    def mask(self) -> Float[Tensor, '#h #s #n n'] | None:
        """The mask for torch's kernel; None: none, or its own causal mask."""
        if self.bias is None or self.padding_mask is None:
            return self.padding_mask if self.bias is None else self.bias
        return self.bias + self.padding_mask

    def views(self, x: Float[Tensor, 't h c'], rows: slice) -> Iterator[tuple[slice, Float[Tensor, 'h s m c']]]:
        """Ranges of documents, each with a view of a range of their tokens, cut at their end."""
        first = 0
        for place, count in self.places:
            yield slice(first, first + count), x[place].unflatten(0, (count, -1))[:, rows].permute(2, 0, 1, 3)
            first += count

    def gather(self, x: Float[Tensor, 't h c'], rows: slice, dtype: torch.dtype) -> Float[Tensor, 'h s m c']:
        """A copy of a range of tokens of each document, padded with zeros; s documents."""
        picked = torch.empty(x.size(1), self.n_documents, rows.stop - rows.start, x.size(2), dtype=dtype)
        for numbers, part in self.views(x, rows):
            picked[:, numbers, : part.size(2)] = part
            picked[:, numbers, part.size(2) :] = 0
        return picked

    def scatter(self, x: Float[Tensor, 't h c'], rows: slice, picked: Float[Tensor, 'h s m c']) -> None:
        """Write what `gather` reads, without the padding."""
        for numbers, part in self.views(x, rows):
            part.copy_(picked[:, numbers, : part.size(2)])


def make_runs(documents: Sequence[slice], rule: Rule) -> list[Run]:
    """Group documents of similar length (equal after rounding up to a multiple of `_ROWS`).

    Args:
        documents: Token range of each.
        rule: Without a window.
    """
    groups: dict[int, list[list[slice]]] = {}
    for document in documents:
        room = -(-(document.stop - document.start) // _ROWS) * _ROWS
        batches = groups.setdefault(room, [[]])
        if batches[-1] and (len(batches[-1]) + 1) * room > _AT_ONCE:
            batches.append([])
        batches[-1].append(document)
    causal_mask = bias = None
    if rule.slopes is not None:
        bias = make_bias(max(groups, default=0), rule)[:, None]
    elif rule.causal and documents:
        causal_mask = make_bias(_ROWS, rule)[0]
    return [_make_run(batch, rule.causal, causal_mask, bias) for batches in groups.values() for batch in batches]


def _make_run(documents: list[slice], causal: bool, causal_mask: Tensor | None, bias: Tensor | None) -> Run:
    lengths = [document.stop - document.start for document in documents]
    places: list[tuple[slice, int]] = []
    for document, length in zip(documents, lengths):
        last, count = places[-1] if places else (slice(0, 0), 1)
        if last.stop == document.start and last.stop - last.start == count * length:
            places[-1] = slice(last.start, document.stop), count + 1
        else:
            places.append((document, 1))
    padded = -(-max(lengths) // _STEP) * _STEP  # rounded up
    bias = None if bias is None else bias[..., :padded, :padded]
    padding_mask = None
    if not causal and min(lengths) < padded:
        is_padding = torch.arange(padded) >= torch.tensor(lengths)[:, None, None]
        padding_mask = torch.zeros(1, *is_padding.shape).masked_fill_(is_padding, -math.inf)
    return Run(places, len(documents), padded, causal, causal_mask, bias, padding_mask)


def attend_long(run: Run, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> None:
    """Write the attention output of queries, keys and values, all t h c."""
    whole = slice(0, run.padded)
    q, k, v = (run.gather(x, whole, x.dtype) for x in (q, k, v))  # h s n c
    with torch.autocast('cpu', enabled=False):  # which would round the bias
        part = F.scaled_dot_product_attention(q, k, v, run.mask, is_causal=run.causal_mask is not None)
    run.scatter(output, whole, part)


def attend_long_backward(run: Run, grad: Tensor, qkv: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """Write the gradients of queries, keys and values, all t h c.

    With P the probabilities: dS = P · (dP - sum(P · dP)), then dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO.

    Args:
        grad: Gradient of the output.
        qkv: Queries, keys and values.
        grads: Their gradients, which are written.
    """
    q, k, v = qkv
    scale = 1 / math.sqrt(q.size(-1))
    whole = slice(0, run.padded)
    n_documents = run.n_documents
    keys, values = (run.gather(x, whole, torch.float32).flatten(0, 1) for x in (k, v))  # (h s) m c
    summed: tuple[Tensor, Tensor] | None = None
    with _products_in_bf16():
        # From the last block, which attends to all keys: its dK and dV are the sums that the others are added to.
        for first in range((run.padded - 1) // _ROWS * _ROWS, -1, -_ROWS):
            rows = slice(first, min(first + _ROWS, run.padded))
            n_seen = rows.stop if run.causal else run.padded
            queries, out = (run.gather(x, rows, torch.float32).flatten(0, 1) for x in (q, grad))  # (h s) n c
            queries *= scale
            seen_keys = keys[:, :n_seen].contiguous()  # (h s) m c; contiguous is far faster in oneDNN
            seen_values = values[:, :n_seen].contiguous()
            # Recompute the probabilities: scores, masks, softmax in place.
            probs = torch.bmm(queries, seen_keys.mT)  # (h s) n m
            if run.causal_mask is not None:
                n = rows.stop - first
                probs[:, :, first:] += run.causal_mask[:n, :n]
            if run.bias is not None:
                probs.unflatten(0, (-1, n_documents)).add_(run.bias[..., rows, :n_seen])
            if run.padding_mask is not None:
                probs.unflatten(0, (-1, n_documents)).add_(run.padding_mask)
            torch.softmax(probs, dim=-1, out=probs)
            score_grad = torch.bmm(out, seen_values.mT)  # (h s) n m: dP, then dS in its place
            torch._softmax_backward_data(score_grad, probs, -1, probs.dtype, grad_input=score_grad)
            run.scatter(grads[0], rows, torch.bmm(score_grad, seen_keys).mul_(scale).unflatten(0, (-1, n_documents)))
            parts = torch.bmm(score_grad.mT, queries), torch.bmm(probs.mT, out)
            if summed is None:
                summed = parts
            else:
                summed[0][:, :n_seen] += parts[0]
                summed[1][:, :n_seen] += parts[1]
    assert summed is not None  # no document is empty
    for target, total in zip(grads[1:], summed):
        run.scatter(target, whole, total.unflatten(0, (-1, n_documents)))


_setting_lock = threading.RLock()


@contextlib.contextmanager
def _products_in_bf16() -> Iterator[None]:
    """Inside, float32 matrix products round their factors to bf16 and accumulate in float32.

    The setting is global to the process: products of other threads meanwhile are rounded, too.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _setting_lock, torch.autocast('cpu', enabled=False):
        before = matmul.fp32_precision
        matmul.fp32_precision = 'bf16'
        try:
            yield
        finally:
            matmul.fp32_precision = before
