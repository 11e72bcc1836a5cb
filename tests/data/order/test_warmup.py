"""Steps begin with few rows, or with documents cut short; the rows, and their order, are those of any run."""

import numpy as np
import pytest
import torch
from token_batches import batch_of, same, spy_on, train_batches

from xlabml.batches import IGNORED
from xlabml.data import Chunk, Concat, Doubling, Pack, Rows, count_doublings, loader, open_plan


def test_a_size_doubles_in_equal_stages():
    size = Doubling(1, 8, 7)  # stages begin at 0, 7 // 3 and 14 // 3
    assert [size(step) for step in range(10)] == [1, 1, 2, 2, 4, 4, 4, 8, 8, 8]
    assert [size.before(step) for step in range(10)] == [0, 1, 2, 4, 6, 10, 14, 18, 26, 34]
    assert [size.reach(total) for total in (0, 1, 2, 3, 4, 6, 7, 18, 19, 26, 27)] == [0, 1, 2, 3, 3, 4, 5, 7, 8, 8, 9]


@pytest.mark.parametrize(('start', 'full', 'steps'), [(5, 5, 0), (5, 5, 9), (3, 6, 1), (3, 48, 4), (2, 64, 23)])
def test_sums_are_those_of_the_steps(start, full, steps):
    size = Doubling(start, full, steps)
    sums = [0]
    for step in range(60):
        sums.append(sums[-1] + size(step))
    assert [size.before(step) for step in range(61)] == sums
    assert [size.reach(total) for total in range(sums[50])] == np.searchsorted(sums, range(sums[50])).tolist()
    assert (size(0), size(steps), size(10**15)) == (start, full, full)
    far = 10**15
    assert size.before(far) == size.before(60) + (far - 60) * full
    assert size.reach(size.before(far)) == far


@pytest.mark.parametrize(
    ('start', 'full', 'n'), [(1, 1, 0), (4, 32, 3), (3, 6, 1), (3, 9, None), (8, 4, None), (3, 7, None)]
)
def test_what_does_not_double_is_found(start, full, n):
    assert count_doublings(start, full) == n


@pytest.fixture(scope='module')
def rows(corpus, tokenizer, tmp_path_factory):
    return Rows(corpus, open_plan(Pack(32), corpus, 'train', False, tmp_path_factory.mktemp('plans')), tokenizer)


def test_small_steps_take_the_same_rows_one_after_the_other(rows, monkeypatch):
    taken = spy_on(rows, monkeypatch)
    batches = train_batches(rows, Doubling(2, 8, 6), 8, seed=1)
    for i in range(9):
        batches[i]
    small = [number for numbers in taken for number in numbers]
    assert [len(numbers) for numbers in taken] == [2, 2, 2, 4, 4, 4, 8, 8, 8]
    assert [batches.row(step) for step in (0, 3, 6, 7, 10**12)] == [0, 6, 18, 26, 18 + 8 * (10**12 - 6)]
    taken.clear()
    whole = train_batches(rows, 8, 8, seed=1)
    for i in range(6):
        whole[i]
    assert small == [number for numbers in taken for number in numbers][: len(small)]


