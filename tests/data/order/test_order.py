"""The order is a bijection that looks random, and differs from seed to seed and epoch to epoch."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 5_000), seed=st.integers(0, 2**62), epoch=st.integers(0, 2**40))
def test_any_order_is_a_bijection_and_a_slice_of_it_is_a_slice(n, seed, epoch):
    order = permute(np.arange(n), n, seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(n))
    some = np.arange(n // 3, n // 2 + 1).clip(max=n - 1)
    assert np.array_equal(permute(some, n, seed, epoch), order[some])


@pytest.mark.parametrize('n', [1_000, 4_096, 10_007])
def test_correlations_and_runs_of_many_orders_are_spread_as_chance_spreads_them(n):
    correlations, runs, rises = [], [], []
    for seed in range(40):
        order = permute(np.arange(n), n, seed, 0) / n
        correlations += [np.corrcoef(order[:-lag], order[lag:])[0, 1] * np.sqrt(n - lag) for lag in (1, 2, 7, 64)]
        runs.append((np.count_nonzero(np.diff(order >= 0.5)) - n / 2) / (np.sqrt(n) / 2))
        rises.append((np.count_nonzero(np.diff(order) > 0) - n / 2) / np.sqrt(n / 12))
    for scores in (correlations, runs, rises):  # all near a standard normal
        assert abs(np.mean(scores)) < 4 / np.sqrt(len(scores))
        assert 0.7 < np.std(scores) < 1.3
        assert np.abs(scores).max() < 5


def test_places_and_numbers_have_nothing_to_do_with_one_another():
    n, n_cells = 16_000, 16
    for seed in range(5):
        order = permute(np.arange(n), n, seed, 0)
        table = np.bincount(np.arange(n) * n_cells // n * n_cells + order * n_cells // n, minlength=n_cells**2)
        expected = n / n_cells**2
        chi2, degrees = float(((table - expected) ** 2 / expected).sum()), (n_cells - 1) ** 2
        assert abs(chi2 - degrees) < 5 * np.sqrt(2 * degrees)


def test_neighbouring_seeds_agree_on_as_few_places_as_any_two():
    n = 1_009
    orders = [permute(np.arange(n), n, seed, 0) for seed in range(60)]
    agreements = [np.count_nonzero(first == second) for first, second in itertools.pairwise(orders)]
    assert abs(np.mean(agreements) - 1) < 4 / np.sqrt(len(agreements))  # as of a Poisson variable of mean 1
    assert max(agreements) < 9
    correlations = [np.corrcoef(first, second)[0, 1] * np.sqrt(n) for first, second in itertools.pairwise(orders)]
    assert abs(np.mean(correlations)) < 4 / np.sqrt(len(correlations))
    assert 0.6 < np.std(correlations) < 1.4


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
