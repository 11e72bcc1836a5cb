"""Files written atomically: beside their place, then renamed, so that a reader finds the old one or the new one; and
the parts that a killed process leaves behind, removed by the next one."""

import contextlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .locks import is_alive, is_locked

_PART = re.compile(r'\.(?P<name>.+)\.(?P<pid>\d{1,10})\.part')
_EARLIER_PART = re.compile(r'(?P<name>.+)\.(?P<pid>\d{1,10})\.partial')  # of tokenizers, before 0.4
_SCRATCH = re.compile(r'xlabml-(?:[a-z]+-)?(?P<pid>\d{1,10})-\w+')
_MAX_AGE_SECONDS = 24 * 3600


@contextlib.contextmanager
def part(path: Path) -> Iterator[Path]:
    """A name beside a path to write to before renaming: `.NAME.PID.part`; it is removed in any case.

    The file is there, empty and locked, while the block runs: `sweep` of another process lets it be.

    Raises:
        OSError: Nothing can be written there.
    """
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    file = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, 'O_CLOEXEC', 0), 0o666)
    try:
        is_locked(file)
        yield part
    finally:
        os.close(file)
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """A name beside a path to write to, which becomes the file of that path where the block ends without an error.

    Args:
        path: The file, there or not.
        sync: Whether content and name are on the disk, not on their way there, once the block has ended.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    with part(path) as beside:
        yield beside
        put(beside, path, sync)


def put(beside: Path, path: Path, sync: bool = False) -> None:
    """Rename a finished file to its final name, replacing one that has it.

    Args:
        beside: Where the file is, in the same folder.
        path: Its name.
        sync: Whether content and name are on the disk, not on their way there, when this returns.
    """
    if sync:
        _sync(beside, os.O_RDWR)
    os.replace(beside, path)
    if sync and os.name == 'posix':
        _sync(path.parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_text(path: Path, text: str) -> None:
    """Write a file of text atomically.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    write_bytes(path, text.encode('utf-8'))


def write_bytes(path: Path, data: bytes, sync: bool = False) -> None:
    """Write a file atomically; arguments and errors as of `replacing`."""
    with replacing(path, sync) as beside:
        beside.write_bytes(data)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the parts in a folder whose process is gone; other files, links and folders are never touched.

    Args:
        folder: It need not be there.
        name: Remove only parts of the file of this name; None: of all files.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            found = _PART.fullmatch(path.name) or (name and _EARLIER_PART.fullmatch(path.name))
            if found and name in (None, found['name']) and _is_left_over(path, int(found['pid'])):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(kind: str = '') -> Iterator[Path]:
    """A temporary folder, gone when the block ends; those of this user's killed processes are removed first.

    Args:
        kind: What its name, `xlabml-KIND…`, says that it is for.
    """
    with contextlib.suppress(OSError):
        for path in list(Path(tempfile.gettempdir()).iterdir()):
            found = _SCRATCH.fullmatch(path.name)
            if found is not None and _is_left_over(path, int(found['pid']), is_folder=True):
                shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f'xlabml-{kind}{os.getpid()}-') as name:
        file = None if sys.platform == 'win32' else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if file is not None:
                is_locked(file)
            yield Path(name)
        finally:
            if file is not None:
                os.close(file)


def _is_left_over(path: Path, pid: int, is_folder: bool = False) -> bool:
    """Whether a part, or a temporary folder, belongs to nobody any more.

    Its lock is free, and its process is not there. A number is soon used again, in a container above all: where there
    is a process of that number, what is not locked counts once it is a day old.
    """
    try:
        info = path.lstat()
        if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(info.st_mode):
            return False
        if is_folder and info.st_uid != os.getuid():
            return False
        file = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | getattr(os, 'O_NOFOLLOW', 0))
    except (OSError, AttributeError):
        return False
    try:
        if is_locked(file):
            return False
    finally:
        os.close(file)
    return pid == os.getpid() or not is_alive(pid) or time.time() - info.st_mtime > _MAX_AGE_SECONDS
