"""Steps, rows and tokens of a run agree with one another; what cannot be dealt out evenly is refused by name."""

import pytest

from xlabml.datamodules import XLabDataModule
from xlabml.datamodules.run_length import GroupSize, StepSize


def test_the_last_step_is_whole():
    size = StepSize(16, 128, None, 1)
    assert [size.steps(n_rows) for n_rows in (0, 1, 8, 9, 17)] == [0, 1, 1, 2, 3]


def test_a_horizon_in_tokens_is_rounded_up_to_steps():
    data = XLabDataModule(max_len=16, batch_tokens=128)
    assert [data.steps_of_tokens(n) for n in (1, 128, 129, 46 * 16)] == [1, 1, 2, 6]


def test_a_name_of_an_earlier_version_says_where_it_is_now():
    data = XLabDataModule()
    with pytest.raises(AttributeError, match=r"no attribute 'train_rows'; it is data\.texts\.train_examples now"):
        _ = data.train_rows
    with pytest.raises(AttributeError, match=r"XLabDataModule has no attribute 'nothing'$"):
        _ = data.nothing


def test_micro_batches_share_out_a_step():
    assert StepSize(16, 128, 32, 2).accumulation == 2
    with pytest.raises(ValueError, match=r'batch_tokens is 128, 8 rows of 16, .* 3 device.* make it a multiple of 96'):
        _ = StepSize(16, 128, 32, 3).accumulation


def test_a_step_of_groups_is_one_batch_on_each_device():
    size = GroupSize(12, 3)
    assert (size.per_step, size.per_batch, size.accumulation) == (12, 4, 1)
    assert [size.steps(n_groups) for n_groups in (0, 1, 12, 13)] == [0, 1, 1, 2]
    with pytest.raises(ValueError, match=r'batch_groups is 12, which cannot be dealt to 5 devices; .* such as 10'):
        _ = GroupSize(12, 5).accumulation
    with pytest.raises(ValueError, match='1,000 tokens are no number of steps here'):
        size.steps_of_tokens(1000)
