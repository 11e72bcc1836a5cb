"""The folder of a run: found, made, given up where nothing came of it; and the settings that are kept in it.

A run has a number of its own, in the file `run_id` of its folder and in its checkpoints. A checkpoint belongs to the
run where it lies: in that folder's `checkpoints`, or in the `checkpoint.folder` that the settings there name. A copy
anywhere else belongs to no run, whatever it says of itself.
"""

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as L
import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml import artifacts, checkpoints
from xlabml.checkpoints import Saved
from xlabml.telemetry import records

from .errors import UsageError
from .files import read_settings
from .finding import Found, is_newest, is_same_folder, lies_in

_ID = 'run_id'


class Choice(NamedTuple):
    """Which run a command belongs to.

    Args:
        run: The folder of the run that is resumed or evaluated; None: a new one is opened.
        folder: What `checkpoint.folder` is to be for it to be resumed; None: as the settings say.
        why_new: Why a checkpoint's own run is not it, for people.
    """

    run: Path | None
    folder: str | None = None
    why_new: str = ''


def choose_run(
    found: Found, checkpoint: checkpoints.Contents, command: str, root: Path, root_is_typed: bool, folder: str | None
) -> Choice:
    """Whether a command belongs to the run of a checkpoint.

    Training resumes a run from its newest checkpoint only, where its checkpoints lie: anything else is a branch, and
    would overwrite what the run has. Evaluations belong to the run of any checkpoint that lies there.

    Args:
        root: The folder that holds `logs`.
        root_is_typed: Whether the user has named it.
        folder: `checkpoint.folder`, as the user has typed it.
    """
    run = find_run(found, checkpoint, root)
    lies = lies_in(found)
    if run is None or lies is None:
        return Choice(None, why_new=f'{found.name} does not lie in the folder of its run, which stays as it is')
    if root_is_typed and not is_same_folder(root / 'logs', run.parent):
        return Choice(None, why_new=f'trainer.default_root_dir is {root}, and {run} stays as it is')
    if command != 'fit':
        return Choice(run)
    if folder is not None and not is_same_folder(folder, lies):
        return Choice(None, why_new=f'checkpoint.folder is {folder}, and {run} stays as it is')
    if not is_newest(found):
        return Choice(None, why_new=f'{found.name} is not the newest checkpoint of {run}, which stays as it is')
    is_own = not isinstance(lies, str) and is_same_folder(run / 'checkpoints', lies)
    return Choice(run, folder or (None if is_own else str(lies)))


