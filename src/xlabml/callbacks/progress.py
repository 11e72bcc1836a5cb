"""The progress bar."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from xlabml.engine import Run, Task
from xlabml.figures import describe_figures


class Progress(ProgressBar):
    """Show step, loss, the newest figures, learning rate, speed and time left.

    A bar on a terminal; elsewhere (a log file) a line after every validation.

    Args:
        refresh_seconds: Minimum time between updates of the bar; 0 turns it off.
    """

    def __init__(self, refresh_seconds: float = 0.25) -> None:
        super().__init__()
        if refresh_seconds < 0:
            raise ValueError(f'progress.refresh_seconds is {refresh_seconds}; it must be 0 or more')
        self.refresh_seconds = refresh_seconds
        self._is_disabled = False
        self._console = Console()
        self._bar: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}

    def disable(self) -> None:
        self._is_disabled = True

    def enable(self) -> None:
        self._is_disabled = False

    @property
    def _enabled(self) -> bool:
        return self.refresh_seconds > 0 and not self._is_disabled

    def print(self, *args: Any, **kwargs: Any) -> None:  # arguments of rich's Console.print
        (self._bar.console if self._bar else self._console).print(*args, highlight=False, **kwargs)

    def _start(self, trainer: L.Trainer) -> None:
        if self._bar is None and self._enabled and self._console.is_terminal and trainer.is_global_zero:
            self._bar = RichProgress(
                TextColumn('{task.description}'),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn('{task.fields[figures]}'),
                TimeRemainingColumn(compact=True),
                console=self._console,
                refresh_per_second=1 / self.refresh_seconds,
            )
            self._bar.start()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None
        self._tasks = {}

    def _begin(self, name: str, total: int | None, done: int = 0) -> None:
        if self._bar is not None:
            self._tasks[name] = self._bar.add_task(name, total=total, completed=done, figures='')

    def _advance(self, name: str, completed: int | None = None, figures: str | None = None) -> None:
        if self._bar is None or name not in self._tasks:
            return
        if completed is not None:
            self._bar.update(self._tasks[name], completed=completed)
        else:
            self._bar.advance(self._tasks[name])
        if figures is not None:
            self._bar.update(self._tasks[name], figures=figures)

    def _end(self, name: str) -> None:
        if self._bar is not None and name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)
        self._begin('train', trainer.max_steps if trainer.max_steps >= 0 else None, trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self._advance('train', trainer.global_step, self.figures(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._advance('train', trainer.global_step, self.figures(trainer))
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._begin('validate', int(sum(batches)))

    def on_validation_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._advance('validate')

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end('validate')
        if trainer.state.fn == 'fit' and not trainer.sanity_checking and self._enabled and trainer.is_global_zero:
            figures = find_figures(trainer, 'val_')
            said = pl_module.describe(figures) if isinstance(pl_module, Task) else describe_figures(figures, {})
            self.print(f'step {trainer.global_step}: {said}')
        if trainer.state.fn == 'validate':
            self._stop()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)
        self._begin('test', int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._advance('test')

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)
        self._begin('predict', int(sum(trainer.num_predict_batches)))

    def on_predict_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._advance('predict')

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    @staticmethod
    def figures(trainer: L.Trainer) -> str:
        """One line: the newest training row, and the task's `shown_metric` of the newest validation."""
        task = trainer.lightning_module
        row = Run.of(trainer).newest_row
        parts = [task.progress(row)] if isinstance(task, Task) else []
        if row:
            rate = next((value for name, value in row.items() if name.startswith('learning_rate/')), None)
            parts += [] if rate is None else [f'lr {rate:.1e}']
            parts.append(f'{row["tokens_per_second"]:,.0f} tokens/s')
        name = getattr(task, 'shown_metric', '')
        if name in trainer.callback_metrics:
            parts.append(f'val {float(trainer.callback_metrics[name]):.3f}')
        return '  '.join(filter(None, parts))


def find_figures(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    """The figures of the last evaluation, without `val_` or `test_`."""
    metrics = trainer.callback_metrics.items()
    return {name.removeprefix(prefix): float(value) for name, value in metrics if name.startswith(prefix)}
