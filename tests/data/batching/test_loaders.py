"""What a step trains on depends on its number and the seed, and on nothing else."""

import numpy as np
import pytest
import torch
from token_batches import same, spy_on, train_batches

from xlabml.batches import IGNORED
from xlabml.data import EvalBatches, Pack, Rows, loader, open_plan


@pytest.fixture(scope='module')
def rows(corpus, tokenizer, tmp_path_factory):
    return Rows(corpus, open_plan(Pack(32), corpus, 'train', False, tmp_path_factory.mktemp('plans')), tokenizer)


def test_an_epoch_meets_every_row_once_and_the_next_one_in_another_order(rows, monkeypatch):
    taken = spy_on(rows, monkeypatch)
    batches = train_batches(rows, rows_per_step=4, rows_per_batch=2, seed=1)
    for i in range(len(rows) + 1):
        batches[i]
    numbers = [number for batch in taken for number in batch]
    first, second = numbers[: len(rows)], numbers[len(rows) : 2 * len(rows)]
    assert sorted(first) == sorted(second) == list(range(len(rows)))
    assert first != second
    assert first != sorted(first)


@pytest.mark.parametrize(('world', 'rows_per_batch'), [(1, 8), (1, 4), (2, 4), (2, 2), (4, 1)])
def test_ranks_and_micro_batches_share_out_the_same_steps(rows, world, rows_per_batch):
    whole = train_batches(rows, 8, 8, seed=1)
    ranks = [train_batches(rows, 8, rows_per_batch, seed=1, rank=rank, world=world) for rank in range(world)]
    n = 8 // (rows_per_batch * world)
    for step in (0, 1, 40):
        parts = [batches[step * n + part] for part in range(n) for batches in ranks]
        assert torch.equal(torch.cat([part.ids for part in parts]), whole[step].ids)
        assert {part.n_counted for part in parts} == {whole[step].n_counted}
        assert whole[step].n_counted == int((whole[step].targets.ids != IGNORED).sum())


def test_every_micro_batch_has_a_seed_of_its_own(rows):
    ranks = [train_batches(rows, 8, 2, seed=1, rank=rank, world=2) for rank in (0, 1)]
    seeds = [batches[i].seed for batches in ranks for i in range(40)]
    assert len(set(seeds)) == 80
    assert train_batches(rows, 8, 2, seed=2, world=2)[0].seed not in seeds
    assert train_batches(rows, 8, 2, seed=1, world=2)[0].seed == seeds[0]


def test_batches_are_the_same_in_any_order_of_asking(rows):
    forwards, backwards = train_batches(rows, 4, 4, seed=1), train_batches(rows, 4, 4, seed=1)
    wanted = [forwards[i] for i in range(60)]
    assert all(same(backwards[i], wanted[i]) for i in (59, 3, 30, 0, 58))
    assert forwards[10**12].ids.shape == (4, 32)


def test_a_resumed_run_goes_on_where_it_stood_with_another_batch_size(rows, monkeypatch):
    taken = spy_on(rows, monkeypatch)
    unbroken = train_batches(rows, 4, 4, seed=1)
    for step in range(30):
        unbroken[step]
    expected = [number for numbers in taken[10:] for number in numbers]
    taken.clear()
    resumed = train_batches(rows, 8, 8, seed=1, first_step=10, first_row=unbroken.row(10))
    for step in range(10, 20):
        resumed[step]
    assert [number for numbers in taken for number in numbers] == expected
    with pytest.raises(ValueError, match='step 9 lies before step 10'):
        resumed[9]


@pytest.mark.parametrize('n_rows', [2, 5])
def test_steps_larger_than_the_data_go_round(corpus, tokenizer, n_rows):
    documents = corpus.documents('train')[:n_rows]
    _, lengths = corpus.token_spans(documents)
    rows = Rows(corpus, Pack(1000, max_documents=2).build(lengths, documents), tokenizer)
    batch = train_batches(rows, 7, 7, seed=1)[3]
    assert (batch.documents[batch.documents >= 0].bincount() > 0).sum() == n_rows


@pytest.mark.parametrize(('world', 'rows_per_batch'), [(1, 1), (1, 7), (3, 2), (2, 1000)])
def test_evaluation_sees_every_row_once_with_fillers_at_the_end(rows, monkeypatch, world, rows_per_batch):
    taken = spy_on(rows, monkeypatch)
    ranks = [EvalBatches(rows, rows_per_batch, rank, world) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    for i in range(len(ranks[0])):
        for batches in ranks:
            batches[i]
    numbers = [number for batch in taken for number in batch]
    assert numbers[: len(rows)] == list(range(len(rows)))
    assert set(numbers[len(rows) :]) <= {-1}
    assert {len(batch) for batch in taken} == {rows_per_batch}
    with pytest.raises(IndexError, match='there is no batch'):
        ranks[0][len(ranks[0])]


@pytest.mark.parametrize('context', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_workers_give_the_same_batches_bit_for_bit(rows, context):
    batches = train_batches(rows, 4, 2, seed=1)
    alone = list(loader(batches, 6, 9))
    many = loader(batches, 6, 9, num_workers=2)
    many.multiprocessing_context = context
    assert len(many) == len(alone) == 9
    assert all(same(batch, batches[6 + i]) for i, batch in enumerate(alone))
    assert all(map(same, many, alone))


def test_rows_that_cannot_be_dealt_are_refused(rows, corpus, tokenizer):
    with pytest.raises(
        ValueError, match=r'6 rows a step cannot be dealt to 2 ranks in batches of 2 rows; .* multiple of 4'
    ):
        train_batches(rows, 6, 2, seed=1, world=2)
    nothing = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match='there is no row to train on'):
        train_batches(Rows(corpus, Pack(32).build(nothing, nothing), tokenizer), 1, 1, seed=1)
    with pytest.raises(ValueError, match='rows_per_batch is 0'):
        EvalBatches(rows, 0)
