"""What is printed: on a full disk it ends no training and changes no exit status; nothing in it is invisible."""

import contextlib
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@runtime_checkable
class _Stream(Protocol):
    """What is printed to; also what a test or a notebook puts in the place of a terminal."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class _Lossy:
    """A stream that drops output when the disk is full.

    Args:
        stream: The stream that it wraps.
    """

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _without_room():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _without_room():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lossy_output() -> Iterator[None]:
    """While this lasts, standard output and error drop output when their disks are full."""
    before = sys.stdout, sys.stderr
    streams = [_Lossy(stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            try:
                stream.flush()
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Python flushes once more as it ends


@contextlib.contextmanager
def _without_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise


def visible(text: str, encoding: str = 'utf-8') -> str:
    """The text with control characters, tabs and line ends apart, as \\uXXXX, so that none reaches the terminal.

    Characters that the terminal's encoding lacks are written so that they can be told, too.
    """
    shown = [
        f'\\u{ord(item):04x}' if unicodedata.category(item) == 'Cc' and item not in '\t\n' else item for item in text
    ]
    return ''.join(shown).encode(encoding, 'backslashreplace').decode(encoding)
