"""Ctrl-C and SIGTERM: the run ends at the end of a step, with a checkpoint to go on from."""

import signal
import threading
from typing import Any

import lightning.pytorch as L
import torch

_STEPS_BETWEEN_TALKS = 10


class Stopping(L.Callback):
    """Turn the first Ctrl-C, or a SIGTERM, into a clean end of the run at the next step; a second one ends it at once.

    Attributes:
        signal: The signal that ended the run; 0: none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: Any) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        if trainer.world_size > 1:
            # Ranks have to agree, which costs a round trip: not at every step.
            if trainer.global_step % _STEPS_BETWEEN_TALKS:
                return
            told = trainer.strategy.reduce(torch.tensor(self.signal, device=pl_module.device), reduce_op='max')
            self.signal = int(told)
        if self.signal:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
