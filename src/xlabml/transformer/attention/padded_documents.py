"""Attention inside the documents of packed rows on a CPU, in bf16, on documents padded to few lengths.

For CPUs that multiply bf16 twice as fast as float32 but without tiles of AMX. oneDNN compiles a kernel for each shape,
so documents are padded to a multiple of `_STEP`: shapes recur. Those of one padded length are computed together. Scores
and softmax are float32, since torch's products of bf16 return bf16; probabilities and gradients are rounded to bf16
where they are multiplied.

One gather arranges the tokens: batches of documents one after another, each (documents, heads, tokens). A padded place
repeats the last token of its document, so that no document reads another one. Its keys are masked, and the gradient of
its output is zero.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .definition import Rule, make_bias
from .places import Segments

_STEP = 32
"""Lengths are padded to a multiple of this many tokens."""

_AT_ONCE = 1024
"""Documents of one padded length are computed together up to this many tokens."""

_BLOCK = 128
"""Queries per block of documents that are at least twice as long; keys after a causal block are not multiplied."""


class Block(NamedTuple):
    """A range of queries, and the keys that any of them attends to.

    Args:
        queries: Range of the queries of each document.
        keys: Range of the keys.
        mask: Added to the scores of the last keys (as many as it has columns), 0 or -inf; None: nothing is masked.
    """

    queries: slice
    keys: slice
    mask: Float[Tensor, '#r n m'] | None


class Batch(NamedTuple):
    """Documents of one padded length.

    Args:
        rows: Range of its rows among the gathered ones.
        length: Padded length.
        blocks: Blocks of queries.
    """

    rows: slice
    length: int
    blocks: list[Block]

    def view(self, x: Float[Tensor, 'p c']) -> Float[Tensor, 'r n c']:
        """Its part of gathered rows: r is documents x heads, n the padded length."""
        return x[self.rows].view(-1, self.length, x.size(1))


class Padding(NamedTuple):
    """How the tokens of a pass are gathered; a row is a token of a head, of t x h.

    Args:
        rows: The row of each gathered place.
        back: The gathered place of each row.
        padded: Gathered places that are padding.
        outside: Rows of tokens outside of documents.
        batches: The batches, in the order of the gathered places.
    """

    rows: Int[Tensor, ' p']
    back: Int[Tensor, ' r']
    padded: Int[Tensor, ' q']
    outside: Int[Tensor, ' o']
    batches: list[Batch]

    def gather(self, x: Float[Tensor, 't h c']) -> Float[Tensor, 'p c']:
        """Arrange the tokens in batches."""
        return x.reshape(-1, x.size(2)).index_select(0, self.rows)

    def split_kept(self, flat: Float[Tensor, ' k'], d_head: int) -> list[Tensor]:
        """Views of what `attend_padded` kept, from all of it in one tensor."""
        sizes: list[tuple[int, ...]] = [(self.rows.numel(), d_head)] * 3
        for batch in self.batches:
            n_rows = (batch.rows.stop - batch.rows.start) // batch.length
            for block in batch.blocks:
                n_queries = block.queries.stop - block.queries.start
                sizes.append((n_rows, n_queries, block.keys.stop - block.keys.start))
        parts = flat[: sum(map(math.prod, sizes))].split([math.prod(size) for size in sizes])
        return [part.view(size) for part, size in zip(parts, sizes)]

    def scatter(self, x: Float[Tensor, 'p c'], like: Float[Tensor, 't h c']) -> Float[Tensor, 't h c']:
        """The opposite of `gather`; zero outside of documents."""
        back = x.index_select(0, self.back)
        return (back.index_fill_(0, self.outside, 0) if self.outside.numel() else back).view(like.shape)


def most_padded(n_tokens: int, n_documents: int) -> int:
    """The most places that as many documents with as many tokens are padded to."""
    return n_tokens + (_STEP - 1) * min(n_documents, n_tokens)


def make_padding(segments: Segments, rule: Rule, n_heads: int) -> Padding:
    """Arrange the documents in batches.

    Args:
        rule: Without slopes.
    """
    starts: dict[int, list[tuple[int, int]]] = {}  # by padded length: where a document begins, and its length
    start = 0
    for length, is_text in segments:
        if length and is_text:
            starts.setdefault(-(-length // _STEP) * _STEP, []).append((start, length))
        start += length
    longest = max(starts, default=0)
    masks = make_bias(longest, rule) if rule.causal or rule.window is not None else None
    heads = torch.arange(n_heads)[:, None]
    rows = [torch.empty(0, dtype=torch.long)]
    is_padded = [torch.empty(0, dtype=torch.bool)]
    batches = []
    first = 0
    for padded, documents in starts.items():
        at_once = max(1, _AT_ONCE // padded)
        for chosen in (documents[i : i + at_once] for i in range(0, len(documents), at_once)):
            begins, lengths = torch.tensor(chosen).T[:, :, None]  # s 1
            place = torch.arange(padded)
            token = begins + place.minimum(lengths - 1)  # s n
            rows.append((token[:, None] * n_heads + heads).flatten())  # s h n
            is_padded.append((place >= lengths)[:, None].expand(-1, n_heads, -1).flatten())
            end = first + rows[-1].numel()
            batches.append(Batch(slice(first, end), padded, _cut(padded, lengths, rule, masks, n_heads)))
            first = end
    gathered = torch.cat(rows)
    padded_places = torch.cat(is_padded)
    texts = (~padded_places).nonzero()[:, 0]
    back = torch.full((start * n_heads,), -1).index_copy_(0, gathered[texts], texts)
    outside = (back < 0).nonzero()[:, 0]
    return Padding(gathered, back.clamp_(min=0), padded_places.nonzero()[:, 0], outside, batches)


def _cut(
    padded: int, lengths: Int[Tensor, 's 1'], rule: Rule, masks: Float[Tensor, '1 n m'] | None, n_heads: int
) -> list[Block]:
    """Blocks of the queries of documents of one padded length."""
    is_cut = padded >= 2 * _BLOCK and (rule.causal or rule.window is not None)
    back = padded if rule.window is None else rule.window - 1
    beyond = None
    if not rule.causal and bool((lengths < padded).any()):  # else the causal mask hides padded keys from text
        is_beyond = (torch.arange(padded) >= lengths).repeat_interleave(n_heads, dim=0)[:, None]  # r 1 m
        beyond = torch.zeros(is_beyond.shape).masked_fill_(is_beyond, -math.inf)
    blocks = []
    for first in range(0, padded, _BLOCK if is_cut else padded):
        end = min(first + _BLOCK, padded) if is_cut else padded
        keys = slice(max(0, first - back), end if rule.causal else min(padded, end + back))
        mask = None
        if masks is not None:
            # Causal alone: all queries of a block attend to all keys before it.
            masked = slice(first, end) if rule.causal and rule.window is None else keys
            mask = masks[:, first:end, masked]
        if beyond is not None:
            # A query of padding may have no key left; what it returns is not used, but must be a number.
            hidden = beyond[:, :, keys].expand(-1, end - first, -1)
            mask = hidden if mask is None else (mask + hidden)
            mask = mask.masked_fill((mask == -math.inf).all(dim=-1, keepdim=True), 0)
        blocks.append(Block(slice(first, end), keys, mask))
    return blocks


def _probabilities(block: Block, queries: Tensor, keys: Tensor) -> Float[Tensor, 'r n m']:
    """softmax(Q Kᵀ / sqrt(c) + mask), in bf16.

    Args:
        queries: In float32, like keys.
    """
    # Not by bmm, whose output selective checkpointing stores: this one is overwritten.
    scores = queries.new_empty(*queries.shape[:2], keys.size(1))
    scores.baddbmm_(queries, keys.mT, beta=0, alpha=1 / math.sqrt(queries.size(2)))
    if block.mask is not None:
        scores[:, :, -block.mask.size(2) :] += block.mask
    return torch.softmax(scores, dim=-1, out=scores).bfloat16()


def gather_all(padding: Padding, q: Tensor, k: Tensor, v: Tensor) -> list[Float[Tensor, 'p c']]:
    """Gathered queries, keys and values."""
    return [padding.gather(x) for x in (q, k, v)]


def attend_padded(
    padding: Padding,
    q: Float[Tensor, 't h c'],
    k: Float[Tensor, 't h c'],
    v: Float[Tensor, 't h c'],
    kept: list[Tensor] | None,
) -> Float[Tensor, 't h c']:
    """The attention output of queries, keys and values, in bf16.

    Args:
        kept: Receives the result of `gather_all`, then the probabilities of each block; None: nothing is kept.
    """
    gathered = gather_all(padding, q, k, v)
    output = torch.empty_like(gathered[0])
    if kept is not None:
        kept += gathered
    with torch.autocast('cpu', enabled=False):
        for batch in padding.batches:
            queries, keys, values, mixed = (batch.view(x) for x in (*gathered, output))  # r n c
            queries = queries.float()
            keys = keys.float()
            for block in batch.blocks:
                probs = _probabilities(block, queries[:, block.queries], keys[:, block.keys])
                mixed[:, block.queries] = torch.bmm(probs, values[:, block.keys])
                if kept is not None:
                    kept.append(probs)
    return padding.scatter(output, q)


def attend_padded_backward(
    padding: Padding, grad: Float[Tensor, 't h c'], gathered: Sequence[Tensor], saved: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, each t h c.

    With P the probabilities: dS = P · (dP - sum(P · dP)), then dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO.

    Args:
        grad: Gradient of the output.
        gathered: The result of `gather_all`.
        saved: The probabilities of each block; empty: they are recomputed.
    """
    out_grad = padding.gather(grad).index_fill_(0, padding.padded, 0)
    grads = [torch.empty_like(x) for x in gathered]
    kept = iter(saved)
    with torch.autocast('cpu', enabled=False):
        for batch in padding.batches:
            q, k, v, out = (batch.view(x) for x in (*gathered, out_grad))  # r n c
            q_grad, k_grad, v_grad = (batch.view(x) for x in grads)
            is_whole = len(batch.blocks) == 1
            if not is_whole:
                k_grad.zero_()
                v_grad.zero_()
            for block in batch.blocks:
                queries = q[:, block.queries]
                keys = k[:, block.keys]
                probs = next(kept) if saved else _probabilities(block, queries.float(), keys.float())  # r n m
                score_grad = torch.bmm(out[:, block.queries], v[:, block.keys].mT)  # dP, then dS in its place
                torch._softmax_backward_data(score_grad, probs, -1, probs.dtype, grad_input=score_grad)
                parts = torch.bmm(score_grad.mT, queries), torch.bmm(probs.mT, out[:, block.queries])
                # Each query is in one block, a key in several: dQ is copied, dK and dV are summed.
                q_grad[:, block.queries] = torch.bmm(score_grad, keys)
                if is_whole:
                    k_grad.copy_(parts[0])
                    v_grad.copy_(parts[1])
                else:
                    k_grad[:, block.keys] += parts[0]
                    v_grad[:, block.keys] += parts[1]
    for scaled in grads[:2]:
        scaled *= 1 / math.sqrt(grad.size(2))
    of_q, of_k, of_v = (padding.scatter(x, grad) for x in grads)
    return of_q, of_k, of_v
