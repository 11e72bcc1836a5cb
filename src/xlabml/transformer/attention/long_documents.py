"""Attention inside the long documents of packed rows on a CPU, in bf16: for the gradient only the inputs are kept.

Torch's fused kernel mixes the values, but takes longer for its gradient than the tiles here: some queries at a time,
whose probabilities are computed once more. Factors are rounded to bf16; sums and scores stay float32, as in that
kernel. Documents are padded a little, so that shapes recur: oneDNN compiles a kernel for each.
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
"""Documents of this many tokens, or more, are long."""

_ROWS = 256
"""Queries at a time, of each document."""

_STEP = 64
"""Queries and keys are padded to a multiple of it."""

_AT_ONCE = 1024
"""Documents of about one length are computed together up to this many tokens."""


class Run(NamedTuple):
    """Documents that are computed together.

    Args:
        places: Where documents of one length lie side by side, in all tokens, and how many.
        n_documents: In all.
        padded: The length that is worked with, in tokens.
        causal: As in Rule.
        later: Added to the scores of queries and keys at the same places, so that no query attends to a later key;
            None: the bias does so, or nothing is masked.
        bias: Added to all scores; None: nothing.
        behind: Added to the scores of keys, so that no query attends to padding; None: it comes later than all queries.
    """

    places: list[tuple[slice, int]]
    n_documents: int
    padded: int
    causal: bool
    later: Float[Tensor, 'n n'] | None
    bias: Float[Tensor, 'h 1 n n'] | None
    behind: Float[Tensor, '1 s 1 n'] | None

    @property
    def mask(self) -> Float[Tensor, '#h #s #n n'] | None:
        """What torch's kernel adds to the scores; None: nothing, or what `later` says."""
        if self.bias is None or self.behind is None:
            return self.behind if self.bias is None else self.bias
        return self.bias + self.behind

    def views(self, x: Float[Tensor, 't h c'], rows: slice) -> Iterator[tuple[slice, Float[Tensor, 'h s m c']]]:
        """Which documents, and some tokens of theirs, no more than there are."""
        first = 0
        for place, count in self.places:
            yield slice(first, first + count), x[place].unflatten(0, (count, -1))[:, rows].permute(2, 0, 1, 3)
            first += count

    def gather(self, x: Float[Tensor, 't h c'], rows: slice, dtype: torch.dtype) -> Float[Tensor, 'h s m c']:
        """A copy of some tokens of each document; zeros behind its end."""
        picked = torch.empty(x.size(1), self.n_documents, rows.stop - rows.start, x.size(2), dtype=dtype)
        for numbers, part in self.views(x, rows):
            picked[:, numbers, : part.size(2)] = part
            picked[:, numbers, part.size(2) :] = 0
        return picked

    def scatter(self, x: Float[Tensor, 't h c'], rows: slice, picked: Float[Tensor, 'h s m c']) -> None:
        """The reverse."""
        for numbers, part in self.views(x, rows):
            part.copy_(picked[:, numbers, : part.size(2)])


def make_runs(documents: Sequence[slice], rule: Rule) -> list[Run]:
    """Group documents of about one length.

    Args:
        documents: Where each is, in all tokens.
        rule: Without a window.
    """
    groups: dict[int, list[list[slice]]] = {}
    for document in documents:
        room = -(-(document.stop - document.start) // _ROWS) * _ROWS
        batches = groups.setdefault(room, [[]])
        if batches[-1] and (len(batches[-1]) + 1) * room > _AT_ONCE:
            batches.append([])
        batches[-1].append(document)
    later = bias = None
    if rule.slopes is not None:
        bias = make_bias(max(groups, default=0), rule)[:, None]
    elif rule.causal and documents:
        later = make_bias(_ROWS, rule)[0]
    return [_make_run(batch, rule.causal, later, bias) for batches in groups.values() for batch in batches]


def _make_run(documents: list[slice], causal: bool, later: Tensor | None, bias: Tensor | None) -> Run:
    lengths = [document.stop - document.start for document in documents]
    places: list[tuple[slice, int]] = []
    for document, length in zip(documents, lengths):
        last, count = places[-1] if places else (slice(0, 0), 1)
        if last.stop == document.start and last.stop - last.start == count * length:
            places[-1] = slice(last.start, document.stop), count + 1
        else:
            places.append((document, 1))
    padded = -(-max(lengths) // _STEP) * _STEP
    bias = None if bias is None else bias[..., :padded, :padded]
    behind = None
    if not causal and min(lengths) < padded:
        is_behind = torch.arange(padded) >= torch.tensor(lengths)[:, None, None]
        behind = torch.zeros(1, *is_behind.shape).masked_fill_(is_behind, -math.inf)
    return Run(places, len(documents), padded, causal, later, bias, behind)


def attend_long(run: Run, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> None:
    """Write the output of queries, keys and values, all t h c."""
    whole = slice(0, run.padded)
    q, k, v = (run.gather(x, whole, x.dtype) for x in (q, k, v))
    with torch.autocast('cpu', enabled=False):  # which would round the bias
        part = F.scaled_dot_product_attention(q, k, v, run.mask, is_causal=run.later is not None)
    run.scatter(output, whole, part)


def attend_long_backward(run: Run, grad: Tensor, qkv: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """Put the gradients of queries, keys and values, all t h c.

    With P the probabilities: dS = P · (dP - sum(P · dP)), then dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO.

    Args:
        grad: Of the output.
        qkv: Queries, keys and values.
        grads: Where to.
    """
    q, k, v = qkv
    scale = 1 / math.sqrt(q.size(-1))
    whole = slice(0, run.padded)
    n_documents = run.n_documents
    keys, values = (run.gather(x, whole, torch.float32).flatten(0, 1) for x in (k, v))
    summed: tuple[Tensor, Tensor] | None = None
    with _products_in_bf16():
        for first in range((run.padded - 1) // _ROWS * _ROWS, -1, -_ROWS):  # the last rows attend to all keys
            rows = slice(first, min(first + _ROWS, run.padded))
            n_seen = rows.stop if run.causal else run.padded
            queries, out = (run.gather(x, rows, torch.float32).flatten(0, 1) for x in (q, grad))
            queries *= scale
            seen_keys = keys[:, :n_seen].contiguous()  # (h s) m c; oneDNN is far faster so
            seen_values = values[:, :n_seen].contiguous()
            probs = torch.bmm(queries, seen_keys.mT)
            if run.later is not None:
                n = rows.stop - first
                probs[:, :, first:] += run.later[:n, :n]
            if run.bias is not None:
                probs.unflatten(0, (-1, n_documents)).add_(run.bias[..., rows, :n_seen])
            if run.behind is not None:
                probs.unflatten(0, (-1, n_documents)).add_(run.behind)
            torch.softmax(probs, dim=-1, out=probs)
            score_grad = torch.bmm(out, seen_values.mT)  # (h s) n m: of the probabilities, then in place of the scores
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
    """Those of float32 inside are of factors rounded to bf16, summed up in float32.

    The setting is the process's: those of other threads meanwhile are rounded, too.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _setting_lock, torch.autocast('cpu', enabled=False):
        before = matmul.fp32_precision
        matmul.fp32_precision = 'bf16'
        try:
            yield
        finally:
            matmul.fp32_precision = before
