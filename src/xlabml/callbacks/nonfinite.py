"""The guard against losses and gradients that are not finite."""

import lightning.pytorch as L

from xlabml.engine import Callback, Task

from .advice import skip_argument
from .documents import ReadDocuments, check_interval


class NonFinite(Callback):
    """End a run whose loss or gradient was not finite for several consecutive steps, and write down their documents.

    The task skips each such step: weights and the optimizer's state do not change, schedule and data advance.

    Args:
        max_in_row: Number of consecutive skipped steps that end the run, at least 1.
        every_n_steps: Check every n steps, with a device synchronization; None: every step on a CPU, else at rows of
            the curves (`trainer.log_every_n_steps`).
    """

    def __init__(self, max_in_row: int = 10, every_n_steps: int | None = None) -> None:
        for name, value in {'max_in_row': max_in_row, 'every_n_steps': every_n_steps}.items():
            if value is not None and value < 1:
                raise ValueError(f'nonfinite.{name} is {value}; it must be at least 1')
        self.max_in_row = max_in_row
        self.every_n_steps = every_n_steps
        self.documents = ReadDocuments()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        n_steps = self.max_in_row + check_interval(self.every_n_steps, trainer, pl_module)
        self.documents.note(trainer.global_step + 1, batch, n_steps)

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        interval = check_interval(self.every_n_steps, trainer, pl_module)
        if trainer.global_step % interval:
            return
        in_row = int(Task.of(pl_module).skipped[0])
        last = trainer.global_step
        if in_row >= self.max_in_row:
            first = last - in_row + 1
            skip = skip_argument(trainer, first, last)
            path = self.documents.write(trainer, 'nonfinite', {step: {} for step in range(first, last + 1)})
            raise ValueError(
                f'the loss or the gradient was not finite for {in_row} steps in a row, up to step '
                f'{last}; {path} lists their documents. Inspect these, or lower the learning rate, '
                + (f"or skip the steps' rows with {skip}, " if skip else '')
                + 'and resume from the newest checkpoint before them; nonfinite.max_in_row sets this limit'
            )
