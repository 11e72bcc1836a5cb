"""Sources are mixed by their share of the targets, evenly, with nothing that grows; caps hold."""

import itertools

import numpy as np
import pytest
from token_batches import train_batches

from xlabml.data import Chunk, Mixture, Pack, Rows, open_plan

ROWS, TARGETS = [0, 100, 150, 650], [3_000, 1_600, 10_000]


@pytest.mark.parametrize('weights', [[1, 1, 1], [0.7, 0.2, 0.1], [0, 5, 1], [0.98, 0.01, 0.01]])
@pytest.mark.parametrize('n', [300, 5_000, 300_000])
def test_shares_are_those_asked_for(weights, n):
    mixture = Mixture(ROWS, TARGETS, weights)
    sources = mixture.sources(np.arange(n))
    targets = np.bincount(sources, minlength=3) * np.array(TARGETS) / np.diff(ROWS)
    assert np.abs(targets / targets.sum() - np.array(weights) / sum(weights)).max() < 0.01


def test_each_source_gives_every_row_once_an_epoch_in_an_order_of_its_own():
    mixture = Mixture(ROWS, TARGETS, [0.5, 0.3, 0.2])
    rows = mixture.rows(np.arange(200_000), seed=1)
    assert (np.searchsorted(ROWS, rows, 'right') - 1).tolist() == mixture.sources(np.arange(200_000)).tolist()
    for first, end in itertools.pairwise(ROWS):
        mine = rows[(rows >= first) & (rows < end)]
        epochs = mine[: len(mine) // (end - first) * (end - first)].reshape(-1, end - first)
        assert (np.sort(epochs, axis=1) == np.arange(first, end)).all()
        assert (epochs[0] != epochs[1]).any()


def test_a_place_is_found_without_the_others():
    mixture = Mixture(ROWS, TARGETS, [0.5, 0.3, 0.2])
    rows = mixture.rows(np.arange(100_000), seed=3)
    for place in (0, 65_535, 65_536, 99_999):
        assert mixture.rows(np.array([place]), seed=3)[0] == rows[place]
    assert mixture.rows(np.array([10**15]), seed=3).shape == (1,)


def test_epochs_are_counted_without_a_look_at_the_rows():
    mixture = Mixture(ROWS, TARGETS, [0.5, 0.3, 0.2])
    for n in (0, 1_000, 150_000):
        taken = np.bincount(mixture.sources(np.arange(n)), minlength=3)
        assert mixture.epochs(n) == (taken / np.diff(ROWS)).tolist()


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ([0, 0, 0], r'data\.weights is 0, 0, 0, which sums to 0'),
        ([1, -1, 1], r'data\.weights is 1, -1, 1; a weight is'),
        ([1, 1, float('nan')], 'a weight is'),
        ([1, 1], r'has 2 numbers \(1, 1\) for 3 sources'),
        ([1, 1, 1e-9], 'less than a row in 65,536'),
    ],
)
def test_impossible_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture(ROWS, TARGETS, weights)


def test_a_weight_for_a_source_without_rows_is_refused():
    with pytest.raises(ValueError, match='gives 1 to source 1, which has no document in the train split'):
        Mixture([0, 5, 5], [10, 0], [1, 1])
    assert Mixture([0, 5, 5], [10, 0], [1, 0]).epochs(5) == [1.0, 0.0]


@pytest.mark.parametrize('plan', [Pack(32), Chunk(32)])
def test_the_targets_of_steps_have_the_shares_asked_for(two_stores, tokenizer, tmp_path, plan):
    rows = Rows(two_stores, open_plan(plan, two_stores, 'train', False, tmp_path), tokenizer)
    plan_rows = rows.plan
    assert sum(plan_rows.source_counted) == plan_rows.n_counted
    batches = train_batches(
        rows, 4, 2, seed=1, mixture=Mixture(plan_rows.source_rows, plan_rows.source_counted, [0.8, 0.2])
    )
    counts = batches.source_targets(0, 500, 2)
    assert counts[0] / sum(counts) == pytest.approx(0.8, abs=0.01)
    n_first = len(two_stores.stores[0])
    for step in (0, 7):
        found = [batches[2 * step + part] for part in (0, 1)]
        documents = np.concatenate([batch.documents.numpy() for batch in found])
        here = batches.source_targets(step, step + 1, 2)
        assert sum(here) == found[0].n_counted
        assert (here[0] > 0, here[1] > 0) == (
            bool(((documents >= 0) & (documents < n_first)).any()),
            bool((documents >= n_first).any()),
        )


def test_rows_of_two_sources_never_share_a_row(two_stores, tmp_path):
    rows = open_plan(Pack(64), two_stores, 'train', False, tmp_path)
    n_first = len(two_stores.stores[0])
    boundary = rows.row_starts[rows.source_rows[1]]
    assert rows.source_rows[0] == 0
    assert rows.source_rows[-1] == len(rows)
    assert (rows.documents[:boundary] < n_first).all()
    assert (rows.documents[boundary:] >= n_first).all()
