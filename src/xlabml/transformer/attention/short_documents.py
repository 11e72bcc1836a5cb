"""Attention inside short documents of packed rows on a CPU, in float32, by blocks of queries.

Each block's scores are one batched matrix product over neighbouring documents of equal length; the probabilities are
stored for the backward pass. In bf16 oneDNN would compile a kernel for each new length, so bf16 inputs are widened.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .definition import Rule, make_bias, widened
from .places import Segments, longest_text

_BLOCK = 128
"""Queries per block; the last block of a document takes up to half as many more."""

_AT_ONCE = 1024
"""Neighbouring documents of equal length are computed together up to this many tokens."""


class Block(NamedTuple):
    """A range of queries of neighbouring documents of equal length, and the keys that any of them attends to.

    Args:
        documents: Token range of the documents.
        n_documents: Number of documents.
        queries: Range of the queries, from the start of a document.
        keys: Range of the keys, likewise.
        bias: Added to the scores of the last keys (as many as it has columns), -inf where masked; None: no bias.
    """

    documents: slice
    n_documents: int
    queries: slice
    keys: slice
    bias: Float[Tensor, '#h n m'] | None

    def view(self, x: Tensor, tokens: slice) -> Tensor:
        """A view of a range of tokens of each document: h t c -> h n c (one document) or h s n c (several)."""
        if self.n_documents == 1:
            start = self.documents.start
            return x[:, start + tokens.start : start + tokens.stop]
        return x[:, self.documents].unflatten(1, (self.n_documents, -1))[:, :, tokens]

    def gather(self, x: Tensor, tokens: slice) -> Tensor:
        """`view` with heads and documents in one batch axis: (h s) n c; a copy for several documents."""
        picked = self.view(x, tokens)
        return picked if self.n_documents == 1 else picked.flatten(0, 1)

    def split(self, part: Tensor) -> Tensor:
        """Split the batch axis of a product, as in `view`: (h s) n c -> h s n c."""
        return part if self.n_documents == 1 else part.unflatten(0, (-1, self.n_documents))

    def probabilities(self, queries: Tensor, keys: Tensor) -> Tensor:
        """softmax(Q Kᵀ + bias), in the memory of the scores."""
        scores = queries.new_empty(*queries.shape[:2], keys.size(1)).baddbmm_(queries, keys.mT, beta=0)  # (h s) n m
        if self.bias is not None:
            scores[:, :, -self.bias.size(2) :] += self.bias
        return torch.softmax(scores, dim=-1, out=scores)


def make_blocks(segments: Segments, rule: Rule, like: Tensor) -> list[Block]:
    """Divide documents into blocks.

    So later keys are not multiplied for a causal block, and a block fits the processor's cache.

    Args:
        like: A tensor with the dtype of queries, keys and values.
    """
    # One bias of distances serves all documents. Causal only: a block needs its diagonal square, at most 1.5 _BLOCK.
    has_bias = rule.window is not None or rule.slopes is not None
    longest = longest_text(segments) if has_bias else min(longest_text(segments), 2 * _BLOCK)
    bias = make_bias(longest, rule, widened(like)) if has_bias or rule.causal else None
    blocks = []
    start = 0
    for (length, is_text), run in itertools.groupby(segments):
        count = len(list(run))  # neighbouring segments of equal length and kind
        most = 1 if rule.slopes is not None else max(1, _AT_ONCE // max(1, length))
        for first in range(0, count if is_text and length else 0, most):
            n = min(count - first, most)
            documents = slice(start + first * length, start + (first + n) * length)
            for queries, keys in _cut(length, rule):
                # Without window and slopes, all queries of a block attend to all keys before it.
                here = (queries, keys) if has_bias else (slice(0, queries.stop - queries.start),) * 2
                blocks.append(Block(documents, n, queries, keys, None if bias is None else bias[:, *here]))
        start += length * count
    return blocks


def _cut(length: int, rule: Rule) -> Iterator[tuple[slice, slice]]:
    """Ranges of the queries of a document, with the range of keys that they attend to."""
    back = length if rule.window is None else rule.window - 1
    first = 0
    while first < length:
        rest = length - first
        end = first + (rest if 2 * rest <= 3 * _BLOCK else _BLOCK)
        yield slice(first, end), slice(max(0, first - back), end if rule.causal else min(length, end + back))
        first = end


def _transpose(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy with the first two dimensions transposed: t h c <-> h t c."""
    return torch.empty(x.size(1), x.size(0), x.size(2), dtype=dtype).copy_(x.transpose(0, 1))


def transpose_all(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """Copies in the dtype of accumulation, t h c -> h t c; queries are scaled, so that scores need not be."""
    queries, keys, values = (_transpose(x, widened(x)) for x in (q, k, v))
    return [queries.mul_(1 / math.sqrt(q.size(-1))), keys, values]


def attend_blocks(blocks: list[Block], q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor] | None) -> Tensor:
    """The attention output, t h c, of queries, keys and values, each t h c.

    Args:
        kept: Receives the result of `transpose_all`, then the probabilities of each block; None: nothing is kept.
    """
    output = torch.zeros(q.shape, dtype=q.dtype)  # padding stays zero
    by_head = output.transpose(0, 1)  # h t c, a view
    queries, keys, values = transpose_all(q, k, v)
    if kept is not None:
        kept += queries, keys, values
    with torch.autocast('cpu', enabled=False):
        for block in blocks:
            probs = block.probabilities(block.gather(queries, block.queries), block.gather(keys, block.keys))
            part = torch.bmm(probs, block.gather(values, block.keys))  # (h s) n c
            block.view(by_head, block.queries).copy_(block.split(part))
            if kept is not None:
                kept.append(probs)
    return output


def attend_blocks_backward(
    blocks: list[Block], grad: Tensor, qkv: Sequence[Tensor], saved: Sequence[Tensor]
) -> list[Tensor]:
    """The gradients of queries, keys and values, each t h c.

    With P the probabilities: dS = P · (dP - sum(P · dP)), then dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO.

    Args:
        grad: Gradient of the output, t h c.
        qkv: The result of `transpose_all`.
        saved: The probabilities of each block; empty: they are recomputed.
    """
    q, k, v = qkv
    dtype = grad.dtype
    grad = _transpose(grad, q.dtype)  # h t c
    kept = iter(saved)
    q_grad, k_grad, v_grad = (torch.zeros_like(x) for x in (q, k, v))
    with torch.autocast('cpu', enabled=False):
        for block in blocks:
            queries = block.gather(q, block.queries)  # (h s) n c
            out = block.gather(grad, block.queries)  # (h s) n c
            keys = block.gather(k, block.keys)  # (h s) m c
            values = block.gather(v, block.keys)  # (h s) m c
            probs = next(kept) if saved else block.probabilities(queries, keys)  # (h s) n m
            score_grad = torch.bmm(out, values.mT)  # (h s) n m: dP, then dS in its place
            torch._softmax_backward_data(score_grad, probs, -1, probs.dtype, grad_input=score_grad)
            parts = torch.bmm(score_grad, keys), torch.bmm(score_grad.mT, queries), torch.bmm(probs.mT, out)
            # Each query is in one block, a key in several: dQ is copied, dK and dV are summed.
            block.view(q_grad, block.queries).copy_(block.split(parts[0]))
            block.view(k_grad, block.keys).add_(block.split(parts[1]))
            block.view(v_grad, block.keys).add_(block.split(parts[2]))
    q_grad *= 1 / math.sqrt(q.size(-1))  # dK needs no factor: it comes from scaled queries
    return [_transpose(x, dtype) for x in (q_grad, k_grad, v_grad)]
