"""Masked tokens: what stands in a slot, which slots are targets, and that masks follow from places alone."""

import numpy as np
import pytest
import torch
from token_batches import batch_of, plain, train_batches

from xlabml.batches import IGNORED
from xlabml.data import Chunk, EvalBatches, Pack, Reading, loader
from xlabml.data.order import EVALUATION, example_keys
from xlabml.data.rows import MaskedNextTokens, MaskedTokens, SpanMasking, WordMasking
from xlabml.datamodules import XLabDataModule


@pytest.fixture
def read(corpus, tokenizer, tmp_path):
    def open_examples(form, plan=None, stage='train'):
        split = 'train' if stage == 'train' else 'val'
        return form.examples(corpus, split, stage, 0, Reading(tokenizer, plan or Pack(32), tmp_path, 1))

    return open_examples


def segments(batch):
    """The slots of each document's part of a batch."""
    starts = batch.layout.starts.tolist()
    return [(int(d), slice(a, b)) for d, a, b in zip(batch.documents, starts, starts[1:]) if d >= 0 and a < b]


@pytest.mark.parametrize('plan', [Pack(32), Chunk(32, 20)])
def test_a_document_is_its_tokens_between_sos_and_eos_and_a_target_is_the_token_in_its_place(
    read, corpus, tokenizer, plan
):
    rows = read(MaskedTokens(mask_ratio=0.5), plan)
    batch = batch_of(rows, np.arange(len(rows)))
    ids, targets = batch.ids.flatten(), batch.targets.ids.flatten()
    sos, eos, mask = (tokenizer.special_ids[name] for name in ('sos', 'eos', 'mask'))
    seen = {}
    for (document, slots), (_, _, begin, length) in zip(
        segments(batch), [piece for row in range(len(rows)) for piece in rows.plan.pieces(row)], strict=True
    ):
        whole = torch.tensor([sos, *corpus.tokens(document).tolist(), eos])[begin : begin + length]
        is_masked = targets[slots] != IGNORED
        assert torch.equal(targets[slots][is_masked], whole[is_masked])
        assert torch.equal(ids[slots][~is_masked], whole[~is_masked])
        is_edge = (whole == sos) | (whole == eos)
        assert not (is_masked & is_edge).any()
        seen[document] = seen.get(document, 0) + length
    if isinstance(plan, Pack):
        assert seen == {document: len(corpus.tokens(document)) + 2 for document in seen}
    masked = targets != IGNORED
    assert (ids[masked] == mask).any()


def test_the_masked_tokens_are_replaced_in_the_shares_that_are_set(read, tokenizer):
    rows = read(MaskedTokens(mask_ratio=0.4))
    numbers = np.tile(np.arange(len(rows)), 20)
    batch = rows.batch(numbers, example_keys(3, 0, np.arange(len(numbers))), 1.0)
    ids, targets = batch.ids.flatten(), batch.targets.ids.flatten()
    is_masked = targets != IGNORED
    n_tokens = 20 * (rows.plan.n_used - 2 * len(set(rows.plan.documents.tolist())))
    assert int(is_masked.sum()) / n_tokens == pytest.approx(0.4, abs=0.01)
    mask = tokenizer.special_ids['mask']
    becomes_mask = ids[is_masked] == mask
    stays = ids[is_masked] == targets[is_masked]
    assert float(becomes_mask.float().mean()) == pytest.approx(0.8, abs=0.01)
    assert float(stays.float().mean()) == pytest.approx(0.1, abs=0.01)
    others = ids[is_masked][~becomes_mask & ~stays]
    assert not set(others.tolist()) & set(tokenizer.reserved_ids)
    assert len(set(others.tolist())) > 100  # of 350 tokens


@pytest.mark.parametrize('plan', [Pack(32), Chunk(32, 20)], ids=lambda plan: type(plan).__name__)
def test_masked_next_tokens_are_predicted_by_the_slot_before_them(read, tokenizer, plan):
    numbers = np.arange(8)
    here = batch_of(read(MaskedTokens(), plan), numbers)
    before = batch_of(read(MaskedNextTokens(), plan), numbers)
    mask = tokenizer.special_ids['mask']
    n_moved = 0
    for _, slots in segments(here):
        place = here.targets.ids.flatten()[slots]
        if len(place) < 2:
            continue
        shifted = before.targets.ids.flatten()[slots]
        assert torch.equal(shifted[:-1], place[1:])
        assert shifted[-1] == IGNORED
        assert before.ids.flatten()[slots][0] != mask  # which no slot of this part would predict
        n_moved += int((shifted != IGNORED).sum())
    assert n_moved > 20


def test_all_masked_tokens_can_become_the_mask_token_or_none(read, tokenizer):
    mask = tokenizer.special_ids['mask']
    batch = batch_of(read(MaskedTokens(0.5, 1.0, 0.0)), np.arange(8))
    assert (batch.ids[batch.targets.ids != IGNORED] == mask).all()
    batch = batch_of(read(MaskedTokens(0.5, 0.0, 0.0)), np.arange(8))
    is_masked = batch.targets.ids != IGNORED
    assert torch.equal(batch.ids[is_masked], batch.targets.ids[is_masked])


