"""Python's garbage collector, kept out of the step loop."""

import gc

import lightning.pytorch as L

from xlabml.engine import Callback

_FIRST_STEPS = 3
"""Steps after which all objects that last for the run exist."""


class Garbage(Callback):
    """Collect garbage at validations, not whenever Python decides to.

    After the first steps all objects are frozen (gc.freeze), so that later collections skip them, and automatic
    collection is turned off; both are undone at the end of the run. A full collection takes tenths of a second, at any
    step, and at a different one on each rank, for which all others then wait.

    Args:
        every_n_steps: Collect every n steps as well: until then reference cycles stay in memory.
    """

    def __init__(self, every_n_steps: int = 1000) -> None:
        self.every_n_steps = every_n_steps
        self._n_steps = 0
        self._was_enabled: bool | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._n_steps = 0

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._n_steps += 1
        if self._n_steps == _FIRST_STEPS and self._was_enabled is None:
            self._was_enabled = gc.isenabled()
            gc.collect()
            gc.freeze()
            gc.disable()
        elif self._n_steps % self.every_n_steps == 0:
            gc.collect()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._was_enabled is not None:
            gc.collect()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._was_enabled is not None:
            gc.unfreeze()
            if self._was_enabled:
                gc.enable()
            self._was_enabled = None
