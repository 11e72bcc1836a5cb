"""Validations that get worse while training gets better: said once, and the end of the run where that is set."""

import math
from typing import Any

import lightning.pytorch as L

from xlabml.engine import Callback, Run
from xlabml.evaluation import Monitor


class Overfitting(Callback):
    """Say once that the model overfits, and optionally end the run: the best checkpoint is kept in any case.

    A validation counts as worse where the task's monitored figure (`val_loss` of a language model) is worse than the
    best one so far. The model overfits where several in a row are, while the loss of training is below what it was at
    the best one.

    Args:
        patience: How many worse validations in a row end the run; None: none do.
        notice: After how many it is said; 0: never.
    """

    def __init__(self, patience: int | None = None, notice: int = 3) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f'overfitting.patience is {patience}; it must be at least 1')
        if notice < 0:
            raise ValueError(f'overfitting.notice is {notice}; it must be 0 or more')
        self.patience = patience
        self.notice = notice
        self._best = math.nan
        self._best_step = 0
        self._train_loss = math.nan  # at the best validation
        self._n_worse = 0
        self._is_said = False

    def state_dict(self) -> dict[str, float | bool]:
        if math.isnan(self._best):
            return {}
        return {
            'best': self._best,
            'step': self._best_step,
            'train_loss': self._train_loss,
            'worse': self._n_worse,
            'said': self._is_said,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not state_dict:
            return
        self._best = state_dict['best']
        self._best_step = state_dict['step']
        self._train_loss = state_dict['train_loss']
        self._n_worse = state_dict['worse']
        self._is_said = state_dict['said']

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        monitor = getattr(pl_module, 'monitor', None)
        if trainer.state.fn != 'fit' or trainer.sanity_checking or not isinstance(monitor, Monitor):
            return
        figure = trainer.callback_metrics.get(monitor.name)
        if figure is None or not math.isfinite(value := float(figure)):
            return
        run = Run.of(trainer)
        train_loss = run.newest_row.get('train_loss', math.nan)
        if math.isnan(self._best) or (value > self._best if monitor.mode == 'max' else value < self._best):
            self._best = value
            self._best_step = trainer.global_step
            self._train_loss = train_loss
            self._n_worse = 0
            return
        self._n_worse += 1
        if self.patience is not None and self._n_worse >= self.patience:
            run.end(0, f'{self._worse(monitor)} (overfitting.patience)')
        elif self.notice and self._n_worse >= self.notice and train_loss < self._train_loss and not self._is_said:
            self._is_said = True
            if trainer.is_global_zero:
                print(
                    f'{self._worse(monitor)}, while the loss of training fell: the model overfits. '
                    f'--overfitting.patience {self.notice} ends such a run; the best checkpoint is kept',
                    flush=True,
                )

    def _worse(self, monitor: Monitor) -> str:
        times = '1 validation was' if self._n_worse == 1 else f'{self._n_worse} validations in a row were'
        return f'{times} no better than that of step {self._best_step:,} ({monitor.name} {self._best:.4f})'
