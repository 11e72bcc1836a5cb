"""Ctrl-C, SIGTERM, SIGUSR1 and the time limit end the run after a step, with a checkpoint to resume from."""

import signal
import threading
import time

import lightning.pytorch as L
import torch

from xlabml.engine import Callback, Run, ValidationCut

TIMEOUT = 124
"""The exit status of a run that `trainer.max_time` ended, equal to that of the command `timeout`."""

_SIGNALS = [getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGUSR1') if hasattr(signal, name)]
_MAX_STEPS_BETWEEN_CHECKS = 100


class Stopping(Callback):
    """End the run on a signal or at its time limit, at the same optimizer step on all ranks.

    Signals are Ctrl-C, SIGTERM and SIGUSR1 (which Slurm can send before a job's time is over), to any rank; the time
    limit is `trainer.max_time`. The handler only records the signal. About every `every_seconds` the ranks take the
    maximum of their signals, clocks and seconds per step. Since all ranks get the same numbers, they synchronize next
    at the same step. A validation is interrupted, and its figures are dropped. A second Ctrl-C kills the process.

    Args:
        every_seconds: Approximate time between synchronizations of the ranks; at least 1 step, at most 100 steps. A
            single process checks at every step, which costs nothing.

    Attributes:
        signal: The signal that ended the run; 0: none.
        is_over: Whether the time limit ended it.
    """

    def __init__(self, every_seconds: float = 1.0) -> None:
        if every_seconds < 0:
            raise ValueError(f'stopping.every_seconds is {every_seconds}; it must be 0 or more')
        self.every_seconds = every_seconds
        self.signal = 0
        self.is_over = False
        self._started = self._synchronized = 0.0
        self._n_done = 0
        self._n_until_check = 1

    @property
    def status(self) -> int:
        """The exit status of the process: 128 plus the signal's number, TIMEOUT, or 0 where neither ended the run."""
        return 128 + self.signal if self.signal else TIMEOUT if self.is_over else 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._synchronized = time.monotonic()
        self._n_done = 0
        self._n_until_check = 1
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._note)  # the trainer restores the former handlers at the end of the run

    def _note(self, number: int, frame: object) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if trainer.state.fn == 'fit' and not trainer.sanity_checking and self._check(trainer, pl_module):
            raise ValidationCut

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Whether the run ends here; the same on all ranks."""
        self._n_done += 1
        if self._n_done < self._n_until_check:
            return False
        now = time.monotonic()
        shared = [float(self.signal), now - self._started, (now - self._synchronized) / self._n_done]
        if trainer.world_size > 1:
            shared = trainer.strategy.reduce(torch.tensor(shared, device=pl_module.device), reduce_op='max').tolist()
            pace = max(shared[2], 1e-9)
            self._n_until_check = max(1, min(_MAX_STEPS_BETWEEN_CHECKS, int(self.every_seconds / pace)))
        self._n_done = 0
        self._synchronized = now
        max_seconds = getattr(trainer, 'max_seconds', None)
        self.signal = int(shared[0])
        self.is_over = max_seconds is not None and shared[1] >= max_seconds
        if not self.status:
            return False
        Run.of(trainer).end(self.status, 'interrupted' if self.signal else 'trainer.max_time is over')
        return True
