"""When checkpoints are saved, and which are kept."""

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

    Always at the end of an optimizer step. The best, newest and pinned checkpoints are kept, the others deleted.
    Nothing is saved after a loss spike that ends the run: the newest checkpoint is from before it.

    Args:
        folder: Folder of the checkpoints, for this run only; None: `checkpoints` in the run's folder.
        monitor: The metric that ranks checkpoints; `auto`: the task's; None: keep only the newest.
        mode: Whether a smaller or a larger metric is better; `auto`: as the task says, min by default.
        save_top_k: Number of the best checkpoints to keep; -1: all.
        save_last_k: Number of the newest checkpoints to keep, at least 1.
        every_n_steps: Save every n steps as well; None: after validations only.
        pin_steps: Save at these steps as well, and never delete those checkpoints.
        pin_every_n_steps: The same every n steps.
        restore_best: Whether the best weights are restored when the run finishes, and exported to `best.safetensors`
            beside the checkpoints; `last` stays the newest checkpoint.

    Attributes:
        continues: Whether the folder is that of the resumed run: only then do the checkpoints that the loaded one lists
            belong to this run, which deletes them in turn.
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
        """Paths of the existing checkpoints, oldest first, and their metric."""
        self._pinned: set[str] = set()
        self._written: set[str] = set()
        self._stopped_early = False
        self._owes_validation = False  # whether the step of the newest checkpoint must still be validated
        self._validated_step = 0

    @property
    def best(self) -> str | None:
        """The path of the best checkpoint so far; None before the first one with the metric."""
        first = next(iter(self._ranked()), None)
        return None if first is None or math.isnan(self.saved[first] or 0.0) else first

    @property
    def newest(self) -> str | None:
        """The path of the newest checkpoint; None before the first."""
        return next(reversed(self.saved), None)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == 'fit':
            self.choose_monitor(getattr(pl_module, 'monitor', None))
            # Each rank has chosen a free folder by itself; rank 0's is the one that exists.
            self.folder = trainer.strategy.broadcast(self.folder or f'{trainer.log_dir or "."}/checkpoints')

    def state_dict(self) -> dict[str, object]:
        names = {path.rpartition('/')[2]: score for path, score in self.saved.items()}
        pinned = [path.rpartition('/')[2] for path in self.saved if path in self._pinned]
        return {
            'saved': names,
            'pinned': pinned,
            'stopped_early': self._stopped_early,
            'owes_validation': self._owes_validation,
        }

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        checkpoints.put_best(checkpoint, None if self.best is None else self.best.rpartition('/')[2])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Adopt the listed checkpoints that exist. A checkpoint must not make us delete other files: only plain files
        in this folder, with names as `save` makes them, are adopted."""
        foreign = []
        for name, score in state_dict['saved'].items() if self.continues else ():
            is_number = score is None or isinstance(score, int | float)
            if not isinstance(name, str) or checkpoints.written_step(name) is None or not is_number:
                foreign.append(name)
            elif self.folder is not None and _is_plain_file(path := self._path(name)):
                self.saved[path] = score
        if foreign:
            _note(
                f'the checkpoint lists {len(foreign)} file(s) that no run writes, such as {str(foreign[0])[:80]!r}: '
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
            return  # saved after the validation, which a run resumed from an earlier checkpoint would not make up
        is_asked = bool(self.every_n_steps) and trainer.global_step % (self.every_n_steps or 1) == 0
        if is_asked or self._is_pinned(trainer.global_step):
            self.save(trainer)

    def _is_pinned(self, step: int) -> bool:
        every = self.pin_every_n_steps
        return step in self.pin_steps or (every is not None and step % every == 0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == 'fit' and not trainer.sanity_checking:
            # Checkpoints are the last callback: those that stop a run by its metrics have run by now.
            self._stopped_early = trainer.should_stop
            self._validated_step = trainer.global_step
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if is_done(trainer):  # not in on_train_end, where averaged weights have replaced the trained ones
            self.save(trainer)

    def on_validation_cut(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.newest is None:  # the run has a new folder, which must record the interrupted validation
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best = trainer.strategy.broadcast(self.best)
        if self.restore_best and best is not None and not Run.of(trainer).status:
            self._restore_best(trainer, pl_module, Path(best))

    def _restore_best(self, trainer: L.Trainer, pl_module: L.LightningModule, best: Path) -> None:
        if any(isinstance(parameter, DTensor) for parameter in pl_module.parameters()):
            raise ValueError(
                f'checkpoint.restore_best cannot restore weights that are sharded over devices; {best} has them'
            )
        pl_module.load_state_dict(checkpoints.load(best).weights)
        if trainer.is_global_zero:
            output = best.with_name('best.safetensors')
            checkpoints.export(best, output, replace=True)
            self.exported = str(output)

    def save(self, trainer: L.Trainer) -> None:
        """Save a checkpoint, named by its step and, where it is known, the metric."""
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
        """Delete a checkpoint that is not kept. A failure does not end the run: the newest checkpoint is saved."""
        try:
            if trainer.is_global_zero and path in self._written and os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)  # DeepSpeed writes folders
            else:
                trainer.strategy.remove_checkpoint(path)
        except OSError as error:
            _note(f'{path} could not be deleted ({error.strerror or error}); delete it yourself')

    def choose_monitor(self, monitor: Monitor | None) -> None:
        """Replace `auto` by a task's monitor; None: keep only the newest checkpoints."""
        if self.monitor == 'auto':
            self.monitor = None if monitor is None else monitor.name
        if self.mode == 'auto':
            self.mode = monitor.mode if monitor is not None and self.monitor == monitor.name else 'min'

    def check_monitor(self, names: Collection[str]) -> None:
        """Raise ValueError where validation has no metric of the monitored name."""
        if self.monitor is not None and self.monitor not in names:
            there = ', '.join(sorted(names)) or 'none'
            raise ValueError(
                f'checkpoint.monitor is {self.monitor!r}, but validation reports {there}; name one, or null'
            )

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Whether the last step must still be validated."""
        is_validation_step = getattr(trainer, 'is_validation_step', None)
        if is_validation_step is None or self._validated_step == trainer.global_step or not trainer.enable_validation:
            return False
        return is_validation_step(trainer.global_step)

    def _kept(self) -> set[str]:
        ranked = self._ranked()
        best = ranked if self.save_top_k == -1 else ranked[: self.save_top_k]
        return {*best, *list(self.saved)[-self.save_last_k :], *self._pinned.intersection(self.saved)}

    def _ranked(self) -> list[str]:
        """The paths of checkpoints with the metric, the best first, NaN last."""
        scored = {path: score for path, score in self.saved.items() if score is not None}
        sign = -1 if self.mode == 'max' else 1
        return sorted(scored, key=lambda path: (math.isnan(scored[path]), sign * scored[path]))


def _is_plain_file(path: str) -> bool:
    """Whether the path is a file, neither a folder nor a link."""
    if '://' in path:
        return get_filesystem(path).isfile(path)
    return os.path.isfile(path) and not os.path.islink(path)


@rank_zero_only
def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _step_of(path: str) -> int:
    step = checkpoints.written_step(path.rpartition('/')[2])
    return -1 if step is None else step
