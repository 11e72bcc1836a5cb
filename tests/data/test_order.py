"""The order is a bijection that looks random, and differs from seed to seed and epoch to epoch."""

import numpy as np
import pytest

from xlabml.data import mix, permute


@pytest.mark.parametrize('n', [*range(1, 70), 100, 127, 128, 129, 1000, 65_537])
def test_every_index_is_met_once(n):
    assert sorted(permute(np.arange(n), n, seed=1, epoch=0)) == list(range(n))


@pytest.mark.parametrize('n', [10**9 + 7, 10**12, 2**40])
def test_places_in_a_huge_order_are_distinct_and_in_range(n):
    places = permute(np.concatenate([np.arange(10_000), n - 1 - np.arange(10_000)]), n, seed=1, epoch=0)
    assert len(set(places.tolist())) == 20_000
    assert places.min() >= 0
    assert places.max() < n
    assert abs(places.mean() / n - 0.5) < 0.01


def test_one_index_is_found_without_the_others():
    order = permute(np.arange(1000), 1000, seed=3, epoch=2)
    for index in (0, 17, 999):
        assert permute(np.array([index]), 1000, seed=3, epoch=2)[0] == order[index]


def test_the_order_looks_random():
    n = 10_000
    order = permute(np.arange(n), n, seed=5, epoch=0) / n
    for lag in (1, 2, 3, 64, 4096):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 0.04
    n_runs = 1 + np.count_nonzero(np.diff(order > 0.5))
    assert abs(n_runs - n / 2) < 4 * np.sqrt(n) / 2
    n_rises = np.count_nonzero(np.diff(order) > 0)
    assert abs(n_rises - n / 2) < 4 * np.sqrt(n / 12)


def test_all_orders_of_few_things_come_up():
    seen = {tuple(permute(np.arange(4), 4, seed, 0).tolist()) for seed in range(400)}
    assert len(seen) == 24


def test_neighbouring_seeds_and_epochs_have_unrelated_orders():
    n = 1000
    base = permute(np.arange(n), n, 0, 0)
    for seed, epoch in [(1, 0), (0, 1), (1, 1), (2, 0)]:
        other = permute(np.arange(n), n, seed, epoch)
        assert np.count_nonzero(other == base) < 10
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.15


def test_an_index_outside_is_refused():
    with pytest.raises(ValueError, match=r'indices from 0 to 5 are not all in range\(5\)'):
        permute(np.arange(6), 5, 0, 0)


def test_mixed_seeds_fit_in_63_bits_and_differ():
    seeds = {
        mix(seed, step, part, rank) for seed in range(5) for step in range(20) for part in range(3) for rank in (0, 1)
    }
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)
