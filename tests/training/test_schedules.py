import math

import pytest
import torch
from torch import nn

from xlabml.training import (
    InverseSquareRoot,
    ScheduledRate,
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
)


def test_warmup_climbs_in_even_steps_to_one():
    schedule = WarmupConstant(100, warmup_steps=4)
    assert [schedule(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize('kind', [WarmupCosine, WarmupLinear])
@pytest.mark.parametrize('end_ratio', [0.0, 0.1])
def test_the_last_step_reaches_the_end_exactly(kind, end_ratio):
    schedule = kind(50, warmup_steps=10, end_ratio=end_ratio)
    assert schedule(10) == 1.0
    assert schedule(49) == pytest.approx(end_ratio, abs=1e-12)
    assert all(schedule(step) > schedule(step + 1) for step in range(10, 49))


def test_cosine_by_hand():
    schedule = WarmupCosine(9, warmup_steps=0)
    assert schedule(4) == pytest.approx(0.5)
    assert schedule(2) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_inverse_square_root_by_hand():
    schedule = InverseSquareRoot(None, warmup_steps=3)
    assert schedule(3) == 1.0
    assert schedule(15) == pytest.approx(0.5)


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


def _rate(lr, schedule):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    return optimizer, ScheduledRate(optimizer, schedule)


def test_any_step_can_be_resumed():
    schedule = WarmupCosine(20, warmup_steps=3)
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