def find_run(found: Found, checkpoint: checkpoints.Contents, root: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to; None where it lies elsewhere: a copy, a link, a download.

    Args:
        found: The checkpoint's file.
        checkpoint: What it holds. The folder that it names is only compared: whether that is its run is said by the
            files there.
        root: The folder that holds `logs`, where else the run may be.
    """
    folder = lies_in(found)
    if folder is None:
        return None
    candidates = []
    is_link = False
    if not isinstance(folder, str):
        candidates.append(folder.parent if folder.parent.name not in ('', '..') else folder.parent.resolve())
        # A run's `checkpoints` may be a link to another disk; a link from anywhere else is no place of the run's.
        is_link = folder.is_symlink() and not (folder.name == 'checkpoints' and _is_of(candidates[0], checkpoint))
    if named := checkpoint.run.folder:
        # Where several runs keep their checkpoints in one place, as a copy and its original may, it is the one named.
        candidates.insert(0 if isinstance(folder, str) or folder.is_symlink() else 1, Path(named))
    candidates += sorted(root.glob('logs/version_*'))  # the run was moved
    return next((run for run in candidates if _keeps_in(run, folder, is_link) and _is_of(run, checkpoint)), None)


def _keeps_in(run: Path, folder: Path | str, is_link: bool) -> bool:
    """Whether the checkpoints of a run go to a folder, or a URL."""
    if not isinstance(folder, str) and not is_link and is_same_folder(run / 'checkpoints', folder):
        return True
    for config in _configs(run):
        saver = config.get('checkpoint')
        named = saver.get('folder') if isinstance(saver, dict) else None
        # One that is relative was so to where the command was typed: in most cases the folder that holds `logs`.
        if isinstance(named, str) and any(is_same_folder(at, folder) for at in (named, run.parent.parent / named)):
            return True
    return False


def _is_of(run: Path, checkpoint: checkpoints.Contents) -> bool:
    """Whether a checkpoint was written by the run in a folder.

    One from before runs had numbers holds the settings that the folder has, and was written there or where nothing is
    any more, since the run was moved. An exported file says of no run, and is resumed by none: it is where it lies.
    """
    there = read_id(run)
    known = checkpoint.run.id
    if checkpoint.is_export:
        return there is not None or (run / records.EVENTS).exists()
    if there is not None and known is not None:
        return there == known
    named = checkpoint.run.folder
    if named is None or (os.path.exists(named) and not is_same_folder(named, run)):
        return False
    return any(config == checkpoint.run.settings for config in _configs(run))


def _configs(run: Path) -> Iterator[dict[str, object]]:
    for path in sorted(run.glob('config*.yaml')) if os.path.isdir(run) else ():
        if path.is_file():  # a pipe would be waited for
            with contextlib.suppress(UsageError):
                yield read_settings(path)


def read_id(run: Path) -> str | None:
    """The number of the run in a folder; None where it has none."""
    path = run / _ID
    try:
        if not path.is_file():
            return None
        with path.open(encoding='ascii') as file:
            return file.read(64).strip() or None
    except (OSError, ValueError):
        return None


class RunFolder:
    """The folder of a run that is resumed or evaluated, else a new one, made at once.

    Args:
        logs: The folder of all runs.
        run: The folder of the run; None: a new one.

    Attributes:
        path: The folder.
        is_new: Whether this process has made it.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, logs: Path, run: Path | None = None) -> None:
        self.is_new = False
        if run is not None:
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
                if not logs.is_dir():
                    raise
                version += 1
        self.path = logs / f'version_{version}'

    def clean(self, *folders: Path) -> None:
        """Remove what a killed process has left half-written, in the folder and in those of its checkpoints."""
        if getattr(rank_zero_only, 'rank', 0) == 0:
            for folder in (self.path, self.path / 'checkpoints', *folders):
                artifacts.sweep(folder)

    def give_up(self) -> None:
        """Remove what this process has made, if no checkpoint came of it."""
        if self.is_new and not any(self.path.glob('checkpoints/*')):
            shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()  # `logs`, where it is empty


class SavedSettings(L.Callback):
    """Keep the run's settings and its number: in its folder, and in its checkpoints, so that a resume without them is
    the same run.

    Args:
        text: The resolved settings, as YAML.
        folder: The run's.
    """

    def __init__(self, text: str, folder: Path) -> None:
        self.text = text
        self.folder = folder
        self.id = read_id(folder) or secrets.token_hex(16)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the settings; beside those of an earlier start, where they differ. The checkpoints have them, too."""
        if not trainer.is_global_zero:
            return
        path = self.folder / 'config.yaml'
        n = 1
        try:
            if read_id(self.folder) is None:
                artifacts.write_text(self.folder / _ID, f'{self.id}\n')
            while path.exists() and not (path.is_file() and path.read_text(encoding='utf-8') == self.text):
                n += 1
                path = self.folder / f'config-{n}.yaml'
            if not path.exists():
                artifacts.write_text(path, self.text)
        except (OSError, UnicodeDecodeError) as error:
            print(f'the settings are not written to {path}: {error}', file=sys.stderr, flush=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Saved) -> None:
        checkpoints.put_run(checkpoint, yaml.safe_load(self.text), str(self.folder.absolute()), self.id)
