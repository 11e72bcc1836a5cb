"""Folders written atomically: built beside their place and renamed, by one process at a time; and the flat
arrays in them, hashed as they are written."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from .hashes import short_hash
from .locks import if_free, only_one
from .manifests import MANIFEST, Manifest, Written, write_manifest

__all__ = [
    'MANIFEST',
    'ArrayFile',
    'ArrayFiles',
    'build_folder',
    'drop',
    'is_disk_full',
    'put_folder',
    'remove',
    'remove_older',
    'replacing_folder',
    'short_hash',
    'show_bytes',
    'size',
]

_DROPPED = '.dropped'
_LEFT_OVER = re.compile(r'([0-9a-f]{16})\.(?:partial|dropped)')  # named by `short_hash`


class ArrayFile:
    """A flat array that grows at its end, in a file, and is hashed as it grows.

    Args:
        path: The file; it is made.
        dtype: Of the numbers in it.
        sync: Whether it is on the disk, not on its way there, once it is closed.
    """

    def __init__(self, path: Path, dtype: DTypeLike, sync: bool = True) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.sync = sync
        self._file: BinaryIO = path.open('wb')
        self._hash = hashlib.sha256()
        self._n_bytes = 0

    def append(self, values: np.ndarray | bytes) -> None:
        """Add values at the end."""
        data = values if isinstance(values, bytes) else np.ascontiguousarray(values, self.dtype).tobytes()
        self._file.write(data)
        self._hash.update(data)
        self._n_bytes += len(data)

    def close(self) -> Written:
        """Finish the file, and describe it for the manifest."""
        self._file.flush()
        if self.sync:
            os.fsync(self._file.fileno())
        self._file.close()
        modified = self.path.stat().st_mtime_ns
        return {'dtype': self.dtype.str, 'bytes': self._n_bytes, 'modified': modified, 'sha256': self._hash.hexdigest()}

    def discard(self) -> None:
        self._file.close()


class ArrayFiles:
    """Several array files of one folder.

    Args:
        folder: Where they go.
        dtypes: Of each, by name.
        sync: Whether they are on the disk once they are closed.
    """

    def __init__(self, folder: Path, dtypes: Mapping[str, DTypeLike], sync: bool = True) -> None:
        self._files = {name: ArrayFile(folder / f'{name}.bin', dtype, sync) for name, dtype in dtypes.items()}

    def append(self, **values: np.ndarray | bytes) -> None:
        for name, value in values.items():
            self._files[name].append(value)

    def close(self) -> dict[str, Written]:
        return {name: file.close() for name, file in self._files.items()}

    def __enter__(self) -> 'ArrayFiles':
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.discard()


def build_folder(
    folder: Path,
    build: Callable[[Path], Manifest],
    is_ready: Callable[[], bool],
    resumable: bool = False,
    say: Callable[[str], None] | None = None,
) -> None:
    """Have a folder built, unless it is ready; whoever comes second waits and then finds it ready.

    Args:
        folder: Where it shall be.
        build: Fills a folder, and returns its manifest.
        is_ready: Whether what is there will do; asked under the lock. What will not do is replaced.
        resumable: Whether build continues with what an interrupted one left in its folder. It is kept then, but not
            after a ValueError: what was wrong has to change first.
        say: Told that another process is at it, and is waited for.

    Raises:
        ValueError: The disk filled up. Nothing half-written is left behind.
    """
    partial = _partial(folder)

    def wait() -> None:
        if say is not None:
            say(f'waiting for another process, which is preparing {folder}')

    try:
        with only_one(folder.with_name(f'{folder.name}.lock'), wait):
            if is_ready():
                return
            if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
                raise ValueError(
                    f'{folder} holds something that xlabml did not make; move it away, or name another folder'
                )
            if not resumable:  # what is left by processes that were killed
                remove(partial)
                _remove_left_over(folder.parent)
            try:
                partial.mkdir(exist_ok=True)
                write_manifest(partial, build(partial))
                put_folder(partial, folder)
            except BaseException as error:
                if not resumable or isinstance(error, ValueError) or is_disk_full(error):
                    remove(partial)
                raise
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise ValueError(
            f'the disk is full ({error.strerror}): {folder} could not be written, and nothing of it is left; free some '
            'space, or set XLABML_CACHE to a folder on a larger disk'
        ) from error


def _remove_left_over(folders: Path) -> None:
    """Delete what others have left half-made or half-deleted among some folders, each of whose locks nobody holds."""
    for path in folders.iterdir():
        if (found := _LEFT_OVER.fullmatch(path.name)) is not None:
            with if_free(folders / f'{found[1]}.lock') as is_free, contextlib.suppress(OSError):
                if is_free:
                    remove(path)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside a path to fill, which becomes that of the path where the block ends without an error.

    What it held before, left by a process that was killed, goes first. After an error it stays for a look.
    """
    partial = _partial(folder)
    remove(partial)
    partial.mkdir(parents=True)
    yield partial
    put_folder(partial, folder)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes that of the path where the block ends without an error; else it goes.

    Raises:
        FileExistsError: The path is taken.
        FileNotFoundError: There is no folder to put it in.
    """
    place = folder.absolute().parent
    if folder.exists():
        raise FileExistsError(f'{folder} is there already; delete it, or choose another')
    if not place.is_dir():
        raise FileNotFoundError(f'there is no folder {place} to write {folder.name} to; make it first')
    part = place / f'.{folder.name}.{os.getpid()}.part'
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def put_folder(beside: Path, folder: Path) -> None:
    """Rename a finished folder to its final name, replacing one that has it."""
    remove(folder)
    beside.rename(folder)


def _partial(folder: Path) -> Path:
    return folder.with_name(f'{folder.name}.partial')


def drop(folder: Path) -> None:
    """Delete a folder that was whole, so that one who is killed meanwhile leaves no half of it under its name."""
    going = folder if folder.suffix == _DROPPED else folder.with_name(folder.name + _DROPPED)
    if going != folder:
        remove(going)
        folder.rename(going)
    remove(going)


def remove_older(folders: Path, n: int, keep: Path) -> None:
    """Delete all folders in a folder but n: those that were made or touched last, and one to keep."""
    if folders.exists():
        others = [path for path in folders.iterdir() if path.is_dir() and path != keep]
        others.sort(key=lambda path: path.stat().st_mtime_ns)
        for path in others[: max(0, len(others) + 1 - n)]:
            drop(path)


def size(path: Path) -> int:
    """How many bytes a file, or all in a folder, takes; what vanishes meanwhile takes none."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(size(Path(item)) for item in os.scandir(path))
    except FileNotFoundError:
        return 0


def show_bytes(n_bytes: int | float) -> str:
    """A number of bytes for people."""
    for unit in ('bytes', 'kB', 'MB', 'GB'):
        if n_bytes < 1000:
            return f'{n_bytes:.3g} {unit}'
        n_bytes /= 1000
    return f'{n_bytes:.3g} TB'


def is_disk_full(error: BaseException) -> bool:
    """Whether the system says that there is no room for a file."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def remove(folder: Path) -> None:
    """Delete a folder, if it is there; of a link to one, the link."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
