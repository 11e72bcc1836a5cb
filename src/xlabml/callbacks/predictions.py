"""The task's predictions, one line per document."""

import json
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import torch

from xlabml import artifacts
from xlabml.engine import Callback, DocumentParts, Run, Task
from xlabml.engine.gather import RankGather


class Predictions(Callback):
    """Write the task's prediction for every document of `data.predict_split`, as JSON lines.

    The values of a document's parts are summed over rows, batches and devices. The file is `predictions.jsonl` in the
    run's folder, or the next free name beside it.

    Attributes:
        path: The file, once it is written.
        n_documents: Number of its lines.
        n_counted: The sum of the documents' `count`, where the task has one.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.n_documents = 0
        self.n_counted = 0
        self._names: list[str] = []
        self._parts: list[np.ndarray] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._parts = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: DocumentParts, *_: object
    ) -> None:
        self._names = list(outputs.values)
        columns = [outputs.documents, *outputs.values.values()]
        part = torch.stack([column.cpu().double() for column in columns], dim=1).numpy()
        self._parts.append(part[part[:, 0] >= 0])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        own = np.concatenate([*self._parts, np.zeros((0, 1 + len(self._names)))])
        parts = np.concatenate(RankGather(trainer).everything(own))
        if not trainer.is_global_zero:
            return
        documents, where = np.unique(parts[:, 0].astype(np.int64), return_inverse=True)
        totals = np.zeros((len(documents), len(self._names)))
        np.add.at(totals, where, parts[:, 1:])
        self.n_documents = len(documents)
        self.n_counted = int(totals[:, self._names.index('count')].sum()) if 'count' in self._names else 0
        folder = Run.of(trainer).output_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = _free(folder / 'predictions.jsonl')
        task = Task.of(pl_module)
        with artifacts.replacing(path) as written, written.open('w', encoding='utf-8') as file:
            for document, values in zip(documents.tolist(), totals.tolist()):
                name = Run.of(trainer).data.document_id(document)
                file.write(json.dumps({'id': name, **task.merge(dict(zip(self._names, values)))}) + '\n')
        self.path = path


def _free(path: Path) -> Path:
    """The path itself, or the first of path-2, path-3 … that does not exist."""
    free = path
    n = 1
    while free.exists():
        n += 1
        free = path.with_stem(f'{path.stem}-{n}')
    return free
