"""The guard against loss spikes."""

import math
import sys
from collections import deque
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from xlabml.engine import Callback, Run, step_is_over

from .documents import ReadDocuments, check_interval

LEAST_DEVIATION = 1e-3
"""Minimum standard deviation, relative to the mean, or to 1 nat where that is larger.

A window of equal losses (a memorised batch, a learning rate of 0) has no deviation, so any increase would be a spike.
6 of these are 0.6 % of the loss, above the error of rounding to bf16 (0.4 %).
"""

SPIKED = 3
"""The exit status of a run that a loss spike ended."""


class Spikes(Callback):
    """Count loss spikes and write their documents to a file; optionally end the run, with exit status 3.

    A spike is a step whose loss (over all ranks and micro-batches) is more than `sigma` standard deviations above the
    mean of the window_steps before it. The deviation is at least a thousandth of the mean (of 1 nat, where the mean is
    smaller). A spike enters the window of later steps, so that a loss that stays on a new level is soon no spike.
    Losses stay on the device between checks; a check averages them over the ranks and reads them at once. A run that is
    ended saves no checkpoint after the spike, so that `--ckpt_path last` with `--data.skip` resumes before it.
    Source: window of 128 steps and 6 sigma: OLMo-core's SkipStepOptimizer,
    https://github.com/allenai/OLMo-core/blob/main/src/olmo_core/optim/skip_step_optimizer.py

    Args:
        action: none: no checks; warn: report and count spikes, write `spikes.jsonl`; stop: end the run as well.
        sigma: Threshold in standard deviations above the mean.
        window_steps: Number of steps of mean and deviation; checks begin when half of them are there.
        every_n_steps: Check every n steps, with a device synchronization; None: every step on a CPU, else at rows of
            the curves (`trainer.log_every_n_steps`).

    Attributes:
        count: Number of spikes, those before a resume included.
        stopped: The step whose spike ended the run; 0: none.
    """

    def __init__(
        self,
        action: Literal['none', 'warn', 'stop'] = 'none',
        sigma: float = 6.0,
        window_steps: int = 128,
        every_n_steps: int | None = None,
    ) -> None:
        if action not in ('none', 'warn', 'stop'):
            raise ValueError(f"spikes.action is {action!r}; it must be 'none', 'warn' or 'stop'")
        if sigma <= 0:
            raise ValueError(f'spikes.sigma is {sigma}; it must be above 0')
        for name, value, least in (('window_steps', window_steps, 4), ('every_n_steps', every_n_steps, 1)):
            if value is not None and value < least:
                raise ValueError(f'spikes.{name} is {value}; it must be at least {least}')
        self.action = action
        self.sigma = sigma
        self.every_n_steps = every_n_steps
        self.window: deque[float] = deque(maxlen=window_steps)
        self.count = self.stopped = 0
        self.path: Path | None = None
        self.documents = ReadDocuments()
        self._losses: list[Tensor] = []  # one per step since the last check, on the device
        self._part: Tensor | None = None  # of the current step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if self.action != 'none':
            n_steps = check_interval(self.every_n_steps, trainer, pl_module)
            self.documents.note(trainer.global_step + 1, batch, n_steps)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: object) -> None:
        if self.action == 'none':
            return
        loss = outputs['loss'].detach()
        self._part = loss if self._part is None else self._part + loss
        if not step_is_over(trainer):
            return
        self._losses.append(self._part)
        self._part = None
        if trainer.global_step % check_interval(self.every_n_steps, trainer, pl_module) == 0:
            self.check(trainer)

    def before_save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.check(trainer)

    def check(self, trainer: L.Trainer) -> None:
        """Check the steps since the last check; call it on all ranks."""
        if self._losses:
            losses = trainer.strategy.reduce(torch.stack(self._losses).float(), reduce_op='mean').tolist()
            self._losses = []
            first = trainer.global_step - len(losses) + 1
            found = {first + i: figures for i, loss in enumerate(losses) if (figures := self._judge(loss))}
            if found:
                self._tell(trainer, found)

    def _judge(self, loss: float) -> dict[str, float]:
        """The figures of a spike; {} if the loss is none. Losses that are not finite are left to NonFinite."""
        found: dict[str, float] = {}
        if not math.isfinite(loss):
            return found
        if len(self.window) >= (self.window.maxlen or 0) // 2:
            mean = float(np.mean(self.window))
            deviation = max(float(np.std(self.window, ddof=1)), LEAST_DEVIATION * max(1.0, abs(mean)))
            if loss > mean + self.sigma * deviation:
                found = {'loss': loss, 'mean': mean, 'deviation': deviation}
        self.window.append(loss)
        return found

    def _tell(self, trainer: L.Trainer, found: dict[int, dict[str, float]]) -> None:
        self.count += len(found)
        self.path = self.documents.write(trainer, 'spikes', found, append=True)
        if trainer.is_global_zero:
            for step, figures in found.items():
                print(
                    f'loss spike at step {step}: {figures["loss"]:.4f}, after {figures["mean"]:.4f} ± '
                    f'{figures["deviation"]:.4f} in the steps before; {self.path} lists its documents',
                    file=sys.stderr,
                )
        if self.action == 'stop':
            self.stopped = min(found)
            Run.of(trainer).end(SPIKED, 'a loss spike', is_saved=False)

    def state_dict(self) -> dict[str, object]:
        return {'window': list(self.window), 'count': self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.window.extend(state_dict['window'])
        self.count = state_dict['count']
