"""Batches hold what the documents say, cut as the plan says, with the bytes and counts that metrics need."""

import itertools

import numpy as np
import pytest
import torch
from token_batches import batch_of

from xlabml.batches import IGNORED
from xlabml.data import Chunk, Concat, Pack, Rows, open_plan
from xlabml.data.order import EVALUATION, example_keys
from xlabml.tokenizer import train_tokenizer

PLANS = [
    Pack(32),
    Pack(32, max_documents=3),
    Pack(200),
    Concat(32),
    Concat(50, 3),
    Chunk(32),
    Chunk(32, 20),
    Chunk(500),
]
SOS, EOS, PAD = 1, 2, 3


def batches_of(rows, rows_per_batch=3):
    for start in range(0, len(rows), rows_per_batch):
        numbers = start + np.arange(rows_per_batch)
        yield batch_of(rows, np.where(numbers < len(rows), numbers, -1), n_counted=1.0)


def segments_of(batch):
    """(document, inputs, targets, bytes) of each segment that is text."""
    starts, is_text = batch.layout.starts.tolist(), batch.layout.is_text.tolist()
    ids, targets = batch.ids.flatten().tolist(), batch.targets.ids.flatten().tolist()
    for i, (start, end) in enumerate(itertools.pairwise(starts)):
        if is_text[i]:
            yield int(batch.documents[i]), ids[start:end], targets[start:end], int(batch.targets.n_bytes[i])


@pytest.mark.parametrize('plan', PLANS, ids=lambda plan: str(plan.settings()))
@pytest.mark.parametrize('which', ['corpus', 'two_stores'])
def test_the_rows_of_a_split_hold_its_documents_and_nothing_else(request, tmp_path, tokenizer, plan, which):
    corpus = request.getfixturevalue(which)
    rows = Rows(corpus, open_plan(plan, corpus, 'train', True, tmp_path), tokenizer)
    documents = corpus.documents('train')
    streams = {i: [SOS, *corpus.tokens(i).tolist(), EOS] for i in documents.tolist()}
    targets = {i: [None] * (len(stream) - 1) for i, stream in streams.items()}
    n_bytes = dict.fromkeys(streams, 0)
    begins = iter(rows.plan.begins.tolist())
    for batch in batches_of(rows):
        for document, inputs, asked, size in segments_of(batch):
            begin = next(begins)
            assert streams[document][begin : begin + len(inputs)] == inputs
            for i, target in enumerate(asked):
                if target != IGNORED:
                    assert targets[document][begin + i] is None
                    targets[document][begin + i] = target
            n_bytes[document] += size
    assert all(targets[i] == stream[1:] for i, stream in streams.items())
    sizes = corpus.n_bytes(documents)
    assert [n_bytes[i] for i in documents.tolist()] == sizes.tolist()


@pytest.mark.parametrize('plan', PLANS, ids=lambda plan: str(plan.settings()))
def test_a_layout_has_one_shape_and_tells_padding_from_text(corpus, tokenizer, tmp_path, plan):
    rows = Rows(corpus, open_plan(plan, corpus, 'train', False, tmp_path), tokenizer)
    for batch in batches_of(rows):
        layout = batch.layout
        assert layout.starts.dtype == torch.int32
        assert layout.starts.shape == (3 * plan.max_documents + 1,)
        assert layout.starts[0] == 0
        assert layout.starts[-1] == 3 * plan.length
        assert (layout.starts.diff() >= 0).all()
        assert layout.starts.diff().max() <= layout.max_length == plan.length
        of_slot = torch.repeat_interleave(torch.arange(len(layout.is_text)), layout.starts.diff())
        is_text = layout.is_text[of_slot].view(3, -1)
        assert ((batch.ids == PAD) == ~is_text).all()
        assert (batch.targets.ids[~is_text] == IGNORED).all()
        assert ((batch.documents == -1) == ~layout.is_text).all()
        assert (batch.targets.n_bytes[~layout.is_text] == 0).all()
        for start in range(plan.length, 3 * plan.length, plan.length):
            assert start in layout.starts  # no segment crosses a row's end


