"""Batches of rows, each one document, as a test writes them down."""

import torch
from torch.utils._pytree import tree_leaves

from xlabml.batches import Batch, TokenTargets
from xlabml.data import BatchSequence, Epochs, Mixed, Place
from xlabml.data.order import EVALUATION, example_keys


def token_batch(ids, targets, seed=0, documents=None, n_bytes=24, n_counted=None, layout=None):
    """Rows of ids and targets (b, n) as a batch; every document's targets are n_bytes of text.

    Args:
        documents: The number of each segment's document; None: 0, 1, … a row each.
        n_counted: How many targets the whole step counts; None: all that these rows have.
    """
    documents = torch.arange(len(ids)) if documents is None else documents
    n_counted = targets.numel() if n_counted is None else n_counted
    bytes_each = torch.full_like(documents, n_bytes)
    example = torch.arange(len(documents))
    role = torch.zeros_like(documents)
    return Batch(ids, layout, documents, example, role, TokenTargets(targets, bytes_each), float(n_counted), seed)


def plain(batch):
    """All that a batch holds, as lists, numbers and None: equal where batches are equal bit for bit."""
    return [part.tolist() if isinstance(part, torch.Tensor) else part for part in tree_leaves(batch)]


def batch_of(examples, numbers, n_counted=1.0, seed=0):
    """Examples of these numbers as a batch, what they draw as in an evaluation."""
    keys = example_keys(0, EVALUATION, numbers)
    return examples.batch(numbers, keys, n_counted, seed)


def train_batches(examples, rows_per_step, rows_per_batch, seed, mixture=None, first_row=0, skipped=(), **options):
    """The batches of training on epochs of examples, or on a mixture; rows count over all passes."""
    passes = Epochs(examples, seed) if mixture is None else Mixed(examples, seed, mixture)
    skipped = [(place(passes, start), place(passes, end)) for start, end in skipped]
    start = place(passes, first_row)
    return BatchSequence(passes, rows_per_step, rows_per_batch, seed, start=start, skipped=skipped, **options)


def place(passes, row):
    """The place of a row that is counted over all passes."""
    return Place(*divmod(row, passes.n_each))


def spy_on(rows, monkeypatch):
    """The row numbers of each batch that is made from now on."""
    taken, batch = [], rows.batch

    def spy(numbers, *rest):
        taken.append(numbers.tolist())
        return batch(numbers, *rest)

    monkeypatch.setattr(rows, 'batch', spy)
    return taken


def same(first, second):
    """Whether batches are equal bit for bit."""
    return plain(first) == plain(second)
