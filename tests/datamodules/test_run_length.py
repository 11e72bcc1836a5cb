"""Steps, rows and tokens of a run agree with one another, warm-ups included; what cannot be is refused by name."""

import pytest

from xlabml.datamodules import XLabDataModule
from xlabml.datamodules.run_length import StepSize


def build(**settings):
    return XLabDataModule(**{'max_len': 16, 'batch_tokens': 128, **settings})


def test_rows_steps_and_tokens_of_a_warm_up():
    size = StepSize(16, 128, None, 1, first_batch_tokens=32, batch_warmup_steps=10)
    assert [size.rows_per_step(step) for step in (0, 4, 5, 9, 10)] == [2, 2, 4, 4, 8]
    assert [size.rows_between(0, end) for end in (0, 5, 10, 12)] == [0, 10, 30, 46]
    assert size.rows_between(7, 11) == 12 + 8
    assert [size.steps(n_rows) for n_rows in (10, 11, 30, 31, 46)] == [5, 6, 10, 11, 12]
    assert StepSize(16, 128, None, 1).steps(17) == 3


def test_a_horizon_in_tokens_counts_the_small_steps():
    data = build(first_batch_tokens=32, batch_warmup_steps=10)
    assert [data.steps_of_tokens(n) for n in (30 * 16, 30 * 16 + 1, 46 * 16)] == [10, 11, 12]
    assert build().steps_of_tokens(46 * 16) == 6


def test_accumulation_is_that_of_whole_steps():
    assert StepSize(16, 128, 32, 2, first_batch_tokens=64, batch_warmup_steps=3).accumulation == 2
    with pytest.raises(ValueError, match=r'first_batch_tokens is 32, 2 rows of 16, .* the 4 batches .* make it 64'):
        _ = StepSize(16, 128, 32, 2, first_batch_tokens=32, batch_warmup_steps=3).accumulation


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'first_batch_tokens': 256}, r'first_batch_tokens is 256, which does not become data\.batch_tokens, 128'),
        ({'first_batch_tokens': 48, 'batch_warmup_steps': 9}, '48, which does not become .* such as 64'),
        ({'first_batch_tokens': 40}, r'data\.first_batch_tokens is 40, no multiple of data\.max_len, 16'),
        ({'first_batch_tokens': 0}, r'data\.first_batch_tokens is 0; it must be at least 1'),
        ({'first_batch_tokens': 16, 'batch_warmup_steps': 2}, r'batch_warmup_steps is 2; .* are 3 doublings'),
        ({'first_batch_tokens': 64}, r'batch_warmup_steps is 0; .* are 1 doublings, which need 1 steps'),
        ({'batch_warmup_steps': 5}, r'batch_warmup_steps is 5, but nothing says .* set data\.first_batch_tokens'),
        ({'first_len': 32}, r'first_len is 32, which does not become data\.max_len, 16'),
        ({'first_len': 6, 'len_warmup_steps': 9}, 'first_len is 6, which does not become'),
        ({'first_len': -1}, r'data\.first_len is -1; it must be at least 1'),
        ({'first_len': 2, 'len_warmup_steps': 2}, r'len_warmup_steps is 2; .* are 3 doublings'),
        ({'len_warmup_steps': 2}, r'set data\.first_len'),
    ],
)
def test_impossible_warm_ups_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)
