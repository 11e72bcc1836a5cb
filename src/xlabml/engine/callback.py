"""The base of our callbacks: Lightning's, with hooks for whole optimizer steps and for checkpoints."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as L

from .loops import step_is_over
from .run import Run


class Callback(L.Callback):
    """Observes a run.

    A callback learns what it needs from the trainer, its `Run` (`Run.of(trainer)`) and the task, and never looks for
    another callback. A subclass that overrides `on_train_batch_end` calls `super()`.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call `on_step_end` after the last micro-batch of an optimizer step."""
        if step_is_over(trainer):
            self.on_step_end(trainer, pl_module)

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """An optimizer step is over; `trainer.global_step` counts it."""

    def before_save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A checkpoint is about to be written, on all ranks; `Run.end(…, is_saved=False)` prevents it."""

    def on_validation_cut(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation that the run owed was cut short, because the run ends."""


def own_callbacks(trainer: L.Trainer) -> Iterator[Callback]:
    """The callbacks of a trainer that have our hooks, in their order."""
    return (callback for callback in Run.of(trainer).callbacks if isinstance(callback, Callback))
