"""Lightning's loops, with validation counted in optimizer steps; and functions for what others need of them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import lightning.pytorch as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

if TYPE_CHECKING:
    from .trainer import Trainer


class ValidationCut(Exception):  # noqa: N818 - not an error
    """Raised to interrupt a validation because the run ends; the trainer's loop catches it."""


class RunLoop(_FitLoop):
    """Begins with the validation that an interrupted run owes; after the last step nothing else is left to do."""

    trainer: 'Trainer'
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
    """Validates after the same optimizer steps for any accumulation, and after a resume.

    No device synchronization in a step.
    """

    trainer: 'Trainer'

    def _broadcast_sigterm_tensor(self) -> None:
        """Nothing: Lightning synchronizes its ranks at every step to share signals; the callback `Stopping` does it."""

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        trainer = self.trainer
        if not trainer.enable_validation or self._should_accumulate() or trainer.should_stop:
            return False
        return trainer.is_validation_step(self.global_step)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        with self._until_cut():
            super().on_advance_end(data_fetcher)

    def make_up(self) -> None:
        """Make up the interrupted validation, before any step."""
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
                if isinstance(callback, WeightAveraging):  # restores the trained weights at the end of a validation
                    callback.on_validation_epoch_end(self.trainer, self.trainer.lightning_module)


def step_is_over(trainer: L.Trainer) -> bool:
    """Whether the last micro-batch was the last one of its optimizer step."""
    return not trainer.fit_loop._should_accumulate()


def will_validate(trainer: L.Trainer) -> bool:
    """Whether a validation follows after the last step."""
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and loop._should_check_val_fx(fetcher)


def is_done(trainer: L.Trainer) -> bool:
    """Whether training has no further step."""
    return trainer.fit_loop.done


def end_now(trainer: L.Trainer) -> None:
    """End training at this step, regardless of minimum steps or epochs."""
    trainer.should_stop = True
    trainer.fit_loop.min_epochs = None
    trainer.fit_loop.epoch_loop.min_steps = None


def set_length(trainer: L.Trainer, accumulation: int, max_steps: int) -> None:
    """Set the micro-batches of an optimizer step and the steps of the run; a fit is one epoch for Lightning."""
    trainer.accumulate_grad_batches = accumulation
    set_max_steps(trainer, max_steps)
    trainer.fit_loop.max_epochs = -1


def set_max_steps(trainer: L.Trainer, max_steps: int) -> None:
    """Set the optimizer steps of the run; -1: no end."""
    trainer.fit_loop.epoch_loop.max_steps = max_steps


def set_steps_done(trainer: L.Trainer, n_steps: int) -> None:
    """Set the count of optimizer steps to that of the resumed run."""
    loop = trainer.fit_loop.epoch_loop
    step = loop.automatic_optimization.optim_progress.optimizer.step
    step.total.ready = n_steps
    step.total.completed = n_steps
    loop._batches_that_stepped = n_steps


def watch_fetches(trainer: L.Trainer, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call functions before and after each fetch of a training batch, in place of Lightning's hooks for profilers."""
    vars(trainer.fit_loop.epoch_loop).update(_on_before_fetch=before, _on_after_fetch=after)


def evaluate_without_inference_mode(trainer: L.Trainer) -> None:
    """Evaluate under no_grad: the next training step cannot use tensors of inference mode."""
    for loop in (
        trainer.fit_loop.epoch_loop.val_loop,
        trainer.validate_loop,
        trainer.test_loop,
        trainer.predict_loop,
    ):
        loop.inference_mode = False
