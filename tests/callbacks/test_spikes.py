"""Loss spikes are found, written down and, on request, end the run before anything is saved after them."""

import json
import math

import pytest
from given_losses import Given, fit

from xlabml.callbacks import Checkpoints, Spikes

pytestmark = pytest.mark.filterwarnings('ignore:You defined a `validation_step`')

CALM = [1.0, 1.2] * 4  # mean 1.1; the deviation of eight is 0.1069


@pytest.mark.parametrize(('loss', 'is_spike'), [(1.1 + 6 * 0.107, True), (1.1 + 6 * 0.1068, False), (-9.0, False)])
def test_a_spike_is_six_deviations_above_the_mean_of_the_window(tmp_path, loss, is_spike):
    spikes = Spikes('warn', window_steps=8)
    fit(Given(), [*CALM, loss, 1.1], tmp_path, [spikes])
    assert spikes.count == is_spike
    assert (tmp_path / 'spikes.jsonl').exists() == is_spike
    assert len(spikes.window) == 8


@pytest.mark.parametrize(
    ('level', 'loss', 'is_spike'),
    [
        (3.0, 3.0001, False),
        (3.0, 3.0 + 6 * 0.0029, False),
        (3.0, 3.0 + 6 * 0.0031, True),
        (0.0, 1e-6, False),
        (0.0, 6 * 0.00099, False),
        (0.0, 6 * 0.00101, True),
        (-50.0, -50.0 + 6 * 0.049, False),
        (-50.0, -50.0 + 6 * 0.051, True),
    ],
)
def test_after_equal_losses_not_every_increase_is_a_spike(tmp_path, level, loss, is_spike):
    """The deviation is at least a thousandth of the mean, or of 1 nat."""
    spikes = Spikes('warn', window_steps=8)
    fit(Given(), [*[level] * 8, loss], tmp_path, [spikes])
    assert spikes.count == is_spike


def test_nothing_is_judged_before_half_of_the_window_is_there_and_none_means_no_look(tmp_path):
    early, off = Spikes('warn', window_steps=20), Spikes()
    for spikes in (early, off):
        fit(Given(), [*CALM, 99.0, 1.1], tmp_path, [spikes])
    assert early.count == off.count == 0
    assert not off.window


def test_a_loss_that_is_no_number_is_no_spike_and_not_in_the_window(tmp_path):
    spikes = Spikes('warn', window_steps=8)
    fit(Given(), [*CALM, math.nan, math.inf], tmp_path, [spikes])
    assert spikes.count == 0
    assert list(spikes.window) == pytest.approx(CALM)


def test_a_loss_that_stays_high_is_not_a_spike_for_ever(tmp_path):
    spikes = Spikes('warn', window_steps=8)
    fit(Given(), [*CALM, *[5.0] * 8], tmp_path, [spikes])
    assert 0 < spikes.count < 4


@pytest.mark.parametrize('every', [1, 7, 50])
def test_a_run_that_a_spike_ends_has_saved_nothing_since_and_names_the_documents(tmp_path, every, capfd):
    """Whenever the device is looked at: a checkpoint is not written before it is known that no spike lies behind."""
    spikes, saver = Spikes('stop', window_steps=8, every_n_steps=every), Checkpoints(str(tmp_path / 'c'), None)
    saver.every_n_steps = 2
    trainer = fit(Given(), [*CALM, 1.1, 9.0, *[1.1] * 60], tmp_path, [spikes, saver])
    assert (spikes.stopped, trainer.run.status) == (10, 3)
    assert trainer.global_step == {1: 10, 7: 10, 50: 10}[every]
    assert [path.name for path in (tmp_path / 'c').iterdir()] == ['step=0000008.ckpt']
    (row,) = [json.loads(line) for line in (tmp_path / 'spikes.jsonl').read_text().splitlines()]
    assert (row['step'], row['loss'], row['documents']) == (10, 9.0, [9])
    assert 'loss spike at step 10: 9.0000' in capfd.readouterr().err


def test_the_loss_of_a_step_is_that_of_all_its_micro_batches(tmp_path):
    spikes = Spikes('warn', window_steps=8)
    losses = [value for loss in [*CALM, 9.0] for value in (loss - 0.5, loss + 0.5)]
    fit(Given(), losses, tmp_path, [spikes], accumulate_grad_batches=2, max_steps=9)
    assert list(spikes.window) == pytest.approx([*CALM, 9.0][-8:])
    rows = [json.loads(line) for line in (tmp_path / 'spikes.jsonl').read_text().splitlines()]
    assert [(row['step'], row['documents']) for row in rows] == [(9, [16]), (9, [17])]


def test_the_window_is_saved_and_goes_on():
    before, after = Spikes('warn', window_steps=8), Spikes('warn', window_steps=8)
    assert [bool(before._judge(loss)) for loss in CALM] == [False] * 8
    before.count = 2
    after.load_state_dict(before.state_dict())
    assert (after.count, list(after.window)) == (2, CALM)
    assert after._judge(3.0) == before._judge(3.0) != {}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'sigma': 0.0}, 'spikes.sigma is 0.0'),
        ({'window_steps': 3}, 'spikes.window_steps is 3'),
        ({'every_n_steps': 0}, 'spikes.every_n_steps is 0'),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Spikes(**arguments)
