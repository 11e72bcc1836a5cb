"""Batches, their kinds of targets, and the layout, which says where documents begin.

Named tuples of tensors, ints and None, which Lightning's device transfer and worker processes leave intact.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORED = -100
"""The target of a position, or the label of an example, that losses and metrics ignore."""

ANCHOR = 0
"""The role of the text of a group that the others are scored against: the query, text A of a pair, a single text."""

POSITIVE = 1
"""The role of a text that belongs to the anchor: the answer, or text B of a pair, whatever its label."""

NEGATIVE = 2
"""The role of a text that does not belong to the anchor; larger roles are negatives too."""


class Layout(NamedTuple):
    """Where documents begin in the rows (b, n) of a batch, seen as one flat row of b · n tokens.

    A segment is one document's part of a row; no segment crosses a row's end. The number of entries is fixed for a
    plan (the end is repeated), so that shapes are static.

    Args:
        starts: Cumulative lengths: segment i is the flat slots starts[i] to starts[i + 1] - 1. The first entry is 0,
            the last b · n; a segment may be empty.
        max_length: Upper bound of the segments' lengths, in tokens.
        is_text: False where a segment is padding: attention skips it, and its hidden states are meaningless. None: no
            segment is padding.
    """

    starts: Int[Tensor, ' s+1']
    max_length: int
    is_text: Bool[Tensor, ' s'] | None = None


class TokenTargets(NamedTuple):
    """Targets of a language model: a token for each position.

    Args:
        ids: The token to predict at each position; IGNORED where there is none.
        n_bytes: For each segment, the number of bytes of UTF-8 text of its targets.
    """

    ids: Int[Tensor, 'b n']
    n_bytes: Int[Tensor, ' s']


class ReconstructionTargets(TokenTargets):
    """Those of a denoising autoencoder: a batch has a row of noisy texts, without targets, and a row of the texts."""

    __slots__ = ()


class MaskedTargets(TokenTargets):
    """Those of masked tokens, where a batch of one task has them and another next tokens: a target stands in the place
    of its input, so that a network may attend to both sides."""

    __slots__ = ()


class PairTargets(NamedTuple):
    """Targets of an embedder.

    Args:
        score: For each segment, a teacher's score of it against the first segment of its example; None: no teacher.
        label: For each example, its class; None: no classes.
        vector: For each segment, a teacher's embedding; None: no teacher.
        text_hash: For each segment, a hash of its text: equal texts are not negatives of each other.
        set: Number of the data set of the examples.
        n_prompt: For each segment, the number of its first slots that hold its prompt, the start of the text included;
            0 where it has none. None: no segment has a prompt.
    """

    score: Float[Tensor, ' s'] | None
    label: Int[Tensor, ' e'] | None
    vector: Float[Tensor, 's d'] | None
    text_hash: Int[Tensor, ' s']
    set: int
    n_prompt: Int[Tensor, ' s'] | None = None


class ClassTargets(NamedTuple):
    """Targets of a classifier.

    Args:
        labels: For each example, its class (IGNORED where it has none), or the probability of each class; of a
            regression, a number in one column.
        weights: For each example, its weight in the loss; 0 leaves it out.
        n_cut: For each example, how many tokens of its texts were cut off; None: it is not known.
    """

    labels: Int[Tensor, ' e'] | Float[Tensor, 'e k']
    weights: Float[Tensor, ' e']
    n_cut: Int[Tensor, ' e'] | None = None


Targets: TypeAlias = TokenTargets | PairTargets | ClassTargets


class Batch(NamedTuple):
    """Examples of a task and their targets.

    Args:
        ids: Token ids, the input of the trunk.
        layout: Where documents begin; None: every row is one document.
        documents: For each segment, the number of its document in the data (over all sources); -1 for padding.
        example: For each segment, the index of its example in the batch; -1 for padding. Of packed rows a row is an
            example.
        role: For each segment, its part in the example (query, positive, text A …), by the format's own list of roles;
            0 in packed rows and for padding.
        targets: `TokenTargets`, `PairTargets` or `ClassTargets`.
        n_counted: Divisor of the loss: the number of targets (or their total weight) of the whole optimizer step, over
            ranks and micro-batches.
        seed: The seed of dropout, a function of (seed, step, micro-batch, rank).
    """

    ids: Int[Tensor, 'b n']
    layout: Layout | None
    documents: Int[Tensor, ' s']
    example: Int[Tensor, ' s']
    role: Int[Tensor, ' s']
    targets: Targets
    n_counted: float
    seed: int


def layout_lengths(ids: Int[Tensor, 'b n'], layout: Layout | None) -> Int[Tensor, ' s']:
    """The number of tokens of each document of a batch; 0 for padding."""
    if layout is None:
        return torch.full((ids.size(0),), ids.size(1), dtype=torch.long, device=ids.device)
    lengths = layout.starts.diff().long()
    return lengths if layout.is_text is None else lengths * layout.is_text


def token_targets(batch: Batch) -> TokenTargets:
    """The targets of a batch for a language model.

    Raises:
        ValueError: The batch has targets of another kind.
    """
    if not isinstance(batch.targets, TokenTargets):
        raise ValueError(
            f'a batch has {type(batch.targets).__name__}, but a language model trains on TokenTargets; set '
            'data.examples to a format that has them, such as NextTokens'
        )
    return batch.targets


def batch_of_rows(rows: Int[Tensor, 'b m'], seed: int = 0, n_bytes: Int[Tensor, ' b'] | None = None) -> Batch:
    """Rows of token ids as a batch of a language model: each token but the last of a row predicts the next one.

    The batch is a whole optimizer step of one device.

    Args:
        rows: Token ids, each row one text; a target of IGNORED counts for nothing.
        seed: The seed of dropout.
        n_bytes: The number of bytes of UTF-8 text of each row's targets; None: it is not known, and bits per byte are
            NaN.

    Raises:
        ValueError: The rows are not ids of two tokens or more.
    """
    check_shape(rows, 'rows')
    if rows.size(1) < 2:
        raise ValueError(f'rows has {rows.size(1)} token(s) in a row; it takes two to predict one from the other')
    b = len(rows)
    numbers = torch.arange(b)
    unknown = torch.zeros(b, dtype=torch.long)
    targets = TokenTargets(rows[:, 1:], unknown if n_bytes is None else n_bytes)
    n_counted = float((targets.ids != IGNORED).sum())
    return Batch(rows[:, :-1], None, numbers, numbers, unknown, targets, n_counted, seed)


def check_shape(ids: object, name: str) -> None:
    """Raise ValueError unless these are token ids: a tensor (b, n) of whole numbers."""
    if not isinstance(ids, Tensor):
        raise ValueError(f'{name} is a {type(ids).__name__}; it must be a tensor of token ids, of shape (b, n)')
    if ids.dim() != 2:
        hint = f'; make one row of it with {name}[None]' if ids.dim() == 1 else ''
        raise ValueError(f'{name} has the shape {tuple(ids.shape)}; it must be (b, n): texts, tokens{hint}')
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f'{name} is of {ids.dtype}; token ids are whole numbers, such as torch.int64')


def check_batch(batch: Batch) -> None:
    """Raise ValueError where the parts of a batch do not fit each other.

    Those on a device are checked by their shapes alone, since values would synchronize with it.
    """
    check_shape(batch.ids, 'the ids of a batch')
    if isinstance(batch.targets, TokenTargets) and batch.targets.ids.shape != batch.ids.shape:
        raise ValueError(
            f'the targets of a batch have the shape {tuple(batch.targets.ids.shape)}, and its ids '
            f'{tuple(batch.ids.shape)}; give each id one target, or {IGNORED}'
        )
    if not batch.n_counted >= 0:
        raise ValueError(f'n_counted of a batch is {batch.n_counted}; it is the number of targets of a step, 0 or more')
    layout = batch.layout
    if layout is None:
        return
    n_segments = len(layout.starts) - 1
    for name, values in (('documents', batch.documents), ('example', batch.example), ('role', batch.role)):
        if len(values) != n_segments:
            raise ValueError(
                f'{name} of a batch has {len(values)} entries for {n_segments} segments; give one for each'
            )
    _check_layout(layout, batch.ids.numel())


def _check_layout(layout: Layout, n_slots: int) -> None:
    if layout.max_length < 1 and n_slots:
        raise ValueError(f'max_length of a layout is {layout.max_length}; it is the length of the longest segment')
    if layout.starts.device.type != 'cpu':
        return
    starts = layout.starts.numpy()
    lengths = np.diff(starts)
    if (lengths < 0).any():
        segment = int((lengths < 0).nonzero()[0][0])
        raise ValueError(
            f'segment {segment} of a layout has the length {lengths[segment]}; starts are cumulative lengths, and rise'
        )
    if not len(starts) or starts[0] or starts[-1] != n_slots:
        raise ValueError(
            f'starts of a layout are {starts[:1].tolist()} … {starts[-1:].tolist()}; they must go from 0 to the '
            f'{n_slots} slots of the batch'
        )


def check_ids(batch: Batch, n_vocab: int) -> None:
    """Raise ValueError if a batch in the host's memory has a token outside of the vocabulary.

    A batch on a device is not checked, since that would synchronize with it.
    """
    named = [('ids', batch.ids, 0)]
    if isinstance(batch.targets, TokenTargets):
        named.append(('targets', batch.targets.ids, IGNORED))
    for name, tokens, least in named:
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
            + (f', and set the targets of ignored positions to {IGNORED}' if name == 'targets' else '')
        )


def check_classes(targets: ClassTargets, n_classes: int) -> None:
    """Raise ValueError if targets in the host's memory have a class that the classifier lacks, or a negative weight.

    Targets on a device are not checked.
    """
    labels = targets.labels
    weights = targets.weights
    if labels.device.type != 'cpu':
        return
    if labels.is_floating_point():
        wrong = ~((labels >= 0) & (labels <= 1)).all(-1)
        if labels.size(-1) != n_classes:
            raise ValueError(f'a batch has probabilities of {labels.size(-1)} classes; the classifier has {n_classes}')
    else:
        wrong = ((labels < 0) & (labels != IGNORED)) | (labels >= n_classes)
    if wrong.any():
        example = int(wrong.nonzero()[0])
        raise ValueError(
            f'the label {labels[example].tolist()} of example {example} of a batch is none of the {n_classes} classes; '
            f'make the batch with the classes of the classifier, and mark an example without one by {IGNORED}'
        )
    if not (weights >= 0).all() or not weights.isfinite().all():
        example = int((~(weights >= 0) | ~weights.isfinite()).nonzero()[0])
        raise ValueError(f'the weight of example {example} of a batch is {weights[example]:g}; it must be 0 or more')


def check_pairs(targets: PairTargets) -> None:
    """Raise ValueError if scores or vectors in the host's memory are not finite.

    Those on a device are not checked.
    """
    for name, values in (('score', targets.score), ('vector', targets.vector)):
        if values is None or values.device.type != 'cpu' or values.isfinite().all():
            continue
        segment = int((~values.isfinite()).nonzero()[0, 0])
        raise ValueError(f'the {name} of segment {segment} of a batch is not finite; check the column that it is from')
