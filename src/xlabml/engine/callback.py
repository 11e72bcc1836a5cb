"""The base class of our callbacks: Lightning's, with hooks for whole optimizer steps and for checkpoints."""

from collections.abc import Iterator

import lightning.pytorch as L

from .loops import step_is_over
from .run import Run


class Callback(L.Callback):
    """Observes a run.

    A callback uses the trainer, its `Run` (`Run.of(trainer)`) and the task, never another callback. A subclass that
    overrides `on_train_batch_end` calls `super()`.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Call `on_step_end` after the last micro-batch of an optimizer step."""
        if step_is_over(trainer):
            self.on_step_end(trainer, pl_module)

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called after an optimizer step, which `trainer.global_step` includes."""

    def before_save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called on all ranks before a checkpoint is written; `Run.end(…, is_saved=False)` prevents it."""

    def on_validation_cut(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called where a validation that is made up was interrupted, because the run ends."""


def own_callbacks(trainer: L.Trainer) -> Iterator[Callback]:
    """The callbacks of a trainer with our hooks, in their order."""
    return (callback for callback in Run.of(trainer).callbacks if isinstance(callback, Callback))
