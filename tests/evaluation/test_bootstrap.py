"""Intervals cover as often as they say, and pairing takes out what two systems share."""

import math

import numpy as np
import pytest

from xlabml.evaluation.bootstrap import bootstrap, bootstrap_statistic, paired_bootstrap


def test_an_interval_is_that_of_the_normal_law_for_many_values():
    values = np.random.default_rng(0).normal(3.0, 2.0, 4_000)
    found = bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(4_000)
    assert found.value == values.mean()
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 20)
    assert bootstrap(values) == found
    assert bootstrap(values, seed=1) != found


def test_pairing_takes_out_how_hard_queries_are():
    generator = np.random.default_rng(0)
    hardness = generator.normal(0, 10, 500)
    ours = hardness + 0.1 + generator.normal(0, 0.1, 500)
    theirs = hardness + generator.normal(0, 0.1, 500)
    found = paired_bootstrap(ours, theirs)
    assert 0 < found.low < 0.1 < found.high < 0.13
    assert bootstrap(ours).high - bootstrap(ours).low > 1


def test_nan_is_left_out_of_both():
    ours = np.array([1.0, math.nan, 3.0])
    assert paired_bootstrap(ours, np.array([0.0, 0.0, math.nan])).value == 1.0
    assert math.isnan(bootstrap(np.array([math.nan])).value)


def test_any_statistic_has_an_interval():
    values = np.random.default_rng(0).normal(0, 1, 400)
    found = bootstrap_statistic(lambda some: float(np.median(values[some])), 400)
    assert found.value == np.median(values)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 1.2533 / 20, rel=0.35)


def test_blocks_of_memory_do_not_change_how_many_are_drawn(monkeypatch):
    monkeypatch.setattr('xlabml.evaluation.bootstrap._BLOCK_DRAWS', 30)
    found = bootstrap(np.arange(10.0), n_draws=2_001)
    assert found.low < 4.5 < found.high


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match='3 figures are compared with 2'):
        paired_bootstrap(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match='confidence is 95'):
        bootstrap(np.zeros(3), confidence=95.0)
