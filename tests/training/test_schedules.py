import math

import pytest
import torch
from torch import nn

from xlabml.training import (
    InverseSquareRoot,
    ScheduledRate,
    Stepped,
    Trapezoid,
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
    WarmupStableDecay,
)


def test_warmup_climbs_in_even_steps_to_one():
    schedule = WarmupConstant(100, warmup_steps=4)
    assert [schedule(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


DECAYS = [WarmupCosine, WarmupLinear, WarmupStableDecay, Trapezoid]


@pytest.mark.parametrize('kind', [WarmupCosine, WarmupLinear])
@pytest.mark.parametrize('end_ratio', [0.0, 0.1])
def test_the_factor_falls_to_its_end_which_it_reaches_after_the_last_step(kind, end_ratio):
    schedule = kind(50, warmup_steps=10, end_ratio=end_ratio)
    assert schedule(10) == 1.0
    assert schedule(50) == pytest.approx(end_ratio, abs=1e-12)
    assert all(schedule(step) > schedule(step + 1) for step in range(10, 50))


@pytest.mark.parametrize('kind', DECAYS)
@pytest.mark.parametrize('end_ratio', [0.0, 0.1])
@pytest.mark.parametrize('n', [1, 2, 3, 4, 10, 25])
def test_every_step_of_a_decay_trains_and_the_end_comes_after_the_last(kind, end_ratio, n):
    """For all warmups that fit, and all stretches at the peak or cool-downs beside them."""
    part = {WarmupStableDecay: 'cooldown_steps', Trapezoid: 'peak_steps'}.get(kind)
    for warmup in range(n + 1):
        for length in range(n - warmup + 1) if part else [0]:
            schedule = kind(n, warmup_steps=warmup, end_ratio=end_ratio, **({part: length} if part else {}))
            factors = [schedule(step) for step in range(n + 3)]
            assert min(factors[:n]) > 0
            assert factors[n:] == pytest.approx([end_ratio] * 3, abs=1e-12)
            assert warmup == n or factors[warmup] == 1.0
            assert sorted(factors[warmup:], reverse=True) == factors[warmup:]


def _cos(x):
    return (1 + math.cos(math.pi * x)) / 2


RAMP = [0.25, 0.5, 0.75]  # a warmup of 3 steps
BY_HAND = [
    (WarmupConstant(1), [1]),
    (WarmupConstant(2, warmup_steps=1), [1 / 2, 1]),
    (WarmupConstant(10, warmup_steps=3), [*RAMP, 1, 1, 1, 1, 1, 1, 1]),
    (InverseSquareRoot(1), [1]),
    (InverseSquareRoot(3, warmup_steps=0), [1, 2**-0.5, 3**-0.5]),
    (InverseSquareRoot(2, warmup_steps=1), [1 / 2, 1]),
    (Stepped(1), [1]),
    (Stepped(3, warmup_steps=0, period_steps=1), [1, 1 / 2, 1 / 4]),
    (WarmupLinear(1), [1]),
    (WarmupLinear(2), [1, 1 / 2]),
    (WarmupLinear(2, warmup_steps=1), [1 / 2, 1]),
    (WarmupLinear(3), [1, 2 / 3, 1 / 3]),
    (WarmupLinear(3, end_ratio=0.4), [1, 0.8, 0.6]),
    (WarmupLinear(3, warmup_steps=3), RAMP),
    (WarmupLinear(10, warmup_steps=0), [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    (WarmupLinear(10, warmup_steps=3), [*RAMP, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),
    (WarmupCosine(1), [1]),
    (WarmupCosine(2), [1, 1 / 2]),
    (WarmupCosine(3), [1, 3 / 4, 1 / 4]),
    (WarmupCosine(6, warmup_steps=3), [*RAMP, 1, 3 / 4, 1 / 4]),
    (WarmupCosine(10, warmup_steps=0), [_cos(i / 10) for i in range(10)]),
    (WarmupStableDecay(1), [1]),
    (WarmupStableDecay(1, cooldown_steps=1), [1]),
    (WarmupStableDecay(2), [1, 1]),  # a cool-down of one step
    (WarmupStableDecay(2, cooldown_steps=2), [1, 1 / 2]),
    (WarmupStableDecay(3, warmup_steps=1, cooldown_steps=2), [1 / 2, 1, 1 / 2]),
    (WarmupStableDecay(3, cooldown_steps=0), [1, 1, 1]),
    (WarmupStableDecay(10, warmup_steps=3, cooldown_steps=0), [*RAMP, 1, 1, 1, 1, 1, 1, 1]),
    (WarmupStableDecay(10, warmup_steps=3, cooldown_steps=4), [*RAMP, 1, 1, 1, 1, 3 / 4, 1 / 2, 1 / 4]),
    (WarmupStableDecay(10, 0, cooldown_steps=4, cooldown='sqrt'), [1] * 7 + [1 / 2, 1 - 0.5**0.5, 1 - 0.75**0.5]),
    (WarmupStableDecay(10, 0, cooldown_steps=4, cooldown='cosine'), [1] * 7 + [_cos(1 / 4), 1 / 2, _cos(3 / 4)]),
    (Trapezoid(1), [1]),
    (Trapezoid(2, peak_steps=0), [1, 1 / 2]),
    (Trapezoid(3, peak_steps=1), [1, 1, 1 / 2]),
    (Trapezoid(3, peak_steps=3), [1, 1, 1]),
    (Trapezoid(10, warmup_steps=3, peak_steps=3), [*RAMP, 1, 1, 1, 1, 3 / 4, 1 / 2, 1 / 4]),
    (Trapezoid(10, 2, peak_steps=4, start_ratio=0.6, end_ratio=0.2), [0.6, 0.8, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4]),
]  # fmt: skip


@pytest.mark.parametrize(
    ('schedule', 'factors'),
    BY_HAND,
    ids=[f'{i}-{type(schedule).__name__}-{schedule.total_steps}' for i, (schedule, _) in enumerate(BY_HAND)],
)
def test_short_runs_by_hand(schedule, factors):
    assert len(factors) == schedule.total_steps
    assert [schedule(step) for step in range(len(factors))] == pytest.approx(factors)


@pytest.mark.parametrize('kind', DECAYS)
@pytest.mark.parametrize('warmup', [{'warmup_steps': 11}, {'warmup_steps': 10_000}])
def test_a_warmup_longer_than_a_run_that_is_to_end_is_refused(kind, warmup):
    with pytest.raises(ValueError, match=rf'warmup of {warmup["warmup_steps"]} steps .* not fit into 10; shorten'):
        kind(10, **warmup)


@pytest.mark.parametrize('kind', [WarmupConstant, InverseSquareRoot, Stepped])
def test_a_schedule_that_promises_no_end_may_be_cut_off_in_its_warmup(kind):
    assert kind(10, warmup_steps=99)(9) == 0.1


@pytest.mark.parametrize('kind', [WarmupStableDecay, Trapezoid])
@pytest.mark.parametrize('n', range(1, 12))
@pytest.mark.parametrize('share', [0.5, 0.3, 0.25, 1.0])
def test_two_shares_that_make_up_the_run_fit_into_it_however_they_are_rounded(kind, n, share):
    part = {WarmupStableDecay: 'cooldown', Trapezoid: 'peak'}[kind]
    schedule = kind(n, warmup_ratio=share, **{f'{part}_ratio': 1 - share})
    assert schedule.warmup_steps + getattr(schedule, f'{part}_steps') <= n
    with pytest.raises(ValueError, match='do not fit into 10; shorten one of them'):
        kind(10, warmup_ratio=share, **{f'{part}_ratio': 1.2 - share})


def test_cosine_by_hand():
    schedule = WarmupCosine(8, warmup_steps=0)
    assert schedule(4) == pytest.approx(0.5)
    assert schedule(2) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_inverse_square_root_by_hand():
    schedule = InverseSquareRoot(None, warmup_steps=3)
    assert schedule(3) == 1.0
    assert schedule(15) == pytest.approx(0.5)


def test_stable_decay_by_hand():
    schedule = WarmupStableDecay(10, warmup_steps=1, cooldown_steps=4)
    assert [schedule(step) for step in (0, 1, 6, 7, 8, 9, 10)] == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25, 0])
    schedule = WarmupStableDecay(10, warmup_steps=1, cooldown_steps=4, cooldown='sqrt', end_ratio=0.2)
    assert [schedule(step) for step in (6, 7, 10)] == pytest.approx([1, 0.6, 0.2])
    schedule = WarmupStableDecay(10, warmup_steps=1, cooldown_steps=4, cooldown='cosine')
    assert schedule(8) == pytest.approx(0.5)


def test_a_run_prolonged_before_its_cool_down_had_the_same_rates_so_far():
    short, long = (WarmupStableDecay(n, warmup_steps=5, cooldown_steps=20) for n in (100, 200))
    assert [short(step) for step in range(81)] == [long(step) for step in range(81)]


def test_a_cool_down_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='do not fit into 10'):
        WarmupStableDecay(10, warmup_steps=5, cooldown_steps=6)


def test_the_trapezoid_of_a_known_run_by_hand():
    """1e-5 up to 2e-4 in 1,000 steps, held for 9,000, down to 1e-4 at 200,000."""
    schedule = Trapezoid(200_000, warmup_steps=1000, peak_steps=9000, start_ratio=0.05, end_ratio=0.5)
    steps = {0: 1e-5, 500: 1.05e-4, 1000: 2e-4, 10_000: 2e-4, 105_000: 1.5e-4, 200_000: 1e-4, 300_000: 1e-4}
    for step, rate in steps.items():
        assert 2e-4 * schedule(step) == pytest.approx(rate, rel=1e-9)


def test_stepped_by_hand():
    schedule = Stepped(100, warmup_steps=2, decay=0.5, period_steps=3, end_ratio=0.2)
    assert [schedule(step) for step in (1, 2, 4, 5, 7, 8, 99)] == pytest.approx([2 / 3, 1, 1, 0.5, 0.5, 0.25, 0.2])
    assert Stepped(100, period_ratio=0.25).period_steps == 25


def test_a_ratio_is_a_share_of_the_run():
    assert WarmupCosine(200, warmup_ratio=0.1).warmup_steps == 20
    assert WarmupCosine(200).warmup_steps == 10


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'warmup_steps': 1, 'warmup_ratio': 0.1}, 'give one of them'),
        ({'warmup_steps': -1}, 'warmup_steps is -1'),
        ({'warmup_ratio': 1.5}, 'warmup_ratio is 1.5'),
        ({'end_ratio': 2.0}, 'end_ratio is 2.0'),
    ],
)
def test_refuses_values_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupCosine(100, **arguments)


