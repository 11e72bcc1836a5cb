"""The curves of a run: one value a step, whatever logger writes them."""

import time
from typing import Any

import lightning.pytorch as L

from xlabml.evaluation import summarize


class Curves(L.Callback):
    """Write loss, accuracy, bits per byte, learning rates, gradient norm, tokens per second and shares of the sources.

    A training row sums over all steps since the row before it, an evaluation's figures stand at the step that they
    belong to. Between rows nothing is read from the device.

    Args:
        every_n_steps: Steps between rows; None: `trainer.log_every_n_steps`.

    Attributes:
        newest: The newest training row, for whoever shows it.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f'curves.every_n_steps is {every_n_steps}; it must be at least 1')
        self.every_n_steps = every_n_steps
        self.newest: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._n_timed = 0.0
        self._since = 0.0
        self._paused = 0.0
        self._rates: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        # The scheduler moves on before the batch ends: this is the rate that the step uses.
        if self._is_row(trainer, trainer.global_step + 1):
            groups = trainer.optimizers[0].param_groups
            self._rates = {group.get('name', str(i)): group['lr'] for i, group in enumerate(groups)}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not trainer.fit_loop._should_accumulate() and self._is_row(trainer, trainer.global_step):
            self._write_row(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._write_evaluation(trainer, pl_module, 'val_')
        self._since += time.perf_counter() - self._paused

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write_evaluation(trainer, pl_module, 'test_')

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._is_row(trainer, trainer.global_step):
            self._write_row(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._collect(pl_module)
        checkpoint['callbacks'][self.state_key] = {'sums': dict(self._sums)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums = dict(state_dict['sums'])

    def _is_row(self, trainer: L.Trainer, step: int) -> bool:
        every = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and step % every == 0

    def _collect(self, pl_module: L.LightningModule) -> None:
        fresh = pl_module.take_train_sums()  # type: ignore[operator]
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in fresh.items()}
        self._n_timed += fresh['count']

    def _write_row(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._collect(pl_module)
        if not self._sums['count']:
            return
        now = time.perf_counter()
        row = {f'train_{name}': value for name, value in summarize(self._sums).items()}
        row['tokens_per_second'] = self._n_timed / (now - self._since)
        row |= {f'learning_rate/{name}': rate for name, rate in self._rates.items()}
        if pl_module.grad_norm is not None:
            row['gradient_norm'] = float(pl_module.grad_norm)  # type: ignore[arg-type]
        if hasattr(trainer.datamodule, 'source_shares'):  # type: ignore[attr-defined]
            every = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
            first = (trainer.global_step - 1) // every * every
            shares = trainer.datamodule.source_shares(first, trainer.global_step)  # type: ignore[attr-defined]
            row |= {f'share/{name}': share for name, share in shares.items()}
        if pl_module.clip_limit is not None:
            row['clip_limit'] = float(pl_module.clip_limit)  # type: ignore[arg-type]
        row['skipped_steps'] = float(pl_module.skipped[1])  # type: ignore[index]
        self._sums, self._n_timed, self._since, self.newest = {}, 0.0, now, row
        _write(trainer, row, trainer.global_step)

    def _write_evaluation(self, trainer: L.Trainer, pl_module: L.LightningModule, prefix: str) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        step = trainer.global_step if trainer.state.fn == 'fit' else int(pl_module.checkpoint_step)  # type: ignore[arg-type]
        _write(trainer, figures, step)


def _write(trainer: L.Trainer, row: dict[str, float], step: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(row, step=step)
