"""Record the documents of the last steps, for guards to write to a file."""

import json
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as L
from torch import Tensor

from xlabml.engine import Run


class ReadDocuments:
    """The documents of the last steps, as tensors of their batches; `write` copies them from the device."""

    def __init__(self) -> None:
        self._read: deque[tuple[int, Tensor | None]] = deque()

    def note(self, step: int, batch: object, n_steps: int) -> None:
        """Record a micro-batch, and drop those n_steps or more before its step (counted from 1)."""
        self._read.append((step, getattr(batch, 'documents', None)))
        while self._read[0][0] <= step - n_steps:
            self._read.popleft()

    def write(
        self, trainer: L.Trainer, name: str, steps: Mapping[int, Mapping[str, object]], append: bool = False
    ) -> Path:
        """Write values and documents of these steps to `name.jsonl`, one line per micro-batch.

        Each rank has its own file. A failure to write does not change how the run ends.
        """
        folder = Path(trainer.strategy.broadcast(str(Run.of(trainer).output_folder())))
        rank = f'-{trainer.global_rank}' if trainer.world_size > 1 else ''
        path = folder / f'{name}{rank}.jsonl'
        lines = []
        for step, documents in self._read:
            if step in steps:
                ids = [] if documents is None else sorted({int(i) for i in documents.tolist()} - {-1})
                lines.append(json.dumps({'step': step, **steps[step], 'documents': ids}) + '\n')
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open('a' if append else 'w', encoding='utf-8') as file:
                file.writelines(lines)
        except OSError as error:
            print(f'{path} could not be written: {error.strerror or error}', file=sys.stderr, flush=True)
        return path


def check_interval(every_n_steps: int | None, trainer: L.Trainer, pl_module: L.LightningModule) -> int:
    """Steps between checks: as set; by default 1 on a CPU, else those of the curves, since a check synchronizes."""
    if every_n_steps is not None or pl_module.device.type == 'cpu':
        return every_n_steps or 1
    return max(1, Run.of(trainer).log_every_n_steps)
