"""A run in a notebook: a bar and a plot of train and val, in the cell, while it trains."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar

from xlabml.engine import Run
from xlabml.reports.numbers import duration
from xlabml.reports.runs import Run as Described
from xlabml.telemetry.records import Row

from .progress import Progress, find_figures


class Notebook(ProgressBar):
    """Show a bar, the newest figures and a plot of the loss in a notebook's cell, which are updated as the run goes.

    Needs IPython, which every notebook has, and for the plot matplotlib (the extra `plots`). Figures of training come
    from the rows that the callback `Curves` writes.

    Args:
        refresh_seconds: Minimum time between two updates.
    """

    def __init__(self, refresh_seconds: float = 1.0) -> None:
        super().__init__()
        if not refresh_seconds > 0:
            raise ValueError(f'refresh_seconds of Notebook is {refresh_seconds}; it must be above 0')
        try:
            from IPython.display import HTML, display
        except ImportError as error:
            raise ValueError(
                'Notebook shows a run in a notebook, and IPython is not installed; take Progress'
            ) from error
        self.refresh_seconds = refresh_seconds
        self._html = HTML
        self._display = display
        self._cell: Any = None  # IPython's handle of what it shows
        self._shown_at = 0.0
        self._begin = 0.0
        self._first_step = 0
        self._newest: dict[str, float] = {}
        self._training: list[Row] = []
        self._evaluations: list[Row] = []
        self._plot = ''

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._newest = Run.of(trainer).newest_row
        self._training = []
        self._evaluations = []
        self._plot = ''
        self._begin = time.perf_counter()
        self._first_step = trainer.global_step
        self._cell = self._display(self._html(self._page(trainer)), display_id=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if self._cell is None:
            return
        row = Run.of(trainer).newest_row
        if row is not self._newest:
            self._newest = row
            self._training.append({**row, 'step': trainer.global_step})
        if time.perf_counter() - self._shown_at >= self.refresh_seconds:
            self._update(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._cell is not None and not trainer.sanity_checking:
            self._evaluations.append({'step': trainer.global_step, **_named(find_figures(trainer, 'val_'))})
            self._update(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._cell is not None:
            self._update(trainer)
            self._cell = None

    def _update(self, trainer: L.Trainer) -> None:
        self._plot = self._draw(trainer)
        self._cell.update(self._html(self._page(trainer)))
        self._shown_at = time.perf_counter()

    def _page(self, trainer: L.Trainer) -> str:
        """The bar, its figures, and the plot."""
        step = trainer.global_step
        of = f' of {trainer.max_steps:,}' if trainer.max_steps >= 0 else ''
        share = f'max="{trainer.max_steps}" value="{step}"' if trainer.max_steps >= 0 else ''
        said = ' · '.join(filter(None, [f'step {step:,}{of}', Progress.figures(trainer), self._time_left(trainer)]))
        return f'<progress {share} style="width: 100%"></progress><div>{escape(said)}</div>{self._plot}'

    def _time_left(self, trainer: L.Trainer) -> str:
        made = trainer.global_step - self._first_step
        seconds = time.perf_counter() - self._begin
        if not made or trainer.max_steps < 0:
            return ''
        left = trainer.max_steps - trainer.global_step
        return f'{duration(seconds * left / made)} left' if left else f'took {duration(seconds)}'

    def _draw(self, trainer: L.Trainer) -> str:
        """The loss as SVG; empty where there is nothing to draw yet, or nothing to draw it with."""
        try:
            from xlabml.reports.notebook import draw
        except ImportError:
            return ''
        module = trainer.lightning_module
        now = datetime.now(UTC).isoformat()
        events = [{'event': 'start', 'time': now, 'units': dict(getattr(module, 'units', {}))}]
        folder = Run.of(trainer).output_folder()
        return draw(Described(folder.name, folder, {}, self._training, self._evaluations, [], events, [], [], ''))


def _named(figures: Mapping[str, float]) -> Row:
    return {f'val_{name}': value for name, value in figures.items()}
