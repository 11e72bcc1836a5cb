"""Bootstrap intervals: width and coverage against theory, pairs, groups, seeds."""

import math

import pytest
import torch

from xlabml.evaluation import mean_interval, paired_interval, statistic_interval


def draw(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_interval_of_a_mean_is_two_standard_errors_wide():
    values = draw(2000)
    found = mean_interval(values)
    half = 1.96 * float(values.std(correction=0)) / math.sqrt(2000)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    held = 0
    for seed in range(200):
        found = mean_interval(draw(60, seed), n_draws=200, seed=seed)
        held += found.low <= 0 <= found.high
    assert 178 <= held <= 198  # 95 %, less 2 of small samples, more or less 3 standard errors


def test_pairs_are_far_narrower_than_both():
    base = 10 * draw(500)
    ours = base + 0.1 + 0.1 * draw(500, 1)
    found = paired_interval(ours, base)
    assert 0 < found.low < 0.1 < found.high + 0.02
    assert found.high - found.low < 0.03


def test_pairs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match='3 examples cannot be paired with 4'):
        paired_interval(draw(3), draw(4))


def test_groups_are_drawn_whole():
    values = draw(50).repeat_interleave(40)
    groups = torch.arange(50).repeat_interleave(40)
    alone = mean_interval(values)
    together = mean_interval(values, groups)
    assert together.value == pytest.approx(alone.value)
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(40), rel=0.25)


def test_a_statistic_that_is_the_mean_has_the_interval_of_the_mean():
    values = draw(300)
    found = statistic_interval(lambda drawn: float(values[drawn].mean()), 300)
    assert found == pytest.approx(mean_interval(values))


def test_all_follows_from_the_seed_and_not_from_how_many_are_drawn_at_a_time(monkeypatch):
    values = draw(100)
    found = mean_interval(values)
    assert mean_interval(values) == found
    assert mean_interval(values, seed=1) != found
    monkeypatch.setattr('xlabml.evaluation.bootstrap._MAX_INDICES', 700)
    assert mean_interval(values) == pytest.approx(found)


def test_without_examples_all_is_nan():
    assert all(math.isnan(value) for value in mean_interval(torch.zeros(0)))
    assert all(math.isnan(value) for value in statistic_interval(lambda drawn: 0.0, 0))
