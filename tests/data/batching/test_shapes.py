"""Compiled code sees one shape a plan: every batch that the loader gives is like the first, the last ones too."""

import pytest
import torch
from token_batches import train_batches

from xlabml.batches import IGNORED
from xlabml.data import Chunk, Concat, EvalBatches, Pack, Rows, loader, open_plan

PLANS = [Pack(32), Pack(32, 3), Pack(200), Concat(32), Concat(50, 3), Chunk(32), Chunk(32, 20), Chunk(500)]


def shape_of(batch):
    of_segments = (batch.documents, batch.example, batch.role, batch.targets.n_bytes)
    tensors = (batch.ids, batch.targets.ids, batch.layout.starts, batch.layout.is_text, *of_segments)
    return tuple((tensor.dtype, tuple(tensor.shape), tensor.is_contiguous()) for tensor in tensors)


@pytest.mark.parametrize('plan', PLANS, ids=lambda plan: str(plan.settings()))
@pytest.mark.parametrize('split', ['train', 'val'])
def test_every_batch_has_the_shapes_of_the_first(corpus, tokenizer, tmp_path, plan, split):
    rows = Rows(corpus, open_plan(plan, corpus, split, False, tmp_path), tokenizer)
    n_rows, n_segments = 3, 3 * plan.max_documents
    expected = (
        *[(torch.int64, (n_rows, plan.length), True)] * 2,
        (torch.int32, (n_segments + 1,), True),
        (torch.bool, (n_segments,), True),
        *[(torch.int64, (n_segments,), True)] * 4,
    )
    training = train_batches(rows, 2 * n_rows, n_rows, seed=1)
    evaluating = [EvalBatches(rows, n_rows, rank, 2) for rank in (0, 1)]
    whole_epoch = min(60, len(rows) // n_rows + 3)  # into the next data epoch
    batches = [*loader(training, 0, whole_epoch), *(b for part in evaluating for b in loader(part, 0, len(part)))]
    assert {shape_of(batch) for batch in batches} == {expected}
    assert {batch.layout.max_length for batch in batches} == {plan.length}
    assert {(type(batch.n_counted), type(batch.seed)) for batch in batches} == {(float, int)}
    last = evaluating[1][len(evaluating[1]) - 1]
    assert (len(rows) % (2 * n_rows) == 0) == bool((last.targets.ids[-1] != IGNORED).any())
