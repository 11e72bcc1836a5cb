"""Checkpoint files of the trainer: plain values, written atomically, local or remote."""

import contextlib
import os
from pathlib import Path
from typing import Any

import fsspec
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from xlabml import artifacts, checkpoints
from xlabml.untrusted.building import naming


class CheckpointIO(TorchCheckpointIO):
    """Checkpoints of plain values with checksums, written atomically: by a rename, or in a remote transaction."""

    def __init__(self) -> None:
        super().__init__()
        self._written: set[str] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: _PATH, storage_options: object | None = None
    ) -> None:
        self._written.add(str(path))
        if '://' not in str(path):
            checkpoints.write(checkpoint, Path(path))
            return
        files, remote = fsspec.core.url_to_fs(str(path))
        files.makedirs(remote.rpartition('/')[0], exist_ok=True)
        with files.transaction, files.open(remote, 'wb') as file:  # streamed; Lightning would copy it twice in memory
            checkpoints.dump(checkpoint, file)

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Any = None,  # as in Lightning, which passes more kinds than we use
        weights_only: bool | None = None,
    ) -> dict[str, object]:
        if '://' in str(path):
            with artifacts.scratch() as folder:
                files, remote = fsspec.core.url_to_fs(str(path))
                files.get_file(remote, f'{folder}/fetched.ckpt')
                return checkpoints.read(f'{folder}/fetched.ckpt', map_location)
        return checkpoints.read(Path(path), map_location)

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove a checkpoint file of a run, or one that this object has written, such as those of Lightning's
        ModelCheckpoint; anything with another name, folders and links are refused or left."""
        folder, _, name = str(path).rpartition('/')
        if checkpoints.written_step(name) is None and str(path) not in self._written:
            raise ValueError(f'{path} is not a checkpoint that fit has written, and is not removed')
        if '://' in folder:
            files = get_filesystem(path)
            if files.isfile(str(path)):
                files.rm(str(path), recursive=False)
        elif os.path.isfile(path) and not os.path.islink(path):
            os.unlink(path)


class Restoring(_CheckpointConnector):
    """Names the file in errors where something in a checkpoint cannot be restored."""

    def _restore_modules_and_callbacks(
        self, checkpoint_path: _PATH | None = None, weights_only: bool | None = None
    ) -> None:
        with naming(checkpoint_path, 'cannot be restored') if checkpoint_path else contextlib.nullcontext():
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        with naming(self._ckpt_path, 'cannot be restored') if self._ckpt_path else contextlib.nullcontext():
            super().restore_training_state()
