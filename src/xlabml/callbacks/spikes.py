"""What watches for losses that are far above those before them."""

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

from .documents import ReadDocuments, look_interval

LEAST_DEVIATION = 1e-3
"""Of the mean's size, or of 1 nat where that is smaller.

A window of equal losses (a batch by heart, a rate of 0) has no deviation, and any increase would be a spike. 6 of this
are 0.6 % of the loss, above what rounding it to bf16 does (0.4 %).
"""

SPIKED = 3
"""The status of a run that a loss spike ended."""


class Spikes(Callback):
    """Count loss spikes and write down what they had read; on request, end the run, with exit status 3.

    A spike is a step whose loss (over all ranks and micro-batches) is more than `sigma` standard deviations above the
    mean of the window_steps before it; a deviation below a thousandth of the mean (of 1 nat, where the mean is smaller)
    counts as that. A spike is in the window of the steps after it, so that a loss that stays on a
    new level is none for long. The losses stay on the device between two looks; a look takes the mean over the ranks of
    all that have come since, and reads them at once. A run that ends saves no checkpoint after the spike, so that
    `--ckpt_path last` with `--data.skip` takes it up before it.
    Source: the rolling window of 128 steps and 6 sigma are those of OLMo-core's SkipStepOptimizer,
    https://github.com/allenai/OLMo-core/blob/main/src/olmo_core/optim/skip_step_optimizer.py

    Args:
        action: none: do not look; warn: say it, count it, write `spikes.jsonl`; stop: end the run as well.
        sigma: How many standard deviations above the mean are a spike.
        window_steps: How many steps mean and deviation are of; half of them have to be there before one is judged.
        every_n_steps: Look at every so many steps, which waits for the device; None: at every one on a CPU, else where
            the curves are written (`trainer.log_every_n_steps`).

    Attributes:
        count: How many spikes there were, those before a resume too.
        stopped: The step whose spike ended the run; 0: none did.
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
        self._losses: list[Tensor] = []  # one a step since the last look, on the device
        self._part: Tensor | None = None  # of the step under way

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.action != 'none':
            n_steps = look_interval(self.every_n_steps, trainer, pl_module)
            self.documents.note(trainer.global_step + 1, batch, n_steps)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        if self.action == 'none':
            return
        loss = outputs['loss'].detach()
        self._part = loss if self._part is None else self._part + loss
        if not step_is_over(trainer):
            return
        self._losses.append(self._part)
        self._part = None
        if trainer.global_step % look_interval(self.every_n_steps, trainer, pl_module) == 0:
            self.look(trainer)

    def before_save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.look(trainer)

    def look(self, trainer: L.Trainer) -> None:
        """Judge the steps since the last look; all ranks have to."""
        if self._losses:
            losses = trainer.strategy.reduce(torch.stack(self._losses).float(), reduce_op='mean').tolist()
            self._losses = []
            first = trainer.global_step - len(losses) + 1
            found = {first + i: figures for i, loss in enumerate(losses) if (figures := self._judge(loss))}
            if found:
                self._tell(trainer, found)

    def _judge(self, loss: float) -> dict[str, float]:
        """What to say of a spike; {} where it is none. A loss that is no number is another guard's business."""
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
                    f'loss spike at step {step}: {figures["loss"]:.4f}, where the steps before had '
                    f'{figures["mean"]:.4f} ± {figures["deviation"]:.4f}; {self.path} names its documents',
                    file=sys.stderr,
                )
        if self.action == 'stop':
            self.stopped = min(found)
            Run.of(trainer).end(SPIKED, 'a loss spike', is_saved=False)

    def state_dict(self) -> dict[str, Any]:
        return {'window': list(self.window), 'count': self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.window.extend(state_dict['window'])
        self.count = state_dict['count']