@pytest.mark.parametrize('plan', PLANS, ids=lambda plan: str(plan.settings()))
def test_every_slot_of_a_batch_leads_back_to_its_document(two_stores, tokenizer, tmp_path, plan):
    rows = Rows(two_stores, open_plan(plan, two_stores, 'val', False, tmp_path), tokenizer)
    documents = two_stores.documents('val').tolist()
    streams = {i: [SOS, *two_stores.tokens(i).tolist(), EOS] for i in documents}
    seen = set()
    for row in range(len(rows)):
        batch = batch_of(rows, np.array([row]), n_counted=1.0)
        ids, targets = batch.ids[0].tolist(), batch.targets.ids[0].tolist()
        for position in range(plan.length):
            found = rows.plan.locate(row, position)
            if found is None:
                assert (ids[position], targets[position]) == (PAD, IGNORED)
                continue
            document, offset = found
            expected = streams[document][offset], streams[document][offset + 1]
            assert (ids[position], targets[position]) == expected
            seen.add(found)
    assert seen == {(i, offset) for i in documents for offset in range(len(streams[i]) - 1)}


def test_a_packed_row_by_hand(corpus, tokenizer):
    first, second = 4, 9
    tokens = [corpus.tokens(document).tolist() for document in (first, second)]
    lengths = np.array([len(item) for item in tokens])
    n = int(lengths.sum()) + 5
    rows = Rows(corpus, Pack(n).build(lengths, np.array([first, second])), tokenizer)
    batch = batch_of(rows, np.array([0, -1]), n_counted=7.0, seed=11)
    a, b = (0, 1) if lengths[0] >= lengths[1] else (1, 0)  # the longest comes first
    assert batch.ids[0].tolist() == [SOS, *tokens[a], SOS, *tokens[b], PAD, PAD, PAD]
    assert batch.targets.ids[0].tolist() == [*tokens[a], EOS, *tokens[b], EOS, *[IGNORED] * 3]
    assert batch.ids[1].tolist() == [PAD] * n
    assert batch.targets.ids[1].tolist() == [IGNORED] * n
    assert batch.layout.starts[:6].tolist() == [0, lengths[a] + 1, n - 3, n, 2 * n, 2 * n]
    assert batch.layout.is_text[:5].tolist() == [True, True, False, False, False]
    assert batch.documents[:3].tolist() == [(first, second)[a], (first, second)[b], -1]
    assert batch.example[:4].tolist() == [0, 0, -1, -1]
    assert set(batch.role.tolist()) == {0}
    assert (batch.n_counted, batch.seed) == (7, 11)


def test_overlap_is_context_that_does_not_count(corpus, tokenizer):
    tokens = corpus.tokens(5)[:9].tolist()
    documents, lengths = np.array([5]), np.array([len(corpus.tokens(5))])
    rows = Rows(corpus, Chunk(6, 4).build(lengths, documents, counted_once=True), tokenizer)
    batch = batch_of(rows, np.array([0, 1]), n_counted=1.0)
    assert batch.ids.tolist() == [[SOS, *tokens[:5]], tokens[3:9]]
    assert batch.targets.ids.tolist() == [tokens[:6], [IGNORED, IGNORED, *tokens[6:9], int(corpus.tokens(5)[9])]]


def test_counts_agree_with_the_targets(corpus, tokenizer, tmp_path):
    rows = Rows(corpus, open_plan(Chunk(32, 20), corpus, 'train', True, tmp_path), tokenizer)
    numbers = np.array([0, 3, -1, 7])
    counts = rows.counts(numbers, example_keys(0, EVALUATION, numbers))
    targets = batch_of(rows, numbers).targets.ids
    assert counts.tolist() == (targets != IGNORED).sum(1).tolist()


def test_another_tokenizer_is_refused_by_size(corpus, texts, tmp_path):
    other = train_tokenizer(texts, tmp_path / 'other.model', 340)
    plan = open_plan(Pack(32), corpus, 'train', False, tmp_path / 'plans')
    with pytest.raises(ValueError, match='another tokenizer, of 350 tokens, than this one of 340'):
        Rows(corpus, plan, other)
