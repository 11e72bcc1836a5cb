"""When a run is saved, and which checkpoints stay."""

import re
from typing import Any

import lightning.pytorch as L
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn


class Checkpoints(Checkpoint):
    """Save after every validation, every so many steps, when the run ends and when it is interrupted.

    Always at the end of an optimizer step. The best and the newest stay, the others are deleted.

    Args:
        folder: Where the files go; None: `checkpoints` in the run's own folder.
        monitor: The metric that says which are best; None: only the newest stay.
        mode: Whether a smaller or a larger metric is better.
        save_top_k: How many of the best stay; -1: all.
        save_last_k: How many of the newest stay, at least 1.
        every_n_steps: Save at these steps too; None: after validations only.
    """

    def __init__(
        self,
        folder: str | None = None,
        monitor: str | None = 'val_loss',
        mode: str = 'min',
        save_top_k: int = 1,
        save_last_k: int = 1,
        every_n_steps: int | None = None,
    ) -> None:
        if mode not in ('min', 'max'):
            raise ValueError(f"checkpoint.mode is {mode!r}; it must be 'min' or 'max'")
        if save_top_k < -1:
            raise ValueError(f'checkpoint.save_top_k is {save_top_k}; it must be -1 (all), 0 or more')
        if save_last_k < 1:
            raise ValueError(f'checkpoint.save_last_k is {save_last_k}; it must be at least 1')
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f'checkpoint.every_n_steps is {every_n_steps}; it must be at least 1')
        self.folder, self.monitor, self.mode = folder, monitor, mode
        self.save_top_k, self.save_last_k, self.every_n_steps = save_top_k, save_last_k, every_n_steps
        self.saved: dict[str, float | None] = {}
        """Paths of the checkpoints that are there, oldest first, and their metric."""
        self._stopped_early = False

    @property
    def best(self) -> str | None:
        """The path of the best checkpoint so far; None before the first one that has the metric."""
        scored = {path: score for path, score in self.saved.items() if score is not None}
        if not scored:
            return None
        return (min if self.mode == 'min' else max)(scored, key=scored.__getitem__)

    @property
    def newest(self) -> str | None:
        """The path of the newest checkpoint; None before the first."""
        return next(reversed(self.saved), None)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == 'fit':
            # Each rank has looked for a free folder by itself; that of rank 0 is the one which is there.
            self.folder = trainer.strategy.broadcast(self.folder or f'{trainer.log_dir or "."}/checkpoints')

    def state_dict(self) -> dict[str, Any]:
        names = {path.rpartition('/')[2]: score for path, score in self.saved.items()}
        return {'saved': names, 'stopped_early': self._stopped_early}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, score in state_dict['saved'].items():
            if self.folder is not None and _exists(path := self._path(name)):
                self.saved[path] = score

    def _path(self, name: str) -> str:
        return f'{str(self.folder).rstrip("/")}/{name}'

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        is_step_end = not trainer.fit_loop._should_accumulate()
        if self.every_n_steps and is_step_end and trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == 'fit' and not trainer.sanity_checking:
            # Whatever stops a run by its metrics has been asked by now: checkpoints come last.
            self._stopped_early = trainer.should_stop
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save where the run stands, under its step and, where it is known there, the metric."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        step = trainer.global_step
        score = None
        if self.monitor is not None and trainer.validating:
            score = trainer.callback_metrics.get(self.monitor)
            if score is None:
                there = ', '.join(sorted(trainer.callback_metrics)) or 'none'
                raise ValueError(
                    f'checkpoint.monitor is {self.monitor!r}, but validation gives {there}; name one, or null'
                )
        if self.newest and _step_of(self.newest) == step:
            if score is None:
                return
            old = self.newest
            del self.saved[old]
        else:
            old = None
        value = None if score is None else float(score)
        name = f'step={step:07d}' + (f'-{self.monitor}={value:.4f}' if value is not None else '')
        path = self._path(f'{name}.ckpt')
        self.saved[path] = value
        kept = self._kept()
        dropped = [known for known in self.saved if known not in kept] + ([old] if old and old != path else [])
        self.saved = {known: self.saved[known] for known in self.saved if known in kept}
        trainer.save_checkpoint(path)
        for known in dropped:
            trainer.strategy.remove_checkpoint(known)

    def _kept(self) -> set[str]:
        scored = [path for path, score in self.saved.items() if score is not None]
        scored.sort(key=lambda path: self.saved[path] or 0.0, reverse=self.mode == 'max')
        best = scored if self.save_top_k == -1 else scored[: self.save_top_k]
        return {*best, *list(self.saved)[-self.save_last_k :]}


def _exists(path: str) -> bool:
    return get_filesystem(path).exists(path)


def _step_of(path: str) -> int:
    found = re.search(r'step=(\d+)', path.rpartition('/')[2])
    if found is None:
        rank_zero_warn(f'{path} is not named by its step')
        return -1
    return int(found[1])
