"""What may be said, in which order it is cut, and that a draw follows the probabilities."""

import math

import pytest
import torch

from xlabml.inference.sampling import Sampler, draw, exclude, truncate


def logs(*probabilities):
    return torch.tensor([probabilities]).log()


def kept(logits, top_k, top_p):
    probabilities, ids = truncate(logits, top_k, top_p)
    ids = torch.arange(logits.size(1))[None] if ids is None else ids
    return set(ids[probabilities > 0].tolist())


@pytest.mark.parametrize(
    ('top_p', 'expected'), [(0.01, {1}), (0.49, {1}), (0.51, {1, 2}), (0.79, {1, 2}), (0.81, {0, 1, 2}), (1, {0, 1, 2})]
)
def test_top_p_keeps_the_fewest_ids_that_reach_it(top_p, expected):
    assert kept(logs(0.2, 0.5, 0.3), None, top_p) == expected


def test_top_p_is_a_share_of_what_top_k_has_left():
    # Of (0.5, 0.3) the first is 0.625: enough for 0.6, which it would not be of the whole.
    assert kept(logs(0.2, 0.5, 0.3), 2, 0.6) == {1}
    assert kept(logs(0.2, 0.5, 0.3), 2, 0.63) == {1, 2}


def test_top_k_keeps_the_likeliest():
    assert kept(logs(0.1, 0.4, 0.2, 0.3), 2, None) == {1, 3}
    assert kept(logs(0.1, 0.4, 0.2, 0.3), 99, None) == {0, 1, 2, 3}


@pytest.mark.parametrize(('top_k', 'top_p'), [(None, None), (3, None), (None, 1.0), (4, 1.0)])
def test_draws_follow_the_probabilities(top_k, top_p):
    n = 10_000
    probabilities, ids = truncate(logs(0.15, 0.05, 0.5, 0.3).expand(n, -1), top_k, top_p)
    drawn = draw(probabilities, ids, (torch.arange(n).double() + 0.5) / n)
    expected = torch.tensor([0.15, 0.05 if top_k != 3 else 0, 0.5, 0.3]).double()
    torch.testing.assert_close(drawn.bincount(minlength=4) / n, (expected / expected.sum()).float(), atol=2 / n, rtol=0)


@pytest.mark.parametrize('uniform', [0.0, 0.5, 1 - 2**-53])
def test_what_has_no_probability_is_never_drawn(uniform):
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 0.3, 2.0, -math.inf]])
    for top_k, top_p in ((None, None), (6, None), (5, 0.999999), (None, 0.5)):
        probabilities, ids = truncate(logits, top_k, top_p)
        assert draw(probabilities, ids, torch.tensor([uniform]).double()).item() in (1, 3, 4)


def test_exclusion_comes_before_top_k():
    assert kept(exclude(logs(0.1, 0.4, 0.2, 0.3), [1, 3]), 1, None) == {2}


@pytest.mark.parametrize('temperature', [1e-40, 1e-3])
def test_a_low_temperature_takes_the_likeliest(temperature):
    logits = torch.tensor([[1.0, 1.1, -5.0], [900.0, -900.0, 901.0]])
    ids = Sampler(temperature, generator=torch.Generator().manual_seed(0))(logits, [0, 1], 2)
    assert ids.tolist() == [1, 2]


def test_temperature_sharpens_below_one_and_flattens_above():
    logits, n = logs(0.2, 0.8).expand(20_000, -1), 20_000
    shares = []
    for temperature in (0.5, 1, 2):
        ids = Sampler(temperature, generator=torch.Generator().manual_seed(0))(logits, list(range(n)), n)
        shares.append(ids.float().mean().item())
    # By hand: 0.8² / (0.8² + 0.2²), 0.8, √0.8 / (√0.8 + √0.2).
    assert shares == pytest.approx([16 / 17, 0.8, 2 / 3], abs=0.015)


def test_a_step_takes_one_number_for_each_row_that_there_was():
    used, expected = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    uniform = torch.rand(5, dtype=torch.float64, generator=expected)
    logits = torch.zeros(2, 1000)
    assert Sampler(generator=used)(logits, [1, 4], 5).tolist() == (uniform[[1, 4]] * 1000).long().tolist()
    assert torch.equal(used.get_state(), expected.get_state())


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'temperature': 0}, 'temperature is 0; it must be above 0'),
        ({'temperature': math.nan}, 'temperature is nan'),
        ({'top_k': 0}, 'top_k is 0; it must be at least 1'),
        ({'top_p': 0.0}, 'top_p is 0.0; it must be above 0'),
        ({'top_p': 1.5}, 'top_p is 1.5'),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**values)


@pytest.mark.parametrize(
    ('classes', 'message'), [([4], 'has 4, but ids are 0 to 3'), ([-1], 'has -1'), ({0, 1, 2, 3}, 'all 4')]
)
def test_impossible_exclusions_are_refused(classes, message):
    with pytest.raises(ValueError, match=message):
        exclude(logs(0.25, 0.25, 0.25, 0.25), classes)
