"""One line a document: what it costs the model."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch

from xlabml import artifacts
from xlabml.evaluation import summarize


class Predictions(L.Callback):
    """Write id, tokens, nats and bits per byte of every document of `data.predict_split`, as JSON lines.

    A document's parts are added up over rows, batches and devices. The file is `predictions.jsonl` in the run's
    folder, or the next free name beside it.

    Args:
        folder: Where the file goes; None: where the trainer logs.

    Attributes:
        path: The file, once it is written.
        n_documents: How many lines it has.
        n_tokens: How many targets they count.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.path: Path | None = None
        self.n_documents = self.n_tokens = 0
        self._parts: list[np.ndarray] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._parts = []

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        columns = [outputs.documents, outputs.n_tokens, outputs.nats, outputs.n_bytes]
        part = torch.stack([column.cpu().double() for column in columns], dim=1).numpy()
        self._parts.append(part[part[:, 0] >= 0])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parts = np.concatenate([*self._parts, np.zeros((0, 4))])
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = np.concatenate(gathered)
        if not trainer.is_global_zero:
            return
        documents, where = np.unique(parts[:, 0].astype(np.int64), return_inverse=True)
        sums = np.zeros((len(documents), 3))
        np.add.at(sums, where, parts[:, 1:])
        self.n_documents, self.n_tokens = len(documents), int(sums[:, 0].sum())
        folder = self.folder or Path(trainer.log_dir or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = _free(folder / 'predictions.jsonl')
        with artifacts.replacing(path) as written, written.open('w', encoding='utf-8') as file:
            for document, (count, nats, n_bytes) in zip(documents.tolist(), sums.tolist()):
                figures = summarize({'nats': nats, 'correct': 0.0, 'count': count, 'n_bytes': n_bytes})
                row = {
                    'id': trainer.datamodule.document_id(document),  # type: ignore[attr-defined]
                    'tokens': int(count),
                    'nats': round(nats, 6),
                    'bits_per_byte': round(figures['bits_per_byte'], 6),
                }
                file.write(json.dumps(row) + '\n')
        self.path = path


def _free(path: Path) -> Path:
    """The path itself, or the first of path-2, path-3 … that is not there."""
    free, n = path, 1
    while free.exists():
        n += 1
        free = path.with_stem(f'{path.stem}-{n}')
    return free