def test_a_decay_needs_a_length():
    with pytest.raises(ValueError, match=r'trainer\.max_steps'):
        WarmupCosine(None, warmup_steps=5)


@pytest.mark.parametrize(
    ('kind', 'arguments', 'message'),
    [
        (WarmupStableDecay, {'cooldown_steps': 1, 'cooldown_ratio': 0.1}, 'give one of them'),
        (Trapezoid, {'peak_ratio': 1.5}, 'peak_ratio is 1.5'),
        (Trapezoid, {'start_ratio': -1.0}, 'start_ratio is -1.0'),
        (Stepped, {'decay': 1.5}, 'decay is 1.5'),
        (Stepped, {'end_ratio': -0.5}, 'end_ratio is -0.5'),
        (Stepped, {'period_steps': -1}, 'period_steps is -1'),
    ],
)
def test_refuses_shapes_out_of_range(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(100, **arguments)


def _rate(lr, schedule):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    return optimizer, ScheduledRate(optimizer, schedule)


@pytest.mark.parametrize(
    'kind',
    [
        InverseSquareRoot,
        Stepped,
        Trapezoid,
        WarmupConstant,
        WarmupCosine,
        WarmupLinear,
        WarmupStableDecay,
    ],
)
def test_any_step_can_be_resumed(kind):
    schedule = kind(20, warmup_steps=3)
    optimizer, rate = _rate(0.5, schedule)
    seen = []
    for _ in range(20):
        seen.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        rate.step()
    assert seen == pytest.approx([0.5 * schedule(step) for step in range(20)])
    resumed, rate = _rate(0.5, schedule)
    rate.load_state_dict({'last_epoch': 7})
    assert resumed.param_groups[0]['lr'] == seen[7]


def test_a_resumed_rate_is_the_one_that_is_asked_for_now():
    _, old = _rate(0.5, WarmupConstant(20, warmup_steps=0))
    optimizer, new = _rate(0.1, WarmupConstant(20, warmup_steps=0))
    new.load_state_dict(old.state_dict())
    assert optimizer.param_groups[0]['lr'] == 0.1
