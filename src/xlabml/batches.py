"""The named tuples that data hands to models, and the layout that says where documents begin.

Everything here travels through Lightning's device transfer and worker processes unchanged: tensors, ints and None.
"""

from typing import NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor

IGNORED = -100
"""The target of a position that no loss or metric counts."""


class Layout(NamedTuple):
    """Where documents begin in the rows (b, n) of a batch, seen as one flat row of b · n tokens.

    A segment is one document's part of a row; no segment crosses a row's end. The number of entries is fixed for a
    plan (the end is repeated), so that shapes are static.

    Args:
        starts: Cumulative lengths: segment i is the flat slots starts[i] to starts[i + 1] - 1. The first entry is 0,
            the last b · n; a segment may be empty.
        max_length: No segment is longer, in tokens.
        is_text: False where a segment is padding: attention skips it and its hidden states mean nothing. None where
            no segment is.
    """

    starts: Int[Tensor, ' s+1']
    max_length: int
    is_text: Bool[Tensor, ' s'] | None = None


class Batch(NamedTuple):
    """Rows of tokens, and what a language model is to say of them.

    Args:
        ids: What the trunk reads.
        targets: What follows each token; IGNORED where nothing is asked.
        layout: Where documents begin; None: every row is one document.
        documents: For each segment, its document's number in the data (over all sources); -1 for padding.
        n_bytes: For each segment, how many bytes of raw UTF-8 text its counted targets stand for.
        n_targets: How many targets the whole optimizer step counts, over ranks and micro-batches.
        seed: What a step's randomness (dropout) is drawn from: a function of (seed, step, micro-batch, rank).
    """

    ids: Int[Tensor, 'b n']
    targets: Int[Tensor, 'b n']
    layout: Layout | None
    documents: Int[Tensor, ' s']
    n_bytes: Int[Tensor, ' s']
    n_targets: int
    seed: int


def check_ids(batch: Batch, n_vocab: int) -> None:
    """Raise ValueError if a batch in the host's memory has a token that the vocabulary lacks.

    What is on a device already is not looked at: that would wait for it.
    """
    for name, tokens, least in (('ids', batch.ids, 0), ('targets', batch.targets, IGNORED)):
        if tokens.device.type != 'cpu' or not tokens.numel():
            continue
        numbers = tokens.numpy()
        wrong = (numbers < 0) & ((numbers != IGNORED) | (least == 0)) | (numbers >= n_vocab)
        if not wrong.any():
            continue
        row, position = (int(places[0]) for places in wrong.nonzero())
        raise ValueError(
            f'token {numbers[row, position]} in row {row}, position {position} of the {name} of a batch is not in '
            f'the vocabulary of {n_vocab}; make the batch with the tokenizer of the model'
            + (f', and mark what is not asked by {IGNORED}' if name == 'targets' else '')
        )
