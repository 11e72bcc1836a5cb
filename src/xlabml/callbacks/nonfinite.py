"""What watches for losses and gradients that are no numbers."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import lightning.pytorch as L


class NonFinite(L.Callback):
    """End a run whose loss or gradient was not finite for several steps in a row, and write down what it had read.

    The task skips each such step: no weight and no state of the optimizer changes, the schedule and the data go on.

    Args:
        max_in_row: So many skipped steps in a row end the run, at least 1.
        every_n_steps: Look at every so many steps, which waits for the device; None: at every one on a CPU, else where
            the curves are written (`trainer.log_every_n_steps`).
    """

    def __init__(self, max_in_row: int = 10, every_n_steps: int | None = None) -> None:
        for name, value in {'max_in_row': max_in_row, 'every_n_steps': every_n_steps}.items():
            if value is not None and value < 1:
                raise ValueError(f'nonfinite.{name} is {value}; it must be at least 1')
        self.max_in_row, self.every_n_steps = max_in_row, every_n_steps
        self._read: deque[tuple[int, Any]] = deque()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._read.append((trainer.global_step + 1, getattr(batch, 'documents', None)))
        oldest = trainer.global_step + 1 - self.max_in_row - self._interval(trainer, pl_module)
        while self._read[0][0] <= oldest:
            self._read.popleft()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate() or trainer.global_step % self._interval(trainer, pl_module):
            return
        in_row = int(pl_module.skipped[0])  # type: ignore[index]
        if in_row >= self.max_in_row:
            path = self._write(trainer, in_row)
            raise ValueError(
                f'the loss or the gradient was not finite for {in_row} steps in a row, up to step '
                f'{trainer.global_step}; {path} names the documents that they read. Look at these, or lower the '
                'learning rate, and go on from the newest checkpoint; nonfinite.max_in_row says when to give up'
            )

    def _interval(self, trainer: L.Trainer, pl_module: L.LightningModule) -> int:
        if self.every_n_steps is not None or pl_module.device.type == 'cpu':
            return self.every_n_steps or 1
        return max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def _write(self, trainer: L.Trainer, in_row: int) -> Path:
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        rank = f'-{trainer.global_rank}' if trainer.world_size > 1 else ''
        path = folder / f'nonfinite{rank}.jsonl'
        folder.mkdir(parents=True, exist_ok=True)
        with path.open('w', encoding='utf-8') as file:
            for step, documents in self._read:
                if step > trainer.global_step - in_row:
                    ids = [] if documents is None else sorted({int(i) for i in documents.tolist()} - {-1})
                    file.write(json.dumps({'step': step, 'documents': ids}) + '\n')
        return path
