"""Lightning's loops, with a rhythm counted in optimizer steps; and the few things of them that others may ask for."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class ValidationCut(Exception):  # noqa: N818 - nothing went wrong
    """Validation is left half done, because the run ends; the trainer's loop catches it."""


class RunLoop(_FitLoop):
    """Begins with the validation that an interrupted run owes; after the last step that is all there is to do."""

    trainer: Any
    epoch_loop: 'StepLoop'

    def run(self) -> None:
        if not self.trainer.run.owes_validation or not 0 <= self.max_steps <= self.trainer.global_step:
            super().run()
            return
        self.on_run_start()
        self.on_run_end()

    def on_run_start(self) -> None:
        super().on_run_start()
        if self.trainer.run.owes_validation:
            self.epoch_loop.make_up()


class StepLoop(_TrainingEpochLoop):
    """Validates by optimizer steps: the same ones for any accumulation, and after a resume too.

    Nothing in a step waits for the device.
    """

    trainer: Any

    def _broadcast_sigterm_tensor(self) -> None:
        """Lightning's ranks tell each other of signals at every step, and wait for it; `Stopping` does that for us."""

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        trainer = self.trainer
        if not trainer.enable_validation or self._should_accumulate() or trainer.should_stop:
            return False
        return trainer.is_validation_step(self.global_step)

    def on_advance_end(self, data_fetcher: Any) -> None:
        with self._until_cut():
            super().on_advance_end(data_fetcher)

    def make_up(self) -> None:
        """Validate, before any step."""
        is_cut = True
        with self._until_cut():
            self.trainer.validating = True
            self.val_loop.run()
            self.trainer.training = True
            is_cut = False
        if is_cut:
            from .callback import own_callbacks

            for callback in own_callbacks(self.trainer):
                callback.on_validation_cut(self.trainer, self.trainer.lightning_module)

    @contextlib.contextmanager
    def _until_cut(self) -> Iterator[None]:
        try:
            yield
        except ValidationCut:
            self.trainer.training = True
            for callback in self.trainer.callbacks:
                if isinstance(callback, WeightAveraging):  # it gives the trained weights back when a validation ends
                    callback.on_validation_epoch_end(self.trainer, self.trainer.lightning_module)


def step_is_over(trainer: L.Trainer) -> bool:
    """Whether the micro-batch that was just trained on was the last one of its optimizer step."""
    return not trainer.fit_loop._should_accumulate()


def will_validate(trainer: L.Trainer) -> bool:
    """Whether a validation follows on the step that is just over."""
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and loop._should_check_val_fx(fetcher)


def is_done(trainer: L.Trainer) -> bool:
    """Whether training makes no further step."""
    return trainer.fit_loop.done


def end_now(trainer: L.Trainer) -> None:
    """Have training end at this step; no minimum of steps or epochs holds it up."""
    trainer.should_stop = True
    trainer.fit_loop.min_epochs = None
    trainer.fit_loop.epoch_loop.min_steps = None


def set_length(trainer: L.Trainer, accumulation: int, max_steps: int) -> None:
    """Set the micro-batches of an optimizer step and the steps of the run; one fit is one epoch of Lightning's."""
    trainer.accumulate_grad_batches = accumulation
    set_max_steps(trainer, max_steps)
    trainer.fit_loop.max_epochs = -1


def set_max_steps(trainer: L.Trainer, max_steps: int) -> None:
    """Set the optimizer steps of the run; -1: no end."""
    trainer.fit_loop.epoch_loop.max_steps = max_steps


def set_steps_done(trainer: L.Trainer, n_steps: int) -> None:
    """Count optimizer steps from here on: those of the run that is resumed."""
    loop = trainer.fit_loop.epoch_loop
    step = loop.automatic_optimization.optim_progress.optimizer.step
    step.total.ready = n_steps
    step.total.completed = n_steps
    loop._batches_that_stepped = n_steps


def watch_fetches(trainer: L.Trainer, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call functions before and after every batch is fetched for training: Lightning's places for a profiler."""
    loop: Any = trainer.fit_loop.epoch_loop
    loop._on_before_fetch = before
    loop._on_after_fetch = after


def evaluate_without_inference_mode(trainer: L.Trainer) -> None:
    """Evaluate under no_grad: tensors of inference mode are of no use to the next training step."""
    for loop in (
        trainer.fit_loop.epoch_loop.val_loop,
        trainer.validate_loop,
        trainer.test_loop,
        trainer.predict_loop,
    ):
        loop.inference_mode = False
