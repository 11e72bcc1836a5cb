"""Ctrl-C, and what asks a run to end: at the end of a step, with a checkpoint to go on from."""

import signal
from typing import Any

import lightning.pytorch as L

_STEPS_BETWEEN_TALKS = 10


class Stopping(L.Callback):
    """Turn the first Ctrl-C into a clean end of the run at the next step; the second one ends it at once.

    Attributes:
        interrupted: Whether Ctrl-C ended the run.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._before: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before = signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        if trainer.world_size > 1:
            # Ranks have to agree, which costs a round trip: not at every step.
            if trainer.global_step % _STEPS_BETWEEN_TALKS:
                return
            self.interrupted = trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)
        if self.interrupted:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
