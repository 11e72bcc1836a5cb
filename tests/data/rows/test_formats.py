"""A format says what an example is: a file of its own changes inputs and targets, and draws by the example's place."""

import numpy as np
import pytest
import torch
from token_batches import batch_of, plain, train_batches

from xlabml.batches import IGNORED, TokenTargets
from xlabml.data import Chunk, EvalBatches, NextTokens, NextTokenView, Pack, Reading, RowFormat, loader
from xlabml.data.order import EVALUATION, example_keys, slot_keys, uniform
from xlabml.datamodules import XLabDataModule

SHARE = 0.3


class _Drawn(NextTokenView):
    """A share of the targets, drawn anew for each place of the sequence."""

    counts_all = False

    def _is_drawn(self, keys, lengths):
        return uniform(slot_keys(keys, lengths)) < SHARE

    def counts(self, pieces, keys):
        piece = np.repeat(np.arange(len(keys)), pieces.lengths)
        offset = np.arange(len(piece)) - np.repeat(np.cumsum(pieces.lengths) - pieces.lengths, pieces.lengths)
        drawn = self._is_drawn(keys, pieces.lengths) & (offset >= pieces.first_counted[piece])
        return np.bincount(piece, drawn, len(keys)).astype(np.int64)

    def read(self, documents, begins, lengths, keys):
        inputs, targets, n_bytes = super().read(documents, begins, lengths, keys)
        drawn = self._is_drawn(keys, lengths)
        return inputs, np.where(drawn, targets, IGNORED), n_bytes * drawn


class Drawn(RowFormat):
    unused = ('n_processes',)

    def view(self, corpus, stage, pass_index, reading):
        return _Drawn(corpus, reading.tokenizer)


class _Marked(NextTokenView):
    """Documents of one slot more, which is padding and has no target."""

    def settings(self):
        return {'class': 'Marked'}

    def lengths(self, documents, row_length):
        return super().lengths(documents, row_length) + 1

    def read(self, documents, begins, lengths, keys):
        inputs, targets, n_bytes = super().read(documents, begins, lengths - 1, keys)
        ends = np.cumsum(lengths - 1)
        return np.insert(inputs, ends, 3), np.insert(targets, ends, IGNORED), np.insert(n_bytes, ends, 0)


class Marked(RowFormat):
    def view(self, corpus, stage, pass_index, reading):
        return _Marked(corpus, reading.tokenizer)


@pytest.fixture
def read(corpus, tokenizer, tmp_path):
    def open_examples(form, plan=None, stage='train', split='train'):
        return form.examples(corpus, split, stage, 0, Reading(tokenizer, plan or Pack(32), tmp_path, 1))

    return open_examples


def test_the_default_is_next_token_prediction_with_targets_by_name():
    data = XLabDataModule()
    assert type(data.examples) is NextTokens
    assert data.examples.targets is TokenTargets
    assert data.examples.settings() == {'class': 'NextTokens'}


def test_overlapping_windows_count_once_in_every_stage_but_training(read):
    plan = Chunk(32, 20)
    n = {stage: read(NextTokens(), plan, stage, 'val').plan.n_counted for stage in ('train', 'val', 'test', 'predict')}
    assert n['train'] > n['val'] == n['test'] == n['predict']


@pytest.mark.parametrize('plan', [Pack(32), Chunk(32, 20)])
@pytest.mark.parametrize('stage', ['train', 'val'])
def test_what_is_drawn_is_counted_before_it_is_read(read, plan, stage):
    rows = read(Drawn(), plan, stage)
    numbers = np.array([0, 5, -1, 7, 5])
    batch = batch_of(rows, numbers)
    keys = example_keys(0, EVALUATION, numbers)
    n_targets = (batch.targets.ids != IGNORED).sum(1)
    assert rows.counts(numbers, keys).tolist() == n_targets.tolist()
    whole = batch_of(read(NextTokens(), plan, stage), numbers)
    assert torch.equal(batch.ids, whole.ids)
    assert 0.1 < n_targets.sum() / (whole.targets.ids != IGNORED).sum() < 0.5
    assert torch.equal(batch.targets.ids[1], batch.targets.ids[4])  # the same key draws the same
    assert (batch.targets.n_bytes <= whole.targets.n_bytes).all()


