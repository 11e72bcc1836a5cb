"""Attention inside the documents of packed rows on a CPU that are not long, in float32.

Their scores are multiplied out, some queries at a time, those of documents of one length together; the probabilities
are kept for the gradient. In bf16 oneDNN would compile a kernel for each new length, so bf16 inputs are widened.
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
"""Queries of a document that are computed at a time; the last ones are up to half as many more."""

_AT_ONCE = 1024
"""Documents of one length, one behind the other, are computed together up to this many tokens."""


class Block(NamedTuple):
    """Some queries of each of a few documents of one length, and all keys that any of them attends to.

    Args:
        documents: Where the documents are, in the tokens of the plan.
        n_documents: How many documents.
        queries: The queries, counted from the start of a document.
        keys: The keys, likewise.
        bias: Added to the scores of the last of these keys; None: nothing.
    """

    documents: slice
    n_documents: int
    queries: slice
    keys: slice
    bias: Float[Tensor, '#h n m'] | None

    def view(self, x: Tensor, tokens: slice) -> Tensor:
        """A view of some tokens of each document, of h t c: h n c of one document, h n_documents n c of more."""
        if self.n_documents == 1:
            start = self.documents.start
            return x[:, start + tokens.start : start + tokens.stop]
        return x[:, self.documents].unflatten(1, (self.n_documents, -1))[:, :, tokens]

    def gather(self, x: Tensor, tokens: slice) -> Tensor:
        """The same with heads and documents in one batch axis: (h n_documents) n c."""
        picked = self.view(x, tokens)
        return picked if self.n_documents == 1 else picked.flatten(0, 1)

    def split(self, part: Tensor) -> Tensor:
        """The result of a batched product, with dimensions as `view` has them."""
        return part if self.n_documents == 1 else part.unflatten(0, (-1, self.n_documents))

    def probabilities(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The probabilities of the queries."""
        scores = queries.new_empty(*queries.shape[:2], keys.size(1)).baddbmm_(queries, keys.mT, beta=0)
        if self.bias is not None:
            scores[:, :, -self.bias.size(2) :] += self.bias
        return torch.softmax(scores, dim=-1, out=scores)


def make_blocks(segments: Segments, rule: Rule, like: Tensor) -> list[Block]:
    """Cut documents into blocks.

    So half of the keys that a causal query does not attend to are never multiplied out, and what is computed at a time
    fits the processor's cache.

    Args:
        like: Has the type of queries, keys and values.
    """
    is_bent = rule.window is not None or rule.slopes is not None
    longest = longest_text(segments) if is_bent else min(longest_text(segments), 2 * _BLOCK)
    bias = make_bias(longest, rule, widened(like)) if is_bent or rule.causal else None
    blocks = []
    start = 0
    for (length, is_text), run in itertools.groupby(segments):
        count = len(list(run))
        most = 1 if rule.slopes is not None else max(1, _AT_ONCE // max(1, length))
        for first in range(0, count if is_text and length else 0, most):
            n = min(count - first, most)
            documents = slice(start + first * length, start + (first + n) * length)
            for rows, seen in _cut(length, rule):
                # All queries of a block attend to all keys before it, if nothing else bends their scores.
                here = (rows, seen) if is_bent else (slice(0, rows.stop - rows.start),) * 2
                blocks.append(Block(documents, n, rows, seen, None if bias is None else bias[:, *here]))
        start += length * count
    return blocks


def _cut(length: int, rule: Rule) -> Iterator[tuple[slice, slice]]:
    """Queries of a document, and the keys that they attend to."""
    back = length if rule.window is None else rule.window - 1
    first = 0
    while first < length:
        rest = length - first
        end = first + (rest if 2 * rest <= 3 * _BLOCK else _BLOCK)
        yield slice(first, end), slice(max(0, first - back), end if rule.causal else min(length, end + back))
        first = end


def _transpose(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy with the first two dimensions exchanged."""
    return torch.empty(x.size(1), x.size(0), x.size(2), dtype=dtype).copy_(x.transpose(0, 1))


def transpose_all(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """Of each, t h c, a copy h t c in which products are summed up; queries are scaled, so that scores need not be."""
    queries, keys, values = (_transpose(x, widened(x)) for x in (q, k, v))
    return [queries.mul_(1 / math.sqrt(q.size(-1))), keys, values]


def attend_blocks(blocks: list[Block], q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor] | None) -> Tensor:
    """Mixed values, t h c, of queries, keys and values, each t h c.

    Args:
        kept: Gets the result of `transpose_all`, then the probabilities of each block; None: nothing is kept.
    """
    output = torch.zeros(q.shape, dtype=q.dtype)
    turned = output.transpose(0, 1)  # h t c
    queries, keys, values = transpose_all(q, k, v)
    if kept is not None:
        kept += queries, keys, values
    with torch.autocast('cpu', enabled=False):
        for block in blocks:
            probs = block.probabilities(block.gather(queries, block.queries), block.gather(keys, block.keys))
            part = torch.bmm(probs, block.gather(values, block.keys))
            block.view(turned, block.queries).copy_(block.split(part))
            if kept is not None:
                kept.append(probs)
    return output


def attend_blocks_backward(
    blocks: list[Block], grad: Tensor, qkv: Sequence[Tensor], saved: Sequence[Tensor]
) -> list[Tensor]:
    """The gradients of queries, keys and values, each t h c.

    With P the probabilities: dS = P · (dP - sum(P · dP)), then dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO.

    Args:
        grad: Of the output, t h c.
        qkv: The result of `transpose_all`.
        saved: The probabilities of each block; empty: they are computed once more.
    """
    q, k, v = qkv
    dtype = grad.dtype
    grad = _transpose(grad, q.dtype)  # h t c
    kept = iter(saved)
    q_grad, k_grad, v_grad = (torch.zeros_like(x) for x in (q, k, v))
    with torch.autocast('cpu', enabled=False):
        for block in blocks:
            queries = block.gather(q, block.queries)  # r n c, as the three below
            out = block.gather(grad, block.queries)
            keys = block.gather(k, block.keys)
            values = block.gather(v, block.keys)
            probs = next(kept) if saved else block.probabilities(queries, keys)
            score_grad = torch.bmm(out, values.mT)  # r n m: of the probabilities, then in place of the scores
            torch._softmax_backward_data(score_grad, probs, -1, probs.dtype, grad_input=score_grad)
            parts = torch.bmm(score_grad, keys), torch.bmm(score_grad.mT, queries), torch.bmm(probs.mT, out)
            block.view(q_grad, block.queries).copy_(block.split(parts[0]))
            block.view(k_grad, block.keys).add_(block.split(parts[1]))
            block.view(v_grad, block.keys).add_(block.split(parts[2]))
    q_grad *= 1 / math.sqrt(q.size(-1))
    return [_transpose(x, dtype) for x in (q_grad, k_grad, v_grad)]
