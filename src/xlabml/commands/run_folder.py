"""The folder of a run: chosen, made, given up where nothing came of it; and the settings that are kept in it."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml import checkpoints


class RunFolder:
    """The folder of the checkpoint's run where this goes on with it, else a new one, made at once.

    Args:
        logs: The folder of all runs.
        command: What is to be done; None: nothing that the command line names.
        path: The checkpoint's file, if there is one.
        checkpoint: What it holds.

    Attributes:
        path: The folder.
        is_new: Whether this process has made it.
    """

    def __init__(
        self, logs: Path, command: str | None, path: Path | None = None, checkpoint: dict[str, Any] | None = None
    ) -> None:
        self.is_new = False
        if path is not None and checkpoint is not None:
            run = path.parent.parent if path.parent.name == 'checkpoints' else Path(checkpoint.get('run_folder', ''))
            goes_on = command != 'fit' or checkpoints.find_newest(path.parent).samefile(path)
            if goes_on and run.name.startswith('version_') and run.is_dir():
                self.path = run
                return
        taken = [int(folder.name[8:]) for folder in logs.glob('version_*') if folder.name[8:].isdecimal()]
        version = max(taken, default=-1) + 1
        while getattr(rank_zero_only, 'rank', 0) == 0:
            try:
                (logs / f'version_{version}').mkdir(parents=True)
                self.is_new = True
                break
            except FileExistsError:
                version += 1
        self.path = logs / f'version_{version}'

    def give_up(self) -> None:
        """Remove what this process has made, if no checkpoint came of it."""
        if self.is_new and not any(self.path.glob('checkpoints/*')):
            shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()  # `logs`, where it is empty


class SavedSettings(L.Callback):
    """Keep the run's settings: in its folder, and in its checkpoints, so that a resume without them is the same run.

    Args:
        text: The resolved settings, as YAML.
        folder: The run's.
    """

    def __init__(self, text: str, folder: Path) -> None:
        self.text, self.folder = text, folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the settings; beside those of an earlier start, where they differ."""
        path, n = self.folder / 'config.yaml', 1
        while path.exists() and path.read_text(encoding='utf-8') != self.text:
            n += 1
            path = self.folder / f'config-{n}.yaml'
        if trainer.is_global_zero:
            path.write_text(self.text, encoding='utf-8')

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint['config'] = yaml.safe_load(self.text)
        checkpoint['run_folder'] = str(self.folder.absolute())
