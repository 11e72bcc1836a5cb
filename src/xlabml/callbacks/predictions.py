"""The task's predictions, one line per document."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from jaxtyping import Int64

from xlabml.artifacts import tables
from xlabml.engine import Callback, DocumentParts, Run, Task
from xlabml.engine.gather import RankGather
from xlabml.errors import SettingsError


class Predictions(Callback):
    """Write the task's prediction for every document of `data.predict_split`.

    The values of a document's parts are summed over rows, batches and devices.

    Args:
        output: The file: JSON lines (.jsonl), .csv or .parquet, by the ending of its name. None: `predictions.jsonl` in
            the run's folder, or the next free name beside it.
        id: The column of the sources whose value names a document; None: its row, and its source where there are
            several.
        columns: The columns that are written, by their names in the file: each is one of those of CSV, as in
            {winner_model_a: probabilities.a}; the id stands before them. None: all.

    Attributes:
        path: The file, once it is written.
        n_documents: Number of its lines.
        n_counted: The sum of the documents' `count`, where the task has one.

    Raises:
        SettingsError: The name of the file has another ending.
    """

    def __init__(self, output: str | None = None, id: str | None = None, columns: dict[str, str] | None = None) -> None:
        if output is not None:
            tables.check_ending(output, 'predictions.output')
        self.output = output
        self.id = id
        self.columns = columns
        self.path: Path | None = None
        self.n_documents = 0
        self.n_counted = 0
        self._names: list[str] = []
        self._parts: list[np.ndarray] = []
        self._ids: dict[int, Any] | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._parts = []
        if self.output is not None and Path(self.output).exists():
            raise SettingsError(
                f'predictions.output is {self.output}, which is there already; delete it, or name another'
            )
        if self.id is not None and trainer.is_global_zero:
            data = Run.of(trainer).data
            documents = data.texts.corpus.documents(data.predict_split)
            self._ids = data.texts.column(self.id, documents)

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
        path = self._choose_path(trainer)
        columns = None if self.columns is None else {'id': 'id', **self.columns}
        tables.write_rows(path, self._rows(trainer, Task.of(pl_module), documents, totals), columns)
        self.path = path

    def _choose_path(self, trainer: L.Trainer) -> Path:
        if self.output is not None:
            path = Path(self.output)
            path.parent.mkdir(parents=True, exist_ok=True)
            return path
        folder = Run.of(trainer).output_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return _free(folder / 'predictions.jsonl')

    def _rows(
        self, trainer: L.Trainer, task: Task, documents: Int64[np.ndarray, ' d'], totals: np.ndarray
    ) -> Iterator[dict[str, Any]]:
        data = Run.of(trainer).data
        for document, values in zip(documents.tolist(), totals.tolist()):
            name = data.document_id(document) if self._ids is None else self._ids[document]
            yield {'id': name, **task.merge(dict(zip(self._names, values)))}


def _free(path: Path) -> Path:
    """The path itself, or the first of path-2, path-3 … that does not exist."""
    free = path
    n = 1
    while free.exists():
        n += 1
        free = path.with_stem(f'{path.stem}-{n}')
    return free
