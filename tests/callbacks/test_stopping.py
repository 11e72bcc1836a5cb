"""A signal, or the clock, ends a run at the end of an optimizer step, with one checkpoint."""

import os
import signal
from unittest import mock

import lightning.pytorch as L
import pytest
import torch
from given_losses import Given, fit

from xlabml.callbacks import Checkpoints, Stopping

pytestmark = pytest.mark.filterwarnings('ignore:You defined a `validation_step`')


class Send(L.Callback):
    """Signals to this very process, at a micro-batch or a validation batch."""

    def __init__(self, number, batch=None, val_batch=None):
        self.number, self.batch, self.val_batch, self.ended = number, batch, val_batch, 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.batch:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.val_batch:
            os.kill(os.getpid(), self.number)

    def on_validation_end(self, trainer, module):
        self.ended += 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_run_at_a_step_with_a_checkpoint_and_a_status_of_its_own(tmp_path, number):
    before = signal.getsignal(number)
    stopping, saver, module = Stopping(), Checkpoints(str(tmp_path / 'c'), None), Given()
    trainer = fit(module, [1.0] * 40, tmp_path, [Send(number, 5), stopping, saver], accumulate_grad_batches=4)
    assert (trainer.global_step, module.n_seen) == (2, 8)
    assert stopping.status == 128 + number
    assert [path.name for path in (tmp_path / 'c').iterdir()] == ['step=0000002.ckpt']
    assert signal.getsignal(number) is before


def test_a_second_sigterm_changes_nothing_and_a_second_ctrl_c_ends_the_process(tmp_path):
    stopping = Stopping()
    fit(Given(), [1.0] * 4, tmp_path, [Send(signal.SIGTERM, 1), Send(signal.SIGTERM, 1), stopping])
    assert stopping.status == 143
    with pytest.raises(SystemExit):
        fit(Given(), [1.0] * 4, tmp_path, [Send(signal.SIGINT, 1), Send(signal.SIGINT, 1)])


def test_the_clock_ends_a_run_with_a_checkpoint_and_is_new_after_a_resume(tmp_path):
    stopping, saver = Stopping(), Checkpoints(str(tmp_path / 'c'), None)
    trainer = fit(Given(), [1.0] * 40, tmp_path, [stopping, saver], max_time={'seconds': 0})
    assert (trainer.global_step, stopping.status) == (1, 124)
    assert [path.name for path in (tmp_path / 'c').iterdir()] == ['step=0000001.ckpt']
    trainer = fit(Given(), [1.0] * 4, tmp_path, [], max_time='00:01:00:00')
    assert trainer.global_step == 4


def test_least_steps_do_not_hold_a_signal_up(tmp_path):
    trainer = fit(Given(), [1.0] * 20, tmp_path, [Send(signal.SIGTERM, 2)], min_steps=10)
    assert trainer.global_step == 3


def test_a_validation_is_cut_short_and_its_figures_are_not_kept(tmp_path):
    send, stopping, module = Send(signal.SIGTERM, val_batch=2), Stopping(), Given()
    saver = Checkpoints(str(tmp_path / 'c'))
    trainer = fit(module, [1.0] * 40, tmp_path, [send, stopping, saver], validate=[2.0] * 9, val_check_interval=3)
    assert (trainer.global_step, module.n_validated, send.ended) == (3, 3, 0)
    assert stopping.status == 143
    assert list(saver.saved.values()) == [None]
    assert [path.name for path in (tmp_path / 'c').iterdir()] == ['step=0000003.ckpt']


def test_ranks_talk_about_every_second_and_at_least_every_100_steps(monkeypatch):
    """By hand: steps of 0.1 s talk every ten; steps of 1 ms every 100. The slowest rank's numbers are everybody's."""
    now, talks = [0.0], []

    def reduce(tensor, reduce_op):
        assert reduce_op == 'max'
        talks.append(step)
        return tensor

    monkeypatch.setattr('xlabml.callbacks.stopping.time.monotonic', lambda: now[0])
    trainer, stopping = mock.MagicMock(spec=L.Trainer, world_size=2, max_seconds=None), Stopping()
    trainer.strategy.reduce = reduce
    for step in range(1, 301):
        now[0] += 0.0999 if step <= 41 else 0.001
        assert not stopping._check(trainer, Given())
    assert talks == [1, 11, 21, 31, 41, 51, 151, 251]


def test_the_signal_of_another_rank_and_its_clock_end_this_one_too():
    for told, status in ([15.0, 0.0, 0.1], 143), ([0.0, 9.0, 0.1], 124):
        trainer, stopping = mock.MagicMock(spec=L.Trainer, world_size=2, max_seconds=8.0), Stopping()
        trainer.fit_loop = mock.MagicMock()
        trainer.strategy.reduce = lambda tensor, reduce_op, told=told: torch.tensor(told)
        assert stopping._check(trainer, Given())
        assert trainer.should_stop is True
        assert stopping.status == status


def test_a_negative_time_between_talks_is_refused():
    with pytest.raises(ValueError, match=r'stopping\.every_seconds is -1'):
        Stopping(-1.0)
