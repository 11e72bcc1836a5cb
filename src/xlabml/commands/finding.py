"""What `--ckpt_path` means: a file, `last` or `best`; in the newest run, or in the folder that checkpoints go to."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fsspec

from xlabml import checkpoints

from .errors import UsageError

INSTEAD = '--ckpt_path {}'
"""How another checkpoint is typed in the place of one that is damaged."""


class Found(NamedTuple):
    """A checkpoint.

    Args:
        name: Its path, or its URL on a remote file system.
        path: A local copy of it.
    """

    name: str
    path: Path


class Resumed(NamedTuple):
    """The checkpoint that a command resumes from or evaluates.

    Args:
        found: Its file.
        checkpoint: Its contents.
        names_sources: Whether it names the texts, and the command line does not.
        is_alone: Whether nothing else is typed, so that every setting comes from it.
    """

    found: Found
    checkpoint: checkpoints.Contents
    names_sources: bool = False
    is_alone: bool = False


def find_checkpoint(
    asked: str, root: Path, class_path: str | None, folder: str | None, into: Path, is_fit: bool = False
) -> Found:
    """Find the checkpoint that the user typed, as a local file.

    Args:
        asked: A path, of a file or of a run's folder, or a URL, `last` or `best`.
        root: The folder that holds `logs`.
        class_path: The task whose runs count there; None: any.
        folder: The folder that the checkpoints of this run go to, if not the run's own.
        into: Where to fetch remote ones to.
        is_fit: Whether training resumes from it; of a run's folder it is the newest one then.

    Raises:
        FileNotFoundError: There is none.
        ValueError: One that must be looked into cannot be read.
    """
    if '://' in asked:
        return _fetch(asked, into)
    if folder is None or asked not in ('last', 'best'):
        path = checkpoints.find(asked, root, class_path, INSTEAD, 'newest' if is_fit else 'best')
        return Found(str(path), path)
    if '://' not in folder:
        newest = checkpoints.find_newest(Path(folder))
        with checkpoints.naming_another(asked, newest, INSTEAD):
            path = newest if asked == 'last' else checkpoints.find_best(newest)
        return Found(str(path), path)
    found = _fetch(_newest(folder), into)
    if asked == 'last':
        return found
    with reading(asked, found):
        name = checkpoints.best_name(found.path)
    return _fetch(f'{folder.rstrip("/")}/{name}', into)


@contextlib.contextmanager
def reading(asked: str, found: Found) -> Iterator[None]:
    """While this lasts, an error names the checkpoint as the user knows it, and another one where it is damaged."""
    if '://' not in found.name:
        with checkpoints.naming_another(asked, found.path, INSTEAD):
            yield
        return
    try:
        yield
    except ValueError as error:
        folder, _, name = found.name.rpartition('/')
        message = str(error).replace(str(found.path), found.name)
        names = _by_step(folder)
        at = names.index(name) if name in names else 0
        if asked in ('last', 'best') and at:
            message += f" ('{asked}' stands for it). The one before it: {INSTEAD.format(f'{folder}/{names[at - 1]}')}"
        error.args = (message,)
        raise


def lies_in(found: Found) -> Path | str | None:
    """The folder, or its URL, that a checkpoint lies in; None where what was named is a link to the file."""
    if '://' in found.name:
        return found.name.rpartition('/')[0]
    if found.path.is_symlink():
        return None
    folder = found.path.parent
    return folder if folder.name not in ('', '..') else folder.resolve()


def is_same_folder(one: Path | str, other: Path | str) -> bool:
    """Whether two paths, or URLs, are those of one folder that is there."""
    if '://' in str(one) or '://' in str(other):
        return str(one).rstrip('/') == str(other).rstrip('/')
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one that no file system could have
        return False


def is_newest(found: Found) -> bool:
    """Whether a checkpoint is the newest in its folder; one that is gone by now was, and its run trains on."""
    if '://' in found.name:
        return found.name == _newest(found.name.rpartition('/')[0])
    try:
        return checkpoints.find_newest(found.path.parent).samefile(found.path)
    except FileNotFoundError:
        return True


def refuse_used(folder: str, found: Found | None) -> None:
    """Refuse a folder for checkpoints that has some already, unless what is resumed is the newest of them.

    Files are named by step and metric: another run, or a branch of the same one, would overwrite them.

    Args:
        folder: It, or its URL.
        found: What is resumed; None: the run is new.

    Raises:
        ValueError: It has checkpoints of another run.
    """
    is_remote = '://' in folder
    try:
        newest = _newest(folder) if is_remote else str(checkpoints.find_newest(Path(folder)))
    except FileNotFoundError:
        newest = f'{folder}/best.safetensors'
        if is_remote or not os.path.lexists(newest):
            return
    else:
        if found is not None and (found.name == newest if is_remote else found.path.samefile(newest)):
            return
    raise ValueError(
        f'checkpoint.folder {folder} holds checkpoints of another run ({newest} is the newest), which this one '
        'would overwrite; name another folder, or resume with --ckpt_path last'
    )


def _open(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the path on it."""
    try:
        return fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:  # a scheme that there is not, or that needs a package
        raise UsageError(f'{url} cannot be opened here: {error}') from error


def _newest(folder: str) -> str:
    """The checkpoint in a remote folder that was written at the latest step."""
    names = _by_step(folder)
    if not names:
        raise FileNotFoundError(f'there is no checkpoint in {folder}')
    return f'{folder.rstrip("/")}/{names[-1]}'


def _by_step(folder: str) -> list[str]:
    """The names of the checkpoints in a remote folder, in the order of the steps that the names say."""
    files, root = _open(folder)
    names = [path.rpartition('/')[2] for path in files.ls(root, detail=False) if path.endswith('.ckpt')]
    steps = {name: -1 if (step := checkpoints.written_step(name)) is None else step for name in names}
    return sorted(names, key=lambda name: (steps[name], '-' in name, name))


def _fetch(url: str, into: Path) -> Found:
    files, remote = _open(url)
    path = into / url.rpartition('/')[2]
    if not files.exists(remote):
        raise FileNotFoundError(f"there is no checkpoint {url}; check the path, or say 'last' for the newest")
    files.get_file(remote, str(path))
    return Found(url, path)
