"""How far a run is: a bar on a terminal, lines elsewhere."""

import shutil
import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import TaskID

from xlabml.engine import Run, Task, step_is_over
from xlabml.figures import describe_figures, describe_seconds

from .bar import Bar, Piece

_FIRST_LINE_SECONDS = 10.0
_FEW_EPOCHS = 20
"""Ends of epochs that are marked by a line each; of more, every n-th is."""


class Progress(ProgressBar):
    """Show step, time left, loss, the newest validation, speed and learning rate.

    A bar on a terminal, which keeps step, time left and loss however narrow it is; elsewhere (a log file) a line every
    n seconds. A line after every validation, and at the end of an epoch, in both.

    Args:
        refresh_seconds: Minimum time between updates of the bar; 0 turns it and the lines off.
        line_seconds: Time between lines where there is no terminal; the first one comes after 10 seconds. 0: lines of
            validations only.
    """

    def __init__(self, refresh_seconds: float = 0.25, line_seconds: float = 60.0) -> None:
        super().__init__()
        for name, seconds in (('refresh_seconds', refresh_seconds), ('line_seconds', line_seconds)):
            if seconds < 0:
                raise ValueError(f'progress.{name} is {seconds}; it must be 0 or more')
        self.refresh_seconds = refresh_seconds
        self.line_seconds = line_seconds
        self._is_disabled = False
        self._console = Console()
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._steps_per_epoch: float | None = None
        self._first_step = 0
        self._started = self._next_line = 0.0

    def disable(self) -> None:
        self._is_disabled = True

    def enable(self) -> None:
        self._is_disabled = False

    @property
    def _enabled(self) -> bool:
        return self.refresh_seconds > 0 and not self._is_disabled

    def print(self, *args: Any, **kwargs: Any) -> None:  # arguments of rich's Console.print
        console = self._bar.console if self._bar else self._console
        console.print(*args, highlight=False, markup=False, soft_wrap=True, **kwargs)

    def _start(self, trainer: L.Trainer) -> None:
        if self._bar is None and self._enabled and self._console.is_terminal and trainer.is_global_zero:
            self._bar = Bar(console=self._console, refresh_per_second=1 / self.refresh_seconds)
            self._bar.start()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None
        self._tasks = {}

    def _begin(self, name: str, unit: str, total: int | None, done: int = 0) -> None:
        if self._bar is not None:
            self._tasks[name] = self._bar.add_task(name, total=total, completed=done, pieces=(), unit=unit)

    def _advance(self, name: str, completed: int | None = None, pieces: Sequence[Piece] = ()) -> None:
        if self._bar is None or name not in self._tasks:
            return
        if completed is not None:
            self._bar.update(self._tasks[name], completed=completed, pieces=pieces)
        else:
            self._bar.advance(self._tasks[name])

    def _end(self, name: str) -> None:
        if self._bar is not None and name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))

    # Training

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        find = getattr(Run.of(trainer).data, 'steps_per_epoch', None)
        self._steps_per_epoch = None if find is None else find()
        self._first_step = trainer.global_step
        self._started = time.monotonic()
        self._next_line = self._started + min(_FIRST_LINE_SECONDS, self.line_seconds)
        self._start(trainer)
        self._begin('train', 'steps', trainer.max_steps if trainer.max_steps >= 0 else None, trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if self._bar is not None:
            self._advance('train', trainer.global_step, self.pieces(trainer))
        if self._enabled and trainer.is_global_zero and step_is_over(trainer):
            self._mark_epoch(trainer)
            if self._bar is None and self.line_seconds and time.monotonic() >= self._next_line:
                self._say_line(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._advance('train', trainer.global_step, self.pieces(trainer))
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _say_line(self, trainer: L.Trainer) -> None:
        """A line of a log: clock, step of total, then what the bar shows."""
        if not Run.of(trainer).newest_row:  # none yet: the first row brings the first loss
            return
        self._next_line = time.monotonic() + self.line_seconds
        of = f' of {trainer.max_steps:,}' if trainer.max_steps >= 0 else ''
        figures = '  '.join(piece.text for piece in self.pieces(trainer) if piece.text)
        print(f'{time.strftime("%H:%M:%S")}  step {trainer.global_step:,}{of}  {figures}', flush=True)

    def _mark_epoch(self, trainer: L.Trainer) -> None:
        """A line at the end of an epoch."""
        each = self._steps_per_epoch
        step = trainer.global_step
        if not each or step < 1 or int(step / each) == int((step - 1) / each):
            return
        total = trainer.max_steps / each if trainer.max_steps > 0 else 0
        every = max(1, round(total / _FEW_EPOCHS))
        if (epoch := int(step / each)) % every == 0:
            self.print(f'step {step:,}: end of epoch {epoch:,}' + (f' of {total:,.1f}' if total else ''))

    # Evaluation

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._begin('validate', 'batches', int(sum(batches)))

    def on_validation_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._advance('validate')

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end('validate')
        if trainer.state.fn == 'fit' and not trainer.sanity_checking and self._enabled and trainer.is_global_zero:
            figures = find_figures(trainer, 'val_')
            begin = f'step {trainer.global_step:,}, val: '
            width = shutil.get_terminal_size().columns - len(begin)
            if isinstance(pl_module, Task):
                self.print(begin + pl_module.describe(figures, width))
            else:
                self.print(begin + describe_figures(figures, {}, width))
        if trainer.state.fn == 'validate':
            self._stop()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)
        self._begin('test', 'batches', int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._advance('test')

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)
        self._begin('predict', 'batches', int(sum(trainer.num_predict_batches)))

    def on_predict_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._advance('predict')

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    # What is shown

    def pieces(self, trainer: L.Trainer) -> list[Piece]:
        """Time left, and the figures."""
        return [Piece(self._time_left(trainer), 1), *self._figures(trainer)]

    @classmethod
    def figures(cls, trainer: L.Trainer) -> str:
        """The figures, on one line."""
        return '  '.join(piece.text for piece in cls._figures(trainer) if piece.text)

    @staticmethod
    def _figures(trainer: L.Trainer) -> list[Piece]:
        """The newest training row, and the task's `shown_metric` of the newest validation."""
        task = trainer.lightning_module
        row = Run.of(trainer).newest_row
        pieces: list[Piece] = []
        if isinstance(task, Task):
            pieces.append(Piece(task.progress(row), 2))
        name = getattr(task, 'shown_metric', '')
        if name in trainer.callback_metrics:
            metric = name.removeprefix('val_')
            unit = task.units.get(metric, '') if isinstance(task, Task) else ''
            value = float(trainer.callback_metrics[name])
            pieces.append(Piece(f'val {value:.2%}' if unit == '%' else f'val {value:.3f} {unit}'.rstrip(), 3))
        if row:
            pieces.append(Piece(f'{row["tokens_per_second"]:,.0f} tokens/s', 4))
            rate = next((value for name, value in row.items() if name.startswith('learning_rate/')), None)
            pieces.append(Piece('' if rate is None else f'lr {rate:.1e}', 5))
        return pieces

    def _time_left(self, trainer: L.Trainer) -> str:
        """At the pace of this start, validations included; '' before the first step, and where no end is known."""
        done = trainer.global_step - self._first_step
        left = trainer.max_steps - trainer.global_step
        if done < 1 or left < 0:
            return ''
        return f'{describe_seconds((time.monotonic() - self._started) / done * left)} left'


def find_figures(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    """The figures of the last evaluation, without `val_` or `test_`."""
    metrics = trainer.callback_metrics.items()
    return {name.removeprefix(prefix): float(value) for name, value in metrics if name.startswith(prefix)}
