"""Calibration error, and what a perfectly calibrated classifier has: by hand, and against a simulation."""

import math

import pytest
import torch

from xlabml.evaluation.calibration import find_bins, perfect_ece, reliability


def test_bins_are_closed_above():
    confidence = torch.tensor([0.0, 0.2, 0.2000001, 0.4, 1.0])
    assert find_bins(confidence.double(), 5).tolist() == [0, 1, 1, 2, 4]
    assert find_bins(torch.tensor([0.25, 0.5, 0.75, 1.0]), 4).tolist() == [0, 1, 2, 3]


def test_the_error_is_that_worked_by_hand():
    confidence = torch.tensor([0.85, 0.85, 0.85, 0.85, 0.55, 0.55])
    correct = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    found = reliability(confidence, correct, 10)
    assert found.n_examples.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 4, 0]
    assert found.accuracy[8] == 0.75
    assert found.ece == pytest.approx((4 * 0.1 + 2 * 0.45) / 6, abs=1e-6)


def test_without_examples_there_is_no_error():
    none = torch.zeros(0)
    assert math.isnan(reliability(none, none).ece)
    assert math.isnan(perfect_ece(none))


def test_the_expectation_is_that_of_the_mean_distance_of_a_coin():
    # 4 throws of a fair coin in one bin: |heads / 4 - 1/2| is 1/2, 1/4, 0 with 2, 8 and 6 of 16.
    expected = (2 * 0.5 + 8 * 0.25) / 16
    assert perfect_ece(torch.full((4,), 0.5), n_draws=20_000) == pytest.approx(expected, abs=0.003)


def test_the_expectation_does_not_depend_on_the_order_and_follows_from_the_seed():
    confidence = torch.rand(50, generator=torch.Generator().manual_seed(0))
    found = perfect_ece(confidence, n_draws=20)
    assert perfect_ece(confidence.flip(0), n_draws=20) == found
    assert perfect_ece(confidence, n_draws=20, seed=1) != found


def test_what_is_perfectly_calibrated_is_near_its_expectation_and_what_is_not_is_above():
    generator = torch.Generator().manual_seed(3)
    confidence = 0.5 + torch.rand(4000, generator=generator) / 2
    correct = (torch.rand(4000, generator=generator) < confidence).double()
    expected = perfect_ece(confidence)
    assert abs(reliability(confidence, correct).ece - expected) < 0.007
    overconfident = 1 - (1 - confidence) / 3
    assert reliability(overconfident, correct).ece > 0.1


def test_the_error_is_that_of_netcal():
    netcal = pytest.importorskip('netcal.metrics')
    generator = torch.Generator().manual_seed(4)
    confidence = torch.rand(500, generator=generator, dtype=torch.float64)
    correct = (torch.rand(500, generator=generator) < confidence).double()
    wanted = netcal.ECE(15).measure(confidence.numpy(), correct.numpy())
    assert reliability(confidence, correct).ece == pytest.approx(wanted)
