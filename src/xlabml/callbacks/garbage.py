"""Python's garbage collector, kept out of the step loop."""

import gc

import lightning.pytorch as L

from xlabml.engine import Callback

_FIRST_STEPS = 3
"""After so many steps everything that stays for the run is there."""


class Garbage(Callback):
    """Collect garbage when the run validates, and not whenever Python thinks it is time.

    After the first steps what is there is set aside, so that no later collection looks through it, and the collector
    is turned off; when the run ends both are as they were. A collection of all that a run holds takes tenths of a
    second, at any step, and on each rank at another one, which all others then wait for.

    Args:
        every_n_steps: Collect after so many steps too: what refers to itself in a circle stays until then.
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
