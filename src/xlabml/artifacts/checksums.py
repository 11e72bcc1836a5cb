"""Checksums over whole files of weights: made as they are written, compared while they are read.

torch's reader compares no checksum, and safetensors has none: a flipped bit would load as another weight. XXH3 (128
bits) goes over every byte of the file, as fast as memory is read, in a thread beside the reader, so that a disk is read
once. It finds damage; it is no signature, and proves nothing about who wrote a file.
Source: https://github.com/Cyan4973/xxHash.

A checkpoint has its checksum as the comment of its zip archive, the last bytes of the file; an exported file in its
metadata, of the file with 32 zeros in that place. A file without one is from before them: it is read with a note.
"""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import xxhash

from xlabml.errors import DamagedError

_DIGITS = 32
_NONE = b'0' * _DIGITS
_MARK = b'xlabml:xxh3_128:'
_END = b'PK\x05\x06'  # of a zip archive's last record, 22 bytes and a comment
_END_BYTES = 22
_COMMENT_BYTES = len(_MARK) + _DIGITS
_BLOCK_BYTES = 1 << 22
_MAX_HEADER_BYTES = 100_000_000  # as safetensors allows

EXPORT_KEY = 'checksum'
"""The key in an exported file's settings that holds its checksum."""

EXPORT_VALUE = f'xxh3_128:{_NONE.decode()}'
"""What is written there first; `seal_export` puts the checksum in."""

_TRACES_IN_EXPORT = (rb'"{\"checksum\": \"', b'xxh3_128:')  # a flipped bit leaves one of them
_IN_EXPORT = re.compile(re.escape(b''.join(_TRACES_IN_EXPORT)) + rb'([0-9a-f]{32})\\"')

_noted: set[tuple[int, int, int]] = set()


class Place(NamedTuple):
    """A checksum in a file.

    Args:
        digits: What it says, in hex.
        start: Where its digits are in the file; a file is hashed with zeros there.
    """

    digits: bytes
    start: int


@runtime_checkable
class Writable(Protocol):
    """What bytes can be written to."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class SealedArchive:
    """Writes a zip archive to a file, with its checksum as a comment.

    Args:
        file: The file; only its `write` is called.
    """

    def __init__(self, file: Writable) -> None:
        self._file = file
        self._hash = xxhash.xxh3_128()
        self._held = b''

    def write(self, data: bytes | memoryview) -> int:
        """Write some more; the last bytes, which may be the archive's end, are held back."""
        data = memoryview(data).cast('B')
        if len(data) < _END_BYTES:
            data = memoryview(self._held + bytes(data))
            n_new = len(data) - len(self._held)
            self._held = b''
        else:
            n_new = len(data)
            self._pass_on(self._held)
        n_passed = max(0, len(data) - _END_BYTES)
        self._pass_on(data[:n_passed])
        self._held = bytes(data[n_passed:])
        return n_new

    def seal(self) -> None:
        """Write the end of the archive, its comment the checksum."""
        end = self._held
        assert end.startswith(_END), 'the archive has no end, or a comment already'
        self._pass_on(end[:-2] + _COMMENT_BYTES.to_bytes(2, 'little') + _MARK)
        self._hash.update(_NONE)
        self._file.write(self._hash.hexdigest().encode())

    def flush(self) -> None:
        """Nothing: torch asks for it before the archive has its end."""

    def _pass_on(self, data: bytes | memoryview) -> None:
        if len(data):
            self._hash.update(data)
            self._file.write(data)


def seal_export(path: Path) -> None:
    """Put its checksum into an exported file that was just written."""
    place = find_checksum(path)
    assert place is not None, 'the file was written without room for a checksum'
    digits = _hash_file(path, place)
    with path.open('r+b') as file:
        file.seek(place.start)
        file.write(digits)


def find_checksum(path: Path) -> Place | None:
    """The checksum of a file; None where it has none.

    Raises:
        ValueError: It had one, and that is damaged.
    """
    size = path.stat().st_size
    with path.open('rb') as file:
        if file.read(2) == _END[:2]:
            file.seek(max(0, size - _END_BYTES - _COMMENT_BYTES))
            end = file.read()
            if end[-_COMMENT_BYTES:-_DIGITS] == _MARK:
                return Place(end[-_DIGITS:], size - _DIGITS)
            if end[-_END_BYTES : -_END_BYTES + 4] == _END and end[-2:] == b'\0\0':
                return None
            raise _damaged(path)
        file.seek(0)
        n_bytes = int.from_bytes(file.read(8), 'little')
        header = file.read(min(n_bytes, _MAX_HEADER_BYTES))
    found = _IN_EXPORT.search(header)
    if found is not None:
        return Place(found[1], 8 + found.start(1))
    if any(trace in header for trace in _TRACES_IN_EXPORT):
        raise _damaged(path)
    return None


def compare(path: Path) -> bool:
    """Compare a file with its checksum, before it is mapped: read from end to end it is there sooner than page by page.

    Returns:
        Whether it has one.

    Raises:
        ValueError: The file is not as it was written.
    """
    place = find_checksum(path)
    if place is not None and _hash_file(path, place) != place.digits:
        raise _damaged(path)
    return place is not None


@contextlib.contextmanager
def compared(path: Path) -> Iterator[bool]:
    """While a file is read, compare it with its checksum; a wrong checksum is reported before an error of its reader.

    Yields:
        Whether it has one.

    Raises:
        ValueError: The file is not as it was written.
    """
    place = find_checksum(path)
    if place is None:
        yield False
        return
    hashing = _Hashing(path, place)
    hashing.start()
    try:
        yield True
    except Exception as error:
        if hashing.digits() != place.digits:
            raise _damaged(path) from error
        raise
    except BaseException:
        hashing.stop()
        raise
    if hashing.digits() != place.digits:
        raise _damaged(path)


class _Hashing(threading.Thread):
    def __init__(self, path: Path, place: Place) -> None:
        super().__init__(name=f'hash {path.name}', daemon=True)
        self._path = path
        self._place = place
        self._stopped = threading.Event()
        self._found: bytes | OSError = b''

    def run(self) -> None:
        try:
            self._found = _hash_file(self._path, self._place, self._stopped)
        except OSError as error:
            self._found = error

    def digits(self) -> bytes:
        self.join()
        if isinstance(self._found, OSError):
            raise self._found
        return self._found

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _hash_file(path: Path, place: Place, stopped: threading.Event | None = None) -> bytes:
    """The checksum of a file with zeros in its place, in hex."""
    found = xxhash.xxh3_128()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open('rb', buffering=0) as file:
        at = 0
        while n := file.readinto(block):
            first = max(0, place.start - at)
            last = min(n, place.start + _DIGITS - at)
            if first < last:
                block[first:last] = _NONE[: last - first]
            found.update(block[:n])
            at += n
            if stopped is not None and stopped.is_set():
                break
    return found.hexdigest().encode()


def _damaged(path: Path) -> DamagedError:
    return DamagedError(
        f'{path} is damaged: its content is not what its checksum says; copy it again, or choose another checkpoint'
    )


def note_old(path: Path, why: str = 'is from before xlabml wrote checksums') -> None:
    """Say once, on the first rank, that a file is read without being compared."""
    stat = path.stat()
    key = stat.st_dev, stat.st_ino, stat.st_mtime_ns
    is_first_rank = all(os.environ.get(name, '0') == '0' for name in ('RANK', 'SLURM_PROCID', 'LOCAL_RANK'))
    if key not in _noted and is_first_rank:
        _noted.add(key)
        print(
            f'{path} {why}: it is read without being compared with one',
            file=sys.stderr,
            flush=True,
        )
