"""The folder of a command's run: found or made, locked while it trains there, removed where the command fails."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from .finding import is_newest, is_same_folder
from .parsing import Settings
from .run_folder import RunFolder
from .run_lock import RunInUse, only_one


def claim(settings: Settings, opened: contextlib.ExitStack) -> RunFolder | None:
    """Find or make the run's folder; None where there is none: no command, a few steps of trainer.fast_dev_run, or an
    evaluation that can do without, as there is no place for one.

    Args:
        opened: Keeps the lock for as long as the command lasts.

    Raises:
        OSError: It cannot be written to, or another process trains this run.
    """
    if settings.command is None or settings.values.trainer.fast_dev_run:
        return None
    logs = Path(settings.values.trainer.default_root_dir) / 'logs'
    claimed = None
    try:
        claimed = RunFolder(logs, settings.choice.run)
        place = _place_to_write(settings, claimed.path)
        if place is not None and not os.access(place, os.W_OK):
            raise OSError(errno.EROFS, 'it cannot be written to', str(place))
    except OSError as error:
        if settings.command in ('validate', 'test'):
            print(f'curves are not written to {logs}: {error.strerror}', file=sys.stderr, flush=True)
            return None
        if claimed is not None:
            claimed.give_up()
        resumed = settings.resumed
        raise OSError(
            f'{error.filename or logs}: {error.strerror}; name a folder of yours with --trainer.default_root_dir'
            + (f', and the checkpoint by --ckpt_path {resumed.found.name}' if resumed is not None else '')
        ) from error
    if settings.is_fit and getattr(rank_zero_only, 'rank', 0) == 0:
        with nothing_left_behind(claimed):
            _hold(settings, claimed, opened)
    return claimed


def _place_to_write(settings: Settings, run: Path) -> Path | None:
    """The folder that a command is useless without, where it is there already."""
    if settings.command == 'predict':
        return run if run.is_dir() else None  # a new one is made by rank 0 alone
    if not settings.is_fit:
        return None
    asked = settings.values.checkpoint.folder
    folder = run / 'checkpoints' if asked is None else None if '://' in asked else Path(asked)
    return folder if folder is not None and folder.is_dir() else None


def _hold(settings: Settings, claimed: RunFolder, opened: contextlib.ExitStack) -> None:
    """Be the only process that trains the run, and clean up after one that was killed."""
    folder = settings.values.checkpoint.folder
    resumed = settings.resumed
    is_apart = folder is not None and '://' not in folder and not is_same_folder(folder, claimed.path)
    other = [Path(str(folder))] if is_apart else []
    for path in (claimed.path, *other):
        if not path.exists():
            path.mkdir(parents=True)
            opened.callback(_remove_if_empty, path)
        opened.enter_context(only_one(path))
    found = None if resumed is None else resumed.found
    if settings.choice.run is not None and found is not None and not (found.path.exists() and is_newest(found)):
        raise RunInUse(f'{claimed.path} was trained on while {found.name} was read; the same command resumes it')
    claimed.clean(*other)


@contextlib.contextmanager
def nothing_left_behind(claimed: RunFolder | None, trainer: L.Trainer | None = None) -> Iterator[None]:
    """Where a command fails before it has made a step, the folder that it had made for itself is removed."""
    try:
        yield
    except BaseException:
        if claimed is not None and (trainer is None or not trainer.global_step):
            claimed.give_up()
        raise


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