def test_ranks_micro_batches_and_workers_change_nothing_of_what_is_drawn(read):
    rows = read(Drawn())
    whole = train_batches(rows, 8, 8, seed=1)
    for world, rows_per_batch in ((1, 2), (2, 2), (4, 1)):
        ranks = [train_batches(rows, 8, rows_per_batch, seed=1, rank=rank, world=world) for rank in range(world)]
        n = 8 // (rows_per_batch * world)
        for step in (0, 7, len(rows) // 8 + 1):  # the last one in the next epoch
            parts = [ranks[rank][step * n + i] for i in range(n) for rank in range(world)]
            assert torch.equal(torch.cat([part.targets.ids for part in parts]), whole[step].targets.ids)
            counted = int((whole[step].targets.ids != IGNORED).sum())
            assert {part.n_counted for part in parts} == {whole[step].n_counted} == {counted}
    assert [plain(batch) for batch in loader(whole, 3, 5, num_workers=2)] == [plain(whole[i]) for i in range(3, 8)]


def test_the_same_row_is_drawn_anew_in_every_epoch_and_for_every_seed(read):
    rows = read(Drawn())

    def targets_of(seed, epoch):
        batches = train_batches(rows, len(rows), len(rows), seed=seed)
        batch = batches[epoch]
        (taken,) = batches._take(epoch * len(rows), len(rows))
        first = int(np.flatnonzero(taken.numbers == 0)[0])
        return batch.ids[first].tolist(), (batch.targets.ids[first] != IGNORED).tolist()

    (ids, one), (again, other), (also, third) = targets_of(1, 0), targets_of(1, 1), targets_of(2, 0)
    assert ids == again == also
    assert one != other != third != one


def test_every_evaluation_draws_the_same_for_any_number_of_ranks(read):
    rows = read(Drawn(), stage='val')
    alone = torch.cat([batch.targets.ids for batch in map(EvalBatches(rows, 3, seed=5).__getitem__, range(5))])
    ranks = [EvalBatches(rows, 2, rank, 2, seed=5) for rank in range(2)]
    dealt = torch.cat([ranks[rank][i].targets.ids for i in range(4) for rank in range(2)])
    assert torch.equal(alone[:15], dealt[:15])
    other = torch.cat([batch.targets.ids for batch in map(EvalBatches(rows, 3, seed=6).__getitem__, range(5))])
    assert not torch.equal(alone, other)


def test_a_view_of_other_lengths_has_plans_of_its_own(read, corpus):
    plain_rows, marked = read(NextTokens()), read(Marked())
    assert plain_rows.plan.folder != marked.plan.folder
    assert read(Drawn()).plan.folder == plain_rows.plan.folder
    n_documents = len(corpus.documents('train'))
    assert marked.plan.n_used == plain_rows.plan.n_used + n_documents


def test_a_setting_that_the_format_does_not_use_is_refused():
    XLabDataModule(examples=Drawn)
    with pytest.raises(ValueError, match=r'data\.n_processes is set, but the examples of Drawn do not use it'):
        XLabDataModule(examples=Drawn, n_processes=2)


def test_a_row_is_rendered_as_the_texts_in_it(read, corpus, tokenizer):
    rows = read(NextTokens())
    found = rows.render(3)
    pieces = rows.plan.pieces(3)
    assert [name for name, _ in found] == [corpus.name(document) for _, document, _, _ in pieces]
    _, document, begin, length = pieces[0]
    assert found[0][1] == tokenizer.decode(corpus.tokens(document)[begin : begin + length].tolist())


def test_keys_are_spread_evenly_and_follow_from_the_place_in_a_row():
    keys = example_keys(1, 0, np.arange(1000))
    assert len(set(keys.tolist())) == 1000
    assert not set(keys.tolist()) & set(example_keys(1, 1, np.arange(1000)).tolist())
    of_slots = slot_keys(keys, np.full(1000, 64))
    assert len(set(of_slots.tolist())) == 64_000
    assert abs(uniform(of_slots).mean() - 0.5) < 0.01
    whole = slot_keys(keys[:1], np.array([10]))
    parts = slot_keys(np.array([keys[0], keys[0] + np.uint64(4)]), np.array([4, 6]))
    assert whole.tolist() == parts.tolist()
