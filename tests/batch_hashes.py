"""A callback that writes down what every batch of a run holds, as hashes, whatever names the batch has for it."""

import hashlib
import json
from pathlib import Path

import lightning.pytorch as L
import torch

HASHES = '{class_path: batch_hashes.BatchHashes}'
"""The callback as it is typed in a list of them."""


class BatchHashes(L.Callback):
    """Write a line of JSON a micro-batch: its step, and the hash of each of its parts.

    The file is `rank-N.jsonl` in trainer.default_root_dir.
    """

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._write(trainer, batch, 'train')

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self._write(trainer, batch, 'val')

    def _write(self, trainer, batch, split):
        step = trainer.global_step + (split == 'train')  # a step is named by its number once it is made
        line = {'split': split, 'step': step, **hash_batch(batch)}
        with (Path(trainer.default_root_dir) / f'rank-{trainer.global_rank}.jsonl').open('a') as file:
            file.write(json.dumps(line) + '\n')


def read_hashes(folder):
    """The lines of all ranks, as `BatchHashes` wrote them, rank by rank."""
    paths = sorted(Path(folder).glob('rank-*.jsonl'))
    return [{'rank': path.stem, **json.loads(line)} for path in paths for line in path.read_text().splitlines()]


def hash_batch(batch):
    """The parts of a batch by name, as hashes; numbers of any integer type are the same numbers."""
    targets, layout = batch.targets, batch.layout
    parts = {
        'ids': batch.ids,
        'documents': batch.documents,
        'targets': getattr(targets, 'ids', targets),
        'starts': layout.starts,
        'n_bytes': getattr(batch, 'n_bytes', None) if hasattr(batch, 'n_bytes') else targets.n_bytes,
        'n_counted': torch.tensor(int(getattr(batch, 'n_counted', None) or getattr(batch, 'n_targets', 0))),
        'seed': torch.tensor(int(batch.seed)),
    }
    return {name: _hash(tensor) for name, tensor in parts.items()}


def _hash(tensor):
    digest = hashlib.sha256(str(list(tensor.shape)).encode())
    digest.update(tensor.detach().cpu().to(torch.int64).contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
