"""Watches what code does while a hostile file is read: what it runs, imports, writes and deletes."""

import contextlib
import sys
import threading
from pathlib import Path

_RUNS = ('os.system', 'subprocess.Popen', 'os.exec', 'os.posix_spawn', 'os.fork', 'os.forkpty', 'pty.spawn', 'os.spawn')
_DELETES = ('os.remove', 'os.rmdir', 'os.truncate', 'shutil.rmtree')
_WRITES = ('os.rename', 'os.mkdir', 'os.link', 'os.symlink', 'os.chmod')
_seen = None
_allowed = ()
_is_hooked = False


def _hook(event, arguments):
    if _seen is None:
        return
    if event.startswith(_RUNS):
        _seen.append((event, repr(arguments)[:200]))
    elif event == 'import' and arguments[0].startswith(('evil', 'antigravity', 'this')):
        _seen.append((event, arguments[0]))
    elif event in _DELETES + _WRITES or (event == 'open' and set(arguments[1] or '') & set('wax+')):
        _note(event, arguments[0])


_OWN_LOCK = ('run.lock', 'running.json')  # removed by their bare names as a run ends


def _note(event, path):
    if event == 'os.remove' and path in _OWN_LOCK:
        return
    if isinstance(path, bytes):
        path = path.decode(errors='replace')
    if isinstance(path, str) and path != '/dev/null' and not path.startswith(_allowed):
        _seen.append((event, path))


@contextlib.contextmanager
def watched(*folders):
    """Yields a list of what was run, imported by name, and written or deleted elsewhere than in some folders."""
    global _seen, _allowed, _is_hooked
    if not _is_hooked:
        sys.addaudithook(_hook)
        _is_hooked = True
    _allowed = tuple(str(Path(folder).absolute()) for folder in folders)
    _seen = found = []
    modules = set(sys.modules)
    try:
        yield found
    finally:
        _seen = None
        found += [('import', name) for name in set(sys.modules) - modules if name.startswith('evil')]


class TooLongError(Exception):
    """What was watched took longer than it may."""


@contextlib.contextmanager
def at_most(seconds):
    """Raises TooLongError in this thread where what happens inside takes longer."""
    import ctypes

    me = threading.get_ident()
    timer = threading.Timer(
        seconds, lambda: ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), ctypes.py_object(TooLongError))
    )
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