@pytest.mark.parametrize(('world', 'rows_per_batch'), [(1, 8), (1, 4), (2, 4), (2, 2), (4, 2)])
def test_ranks_and_micro_batches_share_out_small_steps(rows, world, rows_per_batch):
    size, longest = Doubling(4, 8, 3), Doubling(8, 32, 5)
    whole = train_batches(rows, size, 8, seed=1, longest=longest)
    settings = {'seed': 1, 'world': world, 'longest': longest}
    ranks = [train_batches(rows, size, rows_per_batch, rank=rank, **settings) for rank in range(world)]
    n = 8 // (rows_per_batch * world)
    for step in (0, 2, 3, 40):
        parts = [batches[step * n + part] for part in range(n) for batches in ranks]
        assert {len(part.ids) for part in parts} == {size(step) // (n * world)}
        assert torch.equal(torch.cat([part.ids for part in parts]), whole[step].ids)
        assert {(part.n_counted, part.layout.max_length) for part in parts} == {(whole[step].n_counted, longest(step))}
        assert whole[step].n_counted == int((whole[step].targets.ids != IGNORED).sum())


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize('step', [1, 4, 6, 9])
def test_a_run_goes_on_inside_a_warm_up(rows, step, num_workers):
    settings = {'rows_per_step': Doubling(2, 8, 6), 'rows_per_batch': 4, 'seed': 1, 'longest': Doubling(8, 32, 8)}
    unbroken = train_batches(rows, **settings)
    resumed = train_batches(rows, **settings, first_step=step, first_row=unbroken.row(step))
    assert all(map(same, loader(resumed, 2 * step, 12, num_workers), loader(unbroken, 2 * step, 12)))


def test_a_step_too_small_for_its_batches_is_refused(rows):
    with pytest.raises(ValueError, match=r'2 rows in the first step cannot be dealt to 2 ranks in 2 batches .* 4'):
        train_batches(rows, Doubling(2, 8, 6), 2, seed=1, world=2)


def document_of_slot(batch):
    return torch.repeat_interleave(batch.documents, batch.layout.starts.diff())


@pytest.mark.parametrize('plan', [Pack(32), Pack(32, 3), Concat(32), Chunk(32), Chunk(32, 20), Chunk(500)])
@pytest.mark.parametrize('longest', [1, 5, 8, 16, 31])
def test_documents_cut_short_are_the_same_tokens_and_targets(corpus, tokenizer, tmp_path, plan, longest):
    rows = Rows(corpus, open_plan(plan, corpus, 'train', False, tmp_path), tokenizer)
    shapes = set()
    for start in range(0, 3 * min(8, len(rows) // 3), 3):
        numbers = np.array([start, start + 1, -1])
        whole, cut = batch_of(rows, numbers, 7.0, 11), batch_of(rows, numbers, 7.0, 11, longest)
        assert torch.equal(cut.ids, whole.ids)
        assert torch.equal(cut.targets.ids, whole.targets.ids)
        assert (cut.n_counted, cut.seed, cut.layout.max_length) == (7, 11, longest)
        assert torch.equal(document_of_slot(cut), document_of_slot(whole))
        assert torch.equal(cut.layout.is_text, cut.documents >= 0)
        assert set(whole.layout.starts.tolist()) <= set(cut.layout.starts.tolist())
        assert int(cut.layout.starts.diff().max()) <= longest
        assert cut.layout.starts[-1] == 3 * plan.length
        assert int(cut.targets.n_bytes.sum()) == int(whole.targets.n_bytes.sum())
        shapes.add((cut.layout.starts.shape, cut.documents.shape, cut.targets.n_bytes.shape))
    assert shapes == {((n + 1,), (n,), (n,)) for n in [3 * plan.max_documents + 3 * plan.length // longest]}


def test_documents_cut_short_by_hand(corpus, tokenizer):
    document = int(np.flatnonzero(np.diff(corpus.stores[0].offsets) > 9)[0])
    tokens = corpus.tokens(document)[:10].tolist()
    rows = Rows(corpus, Pack(14).build(np.array([9, 1]), np.array([document, 9])), tokenizer)
    batch = batch_of(rows, np.array([0]), n_counted=12.0, longest=4)  # 10 and 2 slots of text, 2 of padding
    assert batch.layout.starts.tolist()[:7] == [0, 4, 8, 10, 12, 14, 14]
    assert batch.documents.tolist()[:6] == [document, document, document, 9, -1, -1]
    assert batch.ids[0, :10].tolist() == [1, *tokens[:9]]
    assert batch.example.tolist()[:6] == [0, 0, 0, 0, -1, -1]
    said = [len(tokenizer.piece_bytes[token]) for token in tokens]
    assert batch.targets.n_bytes.tolist()[:3] == [sum(said[:4]), sum(said[4:8]), sum(said[8:])]
    assert torch.equal(batch.layout.is_text[:6], torch.tensor([True] * 4 + [False] * 2))


def test_nothing_is_cut_where_nothing_is_too_long(rows):
    numbers = np.array([0, 3])
    assert same(batch_of(rows, numbers, 1.0), batch_of(rows, numbers, 1.0, longest=32))
