"""What `--ckpt_path` means: a file, `last` or `best`; in the newest run, or in the folder that checkpoints go to."""

from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from xlabml import checkpoints

from .errors import UsageError


class Found(NamedTuple):
    """A checkpoint.

    Args:
        name: What to call it: its path, or where on a remote file system it lies.
        path: A local file that has it.
    """

    name: str
    path: Path


def find_checkpoint(asked: str, root: Path, class_path: str, folder: str | None, into: Path) -> Found:
    """Turn what was typed into a checkpoint that can be read here.

    Args:
        asked: A path or a URL, `last` or `best`.
        root: The folder that holds `logs`.
        class_path: Look only at runs of this task there.
        folder: The folder that the checkpoints of this run go to, if not the run's own.
        into: Where to fetch remote ones to.

    Raises:
        FileNotFoundError: There is none.
        ValueError: One that must be looked into cannot be read.
    """
    if '://' in asked:
        return _fetch(asked, into)
    if folder is None or asked not in ('last', 'best'):
        path = checkpoints.find(asked, root, class_path)
        return Found(str(path), path)
    if '://' not in folder:
        newest = checkpoints.find_newest(Path(folder))
        path = newest if asked == 'last' else checkpoints.find_best(newest)
        return Found(str(path), path)
    found = _fetch(_newest(folder), into)
    if asked == 'last':
        return found
    best = _fetch(f'{folder.rstrip("/")}/{checkpoints.best_name(found.path)}', into)
    if best.path != found.path:
        found.path.touch()  # the newest of the two stays the newest
    return best


def refuse_used(folder: str, found: Found | None) -> None:
    """Refuse a folder for checkpoints that has some already, unless the run goes on from the newest of them.

    Files are named by step and metric: another run, or a branch of the same one, would overwrite and delete them.

    Args:
        folder: It, or its URL.
        found: What the run goes on from; None: it is new.

    Raises:
        ValueError: It has checkpoints of another run.
    """
    is_remote = '://' in folder
    try:
        newest = _newest(folder) if is_remote else str(checkpoints.find_newest(Path(folder)))
    except FileNotFoundError:
        return
    if found is None or not (found.name == newest if is_remote else found.path.samefile(newest)):
        raise ValueError(
            f'checkpoint.folder {folder} holds checkpoints of another run ({newest} is the newest), which this one '
            'would overwrite; name another folder, or go on with --ckpt_path last'
        )


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path on it."""
    try:
        return fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:  # a scheme that there is not, or that needs a package
        raise UsageError(f'{url} cannot be opened here: {error}') from error


def _newest(folder: str) -> str:
    """The checkpoint in a remote folder that was written last."""
    files, root = _open(folder)
    paths = [path for path in files.ls(root, detail=False) if path.endswith('.ckpt')]
    if not paths:
        raise FileNotFoundError(f'there is no checkpoint in {folder}')
    try:
        times = {path: files.modified(path).timestamp() for path in paths}
    except NotImplementedError:  # the step is in the name
        times = dict.fromkeys(paths, 0.0)
    newest = max(paths, key=lambda path: (times[path], path))
    return f'{folder.rstrip("/")}/{newest.rpartition("/")[2]}'


def _fetch(url: str, into: Path) -> Found:
    files, remote = _open(url)
    path = into / url.rpartition('/')[2]
    if not files.exists(remote):
        raise FileNotFoundError(f"there is no checkpoint {url}; check the path, or say 'last' for the newest")
    files.get_file(remote, str(path))
    return Found(url, path)
