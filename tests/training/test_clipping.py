import math

import pytest
import torch

from xlabml.training import AdaptiveClip


def _seen(clip, norms):
    for norm in norms:
        clip.add(torch.tensor(float(norm)))
    return clip


@pytest.mark.parametrize(('percentile', 'limit'), [(90, 9), (91, 10), (100, 10), (10, 1), (0.1, 1), (50, 5)])
def test_the_limit_is_the_norm_that_so_many_percent_do_not_exceed(percentile, limit):
    """By hand, on the numbers 1 to 10: nine of them do not exceed 9."""
    clip = _seen(AdaptiveClip(float(percentile), window_steps=20, min_steps=5), [3, 1, 4, 10, 5, 9, 2, 6, 8, 7])
    assert clip.limit(None) == limit


def test_before_enough_steps_the_fixed_limit_holds():
    clip = _seen(AdaptiveClip(50.0, window_steps=5, min_steps=3), [7, 7])
    assert clip.limit(1.5) == 1.5
    assert clip.limit(None) == math.inf
    assert _seen(clip, [7]).limit(1.5) == 7


def test_only_the_window_counts():
    clip = _seen(AdaptiveClip(100.0, window_steps=3, min_steps=1), [100, 1, 2, 3])
    assert clip.limit(None) == 3
    assert clip.norms.numel() == 3


@pytest.mark.parametrize('norm', [math.nan, math.inf])
def test_what_is_not_finite_is_not_remembered(norm):
    clip = _seen(AdaptiveClip(100.0, window_steps=3, min_steps=1), [1, 2])
    before = clip.norms.clone()
    assert torch.equal(_seen(clip, [norm]).norms, before)


@pytest.mark.parametrize('window_steps', [2, 4, 8])
def test_the_window_is_saved_and_may_change_its_length(window_steps):
    clip = _seen(AdaptiveClip(100.0, window_steps=4, min_steps=1), [9, 1, 2, 3])
    other = AdaptiveClip(100.0, window_steps, min_steps=1)
    other.load_state_dict(clip.state_dict())
    assert other.norms.numel() == window_steps
    assert other.state_dict()['norms'].tolist() == [9, 1, 2, 3][-window_steps:]
    assert other.limit(None) == (3 if window_steps == 2 else 9)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'percentile': 0.0}, 'clip.percentile is 0.0'),
        ({'percentile': 101.0}, 'clip.percentile is 101.0'),
        ({'window_steps': 0}, 'clip.window_steps is 0'),
        ({'min_steps': 2000}, 'clip.min_steps is 2000'),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveClip(**arguments)
