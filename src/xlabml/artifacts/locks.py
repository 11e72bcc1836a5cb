"""Locks that go with the process which holds them, however it ends."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

if sys.platform != 'win32':
    import fcntl


@runtime_checkable
class _Lock(Protocol):
    def acquire(self, timeout: float | None = None) -> object: ...

    def release(self) -> None: ...


@contextlib.contextmanager
def only_one(lock: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Be the only process that holds a lock; others wait for its end.

    Args:
        lock: The file that stands for it; its folder is made.
        wait: Called once where another process holds it, before waiting for that.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = _file_lock(lock)
    try:
        held.acquire(timeout=0)
    except TimeoutError:
        if wait is not None:
            wait()
        held.acquire()
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def if_free(lock: Path) -> Iterator[bool]:
    """Hold a lock where no other process does.

    Yields:
        Whether this process holds it.
    """
    held = _file_lock(lock)
    try:
        held.acquire(timeout=0)
    except OSError:  # a timeout is one
        yield False
        return
    try:
        yield True
    finally:
        held.release()


def _file_lock(path: Path) -> _Lock:
    import filelock  # late: importing it takes longer than the tokenizer does, which locks nothing

    return filelock.FileLock(path)


def is_locked(file: int) -> bool:
    """Whether another process holds the lock of an open file; if none does, this one now holds it, until it closes it.

    False where the file system knows no locks.
    """
    if sys.platform == 'win32':
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has a number, as far as can be known."""
    if os.name != 'posix':
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
