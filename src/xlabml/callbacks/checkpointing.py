"""When a run is saved, and which checkpoints stay."""

import math
import os
import re
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.distributed.tensor import DTensor

from xlabml import checkpoints
from xlabml.engine import Callback, Run, is_done, own_callbacks, will_validate
from xlabml.evaluation import Monitor


class Checkpoints(Callback, Checkpoint):
    """Save after every validation, every n steps, when the run ends and when it is interrupted.

    Always at the end of an optimizer step. The best, the newest and the pinned stay, the others are deleted. Nothing is
    saved after a loss spike that ends the run: the newest checkpoint is from before it.

    Args:
        folder: Where the files go, and those of no other run; None: `checkpoints` in the run's own folder.
        monitor: The metric that says which are best; `auto`: that of the task; None: only the newest stay.
        mode: Whether a smaller or a larger metric is better; `auto`: as the task says, min where it does not.
        save_top_k: How many of the best stay; -1: all.
        save_last_k: How many of the newest stay, at least 1.
        every_n_steps: Save at these steps too; None: after validations only.
        pin_steps: Save at these steps too, and never delete what is saved there.
        pin_every_n_steps: The same every n steps.
        restore_best: Whether the best weights are put back when the run ends by itself, and exported to
            `best.safetensors` beside the checkpoints; `last` stays the newest checkpoint.

    Attributes:
        continues: Whether the folder is that of the run which is resumed: only then are the checkpoints that the loaded
            one names in it this run's, and are deleted in their turn.
    """

    def __init__(
        self,
        folder: str | None = None,
        monitor: str | None = 'auto',
        mode: str = 'auto',
        save_top_k: int = 1,
        save_last_k: int = 1,
        every_n_steps: int | None = None,
        pin_steps: list[int] | None = None,
        pin_every_n_steps: int | None = None,
        restore_best: bool = False,
    ) -> None:
        if mode not in ('auto', 'min', 'max'):
            raise ValueError(f"checkpoint.mode is {mode!r}; it must be 'auto', 'min' or 'max'")
        if save_top_k < -1:
            raise ValueError(f'checkpoint.save_top_k is {save_top_k}; it must be -1 (all), 0 or more')
        if save_last_k < 1:
            raise ValueError(f'checkpoint.save_last_k is {save_last_k}; it must be at least 1')
        for name, value in (('every_n_steps', every_n_steps), ('pin_every_n_steps', pin_every_n_steps)):
            if value is not None and value < 1:
                raise ValueError(f'checkpoint.{name} is {value}; it must be at least 1')
        for step in pin_steps or []:
            if step < 1:
                raise ValueError(f'checkpoint.pin_steps has {step}; steps count from 1')
        if restore_best and (monitor is None or not save_top_k):
            raise ValueError('checkpoint.restore_best needs checkpoint.monitor, and checkpoint.save_top_k not to be 0')
        if restore_best and folder is not None and '://' in folder:
            raise ValueError(f'checkpoint.restore_best needs a local checkpoint.folder, not {folder}')
        self.folder = folder
        self.monitor = monitor
        self.mode = mode
        self.save_top_k = save_top_k
        self.save_last_k = save_last_k
        self.every_n_steps = every_n_steps
        self.pin_steps = set(pin_steps or [])
        self.pin_every_n_steps = pin_every_n_steps
        self.restore_best = restore_best
        self.continues = True
        self.exported: str | None = None
        """The file that the best weights were exported to, when the run ended."""
        self.saved: dict[str, float | None] = {}
        """Paths of the checkpoints that are there, oldest first, and their metric."""
        self._pinned: set[str] = set()
        self._written: set[str] = set()
        self._stopped_early = False
        self._owes_validation = False  # whether the step of the newest checkpoint is still to be validated
        self._validated_step = 0

    @property
    def best(self) -> str | None:
        """The path of the best checkpoint so far; None before the first one that has the metric."""
        first = next(iter(self._ranked()), None)
        return None if first is None or math.isnan(self.saved[first] or 0.0) else first

    @property
    def newest(self) -> str | None:
        """The path of the newest checkpoint; None before the first."""
        return next(reversed(self.saved), None)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == 'fit':
            self.choose_monitor(getattr(pl_module, 'monitor', None))
            # Each rank has looked for a free folder by itself; that of rank 0 is the one which is there.
            self.folder = trainer.strategy.broadcast(self.folder or f'{trainer.log_dir or "."}/checkpoints')

    def state_dict(self) -> dict[str, Any]:
        names = {path.rpartition('/')[2]: score for path, score in self.saved.items()}
        pinned = [path.rpartition('/')[2] for path in self.saved if path in self._pinned]
        return {
            'saved': names,
            'pinned': pinned,
            'stopped_early': self._stopped_early,
            'owes_validation': self._owes_validation,
        }

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoints.put_best(checkpoint, None if self.best is None else self.best.rpartition('/')[2])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the checkpoints that are there. What a file says is no reason to delete any other: only plain files
        in this folder, under the names that `save` gives, are ever this run's."""
        foreign = []
        for name, score in state_dict['saved'].items() if self.continues else ():
            is_number = score is None or isinstance(score, int | float)
            if not isinstance(name, str) or checkpoints.written_step(name) is None or not is_number:
                foreign.append(name)
            elif self.folder is not None and _is_plain_file(path := self._path(name)):
                self.saved[path] = score
        if foreign:
            _note(
                f'the checkpoint names {len(foreign)} file(s) that no run writes, such as {str(foreign[0])[:80]!r}: '
                'they are left alone'
            )
        self._pinned |= {path for name in state_dict.get('pinned', []) if (path := self._path(str(name))) in self.saved}
        self._owes_validation = state_dict.get('owes_validation', False)

    def _path(self, name: str) -> str:
        return f'{str(self.folder).rstrip("/")}/{name}'

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = Run.of(trainer)
        run.owes_validation = self._owes_validation
        run.newest_checkpoint = self.newest

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if will_validate(trainer):
            return  # saved after it: whoever resumes from a checkpoint before it would not make up for it
        is_asked = bool(self.every_n_steps) and trainer.global_step % (self.every_n_steps or 1) == 0
        if is_asked or self._is_pinned(trainer.global_step):
            self.save(trainer)

    def _is_pinned(self, step: int) -> bool:
        every = self.pin_every_n_steps
        return step in self.pin_steps or (every is not None and step % every == 0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == 'fit' and not trainer.sanity_checking:
            # Whatever stops a run by its metrics has been asked by now: checkpoints come last.
            self._stopped_early = trainer.should_stop
            self._validated_step = trainer.global_step
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if is_done(trainer):  # at on_train_end averaged weights have taken the place of those that are trained
            self.save(trainer)

    def on_validation_cut(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.newest is None:  # the run has a new folder: what it owes must be known there
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best = trainer.strategy.broadcast(self.best)
        if self.restore_best and best is not None and not Run.of(trainer).status:
            self._restore_best(trainer, pl_module, Path(best))

    def _restore_best(self, trainer: L.Trainer, pl_module: L.LightningModule, best: Path) -> None:
        if any(isinstance(parameter, DTensor) for parameter in pl_module.parameters()):
            raise ValueError(
                f'checkpoint.restore_best cannot put weights back that are sharded over devices; {best} has them'
            )
        pl_module.load_state_dict(checkpoints.load(best).weights)
        if trainer.is_global_zero:
            output = best.with_name('best.safetensors')
            checkpoints.export(best, output, replace=True)
            self.exported = str(output)

    def save(self, trainer: L.Trainer) -> None:
        """Save where the run stands, under its step and, where it is known there, the metric."""
        run = Run.of(trainer)
        if run.is_trial:
            return
        for callback in own_callbacks(trainer):
            callback.before_save(trainer, trainer.lightning_module)
        if run.ended is not None and not run.ended.is_saved:
            return
        step = trainer.global_step
        score = None
        if self.monitor is not None and trainer.validating:
            score = trainer.callback_metrics.get(self.monitor)
        owed = self._owes_validation
        self._owes_validation = run.owes_validation = self._is_due(trainer)
        if self.newest and _step_of(self.newest) == step:
            if score is None and owed == self._owes_validation:
                return
            old = self.newest
            del self.saved[old]
        else:
            old = None
        value = None if score is None else float(score)
        metric = re.sub(r'[^\w.+-]', '_', self.monitor or '')
        name = f'step={step:07d}' + (f'-{metric}={value:.4f}' if value is not None else '')
        path = self._path(f'{name}.ckpt')
        self.saved[path] = value
        if self._is_pinned(step) or old in self._pinned:
            self._pinned.add(path)
        kept = self._kept()
        dropped = [known for known in self.saved if known not in kept] + ([old] if old and old != path else [])
        self.saved = {known: self.saved[known] for known in self.saved if known in kept}
        self._written.add(path)
        trainer.save_checkpoint(path)
        run.newest_checkpoint = path
        for known in dropped:
            self._drop(trainer, known)
        if trainer.validating and score is None:
            self.check_monitor(trainer.callback_metrics)

    def _drop(self, trainer: L.Trainer, path: str) -> None:
        """Delete a checkpoint that need not stay. Where that fails the run trains on: the newest one is saved."""
        try:
            if trainer.is_global_zero and path in self._written and os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)  # DeepSpeed writes folders
            else:
                trainer.strategy.remove_checkpoint(path)
        except OSError as error:
            _note(f'{path} could not be deleted ({error.strerror or error}); delete it yourself')

    def choose_monitor(self, monitor: Monitor | None) -> None:
        """Put a task's monitor in the place of `auto`; None: only the newest checkpoints stay."""
        if self.monitor == 'auto':
            self.monitor = None if monitor is None else monitor.name
        if self.mode == 'auto':
            self.mode = monitor.mode if monitor is not None and self.monitor == monitor.name else 'min'

    def check_monitor(self, names: Collection[str]) -> None:
        """Raise ValueError where the monitored metric is none of those that validation gives."""
        if self.monitor is not None and self.monitor not in names:
            there = ', '.join(sorted(names)) or 'none'
            raise ValueError(f'checkpoint.monitor is {self.monitor!r}, but validation gives {there}; name one, or null')

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Whether the step that was just made is still to be validated."""
        is_validation_step = getattr(trainer, 'is_validation_step', None)
        if is_validation_step is None or self._validated_step == trainer.global_step or not trainer.enable_validation:
            return False
        return is_validation_step(trainer.global_step)

    def _kept(self) -> set[str]:
        ranked = self._ranked()
        best = ranked if self.save_top_k == -1 else ranked[: self.save_top_k]
        return {*best, *list(self.saved)[-self.save_last_k :], *self._pinned.intersection(self.saved)}

    def _ranked(self) -> list[str]:
        """The paths of those that have the metric, the best first; one that is no number comes last."""
        scored = {path: score for path, score in self.saved.items() if score is not None}
        sign = -1 if self.mode == 'max' else 1
        return sorted(scored, key=lambda path: (math.isnan(scored[path]), sign * scored[path]))


def _is_plain_file(path: str) -> bool:
    """Whether there is a file, and no folder, nor a link to what lies elsewhere."""
    if '://' in path:
        return get_filesystem(path).isfile(path)
    return os.path.isfile(path) and not os.path.islink(path)


@rank_zero_only
def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _step_of(path: str) -> int:
    step = checkpoints.written_step(path.rpartition('/')[2])
    return -1 if step is None else step