FORMS = [
    MaskedTokens(),
    MaskedTokens(masking=WordMasking),
    MaskedTokens(masking=SpanMasking),
    MaskedNextTokens(masking=WordMasking),
]


@pytest.mark.parametrize('form', FORMS, ids=lambda form: f'{type(form).__name__}-{type(form.masking).__name__}')
@pytest.mark.parametrize('plan', [Pack(32), Chunk(32, 20)], ids=lambda plan: type(plan).__name__)
@pytest.mark.parametrize('stage', ['train', 'val'])
def test_targets_are_counted_before_they_are_read(read, plan, stage, form):
    rows = read(form, plan, stage)
    numbers = np.array([0, 5, -1, 7, 5])
    batch = batch_of(rows, numbers)
    counts = rows.counts(numbers, example_keys(0, EVALUATION, numbers))
    assert counts.tolist() == (batch.targets.ids != IGNORED).sum(1).tolist()


@pytest.mark.parametrize('form', FORMS[::2], ids=lambda form: type(form.masking).__name__)
def test_ranks_micro_batches_and_workers_mask_the_same(read, form):
    rows = read(form)
    whole = train_batches(rows, 8, 8, seed=1)
    for world, rows_per_batch in ((1, 2), (2, 2), (4, 1)):
        ranks = [train_batches(rows, 8, rows_per_batch, seed=1, rank=rank, world=world) for rank in range(world)]
        n = 8 // (rows_per_batch * world)
        for step in (0, 5, len(rows) // 8 + 1):  # the last one in the next epoch
            parts = [ranks[rank][step * n + i] for i in range(n) for rank in range(world)]
            for name in ('ids', 'targets'):
                found = [part.ids if name == 'ids' else part.targets.ids for part in parts]
                expected = whole[step].ids if name == 'ids' else whole[step].targets.ids
                assert torch.equal(torch.cat(found), expected)
            counted = int((whole[step].targets.ids != IGNORED).sum())
            assert {part.n_counted for part in parts} == {counted}
    assert [plain(batch) for batch in loader(whole, 3, 5, num_workers=2)] == [plain(whole[i]) for i in range(3, 8)]


def test_a_row_is_masked_anew_in_every_epoch_and_the_same_15_percent_in_every_evaluation(read):
    rows = read(MaskedTokens())
    batches = train_batches(rows, len(rows), len(rows), seed=1)
    masks = []
    for epoch in (0, 1):
        (taken,) = batches._take(epoch * len(rows), len(rows))
        first = int(np.flatnonzero(taken.numbers == 0)[0])
        masks.append((batches[epoch].targets.ids[first] != IGNORED).tolist())
    assert masks[0] != masks[1]

    evaluated = [read(MaskedTokens(mask_ratio=ratio), stage='val') for ratio in (0.3, 0.6)]
    one, other = (EvalBatches(some, 4, seed=1) for some in evaluated)
    assert plain(one[1]) == plain(other[1]) == plain(one[1])
    n_masked = sum(int((one[i].targets.ids != IGNORED).sum()) for i in range(len(one)))
    n_tokens = evaluated[0].plan.n_used - 2 * len(set(evaluated[0].plan.documents.tolist()))
    assert n_masked / n_tokens == pytest.approx(0.15, abs=0.05)


def test_bytes_are_those_of_the_masked_tokens(read, tokenizer):
    batch = batch_of(read(MaskedTokens()), np.arange(4))
    targets = batch.targets.ids.flatten()
    sizes = [len(piece) for piece in tokenizer.piece_bytes]
    for i, (a, b) in enumerate(zip(batch.layout.starts[:-1].tolist(), batch.layout.starts[1:].tolist())):
        expected = sum(sizes[t] for t in targets[a:b].tolist() if t != IGNORED)
        assert int(batch.targets.n_bytes[i]) == expected


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'mask_ratio': 0.0}, r'data\.examples\.mask_ratio is 0\.0; give a share above 0'),
        ({'mask_ratio': 1.5}, r'data\.examples\.mask_ratio is 1\.5'),
        ({'mask_token_ratio': -0.1}, r'data\.examples\.mask_token_ratio is -0\.1; give a share from 0 to 1'),
        ({'mask_token_ratio': 0.8, 'random_token_ratio': 0.3}, r'sum to more than 1'),
    ],
)
def test_shares_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskedTokens(**arguments)


def test_a_tokenizer_without_a_mask_token_is_refused_with_what_to_do(read, tokenizer, monkeypatch):
    rest = {name: id for name, id in tokenizer.special_ids.items() if name != 'mask'}
    monkeypatch.setattr(type(tokenizer), 'special_ids', rest)
    with pytest.raises(ValueError, match=r'no mask token; name one in data\.special_tokens\.mask'):
        read(MaskedTokens())


def test_the_data_module_takes_the_format_from_its_settings():
    data = XLabDataModule(examples=MaskedTokens)
    assert data.hparams['examples']['class_path'] == 'xlabml.data.rows.MaskedTokens'
    assert data.examples.settings() == {
        'class': 'MaskedTokens',
        'mask_ratio': 0.3,
        'mask_token_ratio': 0.8,
        'random_token_ratio': 0.1,
    }
    spans = {'class': 'SpanMasking', 'end_ratio': 0.2, 'max_tokens': 10}
    assert MaskedTokens(masking=SpanMasking).settings()['masking'] == spans
