"""One process trains a run at a time: a lock on its folder, which goes with the process, however that ends.

The kernel's lock (flock) says who is first on one machine, and on network file systems that pass locks on. Some do not
(sshfs, a mounted bucket, Lustre with localflock): there two machines may both get it. So the process that holds it
writes down which it is, and touches that file every 10 seconds; one that finds it left by another machine watches it.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from xlabml import artifacts
from xlabml.errors import XLabError

_LOCK = 'run.lock'
_HOLDER = 'running.json'
_BEAT_SECONDS = 10.0
_WATCH_SECONDS = 30.0

_held: set[int] = set()


def _drop_inherited() -> None:
    """Close what a forked process has no business with: a worker that outlives its parent would keep the lock."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_drop_inherited)


class RunInUse(XLabError, OSError):  # noqa: N818
    """Another process trains this run."""


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Be the only process that trains a run; a killed one, or a reboot, is no obstacle.

    Args:
        folder: The run's own, or that of its checkpoints. One that cannot be written to is not locked.

    Raises:
        RunInUse: Another process does; the message says which, and since when.
    """
    file = _open_lock(folder)
    if file is None:
        yield
        return
    _held.add(file)
    stop = threading.Event()
    pid = os.getpid()
    try:
        _refuse_other_machine(folder)
        with contextlib.suppress(OSError):
            artifacts.write_text(folder / _HOLDER, json.dumps(_describe_self()))
        threading.Thread(target=_beat, args=(folder / _HOLDER, stop), daemon=True, name=f'lock of {folder}').start()
        try:
            yield
        finally:
            if os.getpid() == pid:
                _remove(folder)
    finally:
        stop.set()
        if file in _held:  # a forked process has closed it
            _held.discard(file)
            os.close(file)


def _open_lock(folder: Path) -> int | None:
    """The open and locked file; None where there can be none."""
    path = folder / _LOCK
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0), 0o666)
        except OSError as error:
            print(f'{folder} is not locked ({error.strerror}): start no other process on it', file=sys.stderr)
            return None
        if artifacts.is_locked(file):
            os.close(file)
            raise RunInUse(_refusal(folder, _read_holder(folder)))
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)  # the one before has just removed it: what is locked here is no file any more


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / _HOLDER).unlink(missing_ok=True)
        (folder / _LOCK).unlink(missing_ok=True)


def _refuse_other_machine(folder: Path) -> None:
    """Raise RunInUse where a process of another machine, whose lock is not seen here, shows that it is alive."""
    holder = _read_holder(folder)
    here = _describe_self()
    if holder is None or holder.get('boot') == here['boot'] or holder.get('host') == here['host']:
        return  # of this machine, before a reboot perhaps: its lock would be seen
    print(f'{folder} was trained on {holder.get("host")}: waiting whether it still is', file=sys.stderr, flush=True)
    before = _beats(folder)
    end = time.monotonic() + _WATCH_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, _WATCH_SECONDS / 10))
        now = _beats(folder)
        if now is None:
            return
        if now != before:
            raise RunInUse(_refusal(folder, holder))


def _refusal(folder: Path, holder: dict[str, object] | None) -> str:
    who = 'another process'
    remedy = ''
    if holder is not None:
        who = f'process {holder.get("pid")} on {holder.get("host")}, since {holder.get("since")}'
        if holder.get('host') != socket.gethostname():
            remedy = f'. If that machine is gone for certain, delete {folder / _LOCK} and {folder / _HOLDER}'
    return (
        f'{folder} is in use by {who}; two processes would write every row twice. Wait for its end, or stop it, and '
        'the same command resumes the run; or branch it: --ckpt_path FILE --trainer.default_root_dir FOLDER' + remedy
    )


def _read_holder(folder: Path) -> dict[str, object] | None:
    try:
        with (folder / _HOLDER).open(encoding='utf-8') as file:
            found = json.loads(file.read(1000))
    except (OSError, ValueError):
        return None
    return {name: str(value)[:100] for name, value in found.items()} if isinstance(found, dict) else None


def _describe_self() -> dict[str, object]:
    boot = Path('/proc/sys/kernel/random/boot_id')
    return {
        'pid': os.getpid(),
        'host': socket.gethostname(),
        'boot': boot.read_text('ascii').strip() if boot.exists() else socket.gethostname(),
        'since': datetime.now(UTC).isoformat(' ', 'seconds'),
    }


def _beats(folder: Path) -> int | None:
    try:
        return os.stat(folder / _HOLDER).st_mtime_ns
    except OSError:
        return None


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
