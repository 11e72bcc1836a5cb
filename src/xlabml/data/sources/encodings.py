"""The bytes of a text file, unpacked and as UTF-8 whatever they were written in, and errors that name the encoding."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MARKS = ((codecs.BOM_UTF32_LE, 'utf-32'), (codecs.BOM_UTF32_BE, 'utf-32'), (codecs.BOM_UTF16_LE, 'utf-16'),
          (codecs.BOM_UTF16_BE, 'utf-16'))  # fmt: skip
_PEEKED_BYTES = 4096
_BLOCK_BYTES = 1 << 16


def check_encoding(name: str) -> str:
    """Python's own name of an encoding.

    Raises:
        ValueError: Python knows no encoding of this name, or it is none of texts.
    """
    try:
        'a'.encode(name)
        b'\xff'.decode(name, 'ignore')  # idna, for names of hosts, cannot
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ValueError(
            f'encoding is {name!r}, which Python does not know; names are utf-8, utf-16, latin-1, cp1252, gb18030 …'
        ) from None


def open_bytes(path: Path) -> io.BufferedIOBase:
    """A file's bytes, unpacked where its name says that it is compressed."""
    suffix = path.suffix.lower()
    if suffix == '.gz':
        return gzip.GzipFile(path)
    if suffix == '.bz2':
        return bz2.BZ2File(path)
    if suffix == '.xz':
        return lzma.LZMAFile(path)
    if suffix == '.zst':
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), 'zstd'))
    return path.open('rb')


def open_utf8(path: Path, encoding: str | None = None) -> io.BufferedIOBase:
    """A text file's bytes in UTF-8, behind its byte order mark if it has one.

    Args:
        encoding: What the file is written in; None: UTF-8, or what its byte order mark says.

    Raises:
        ValueError: It is UTF-16 without a mark; where it is read, that it is not in the encoding.
    """
    raw = open_bytes(path)
    try:
        start = raw.peek(_PEEKED_BYTES)[:_PEEKED_BYTES]  # type: ignore[attr-defined]
        if encoding is None:
            encoding = next((name for mark, name in _MARKS if start.startswith(mark)), None)
            if encoding is None and (likely := _utf16(start)):
                raise ValueError(f'{path} is not UTF-8 but {likely}, it seems; set encoding to {likely}')
        if encoding is None or codecs.lookup(encoding).name in ('utf-8', 'utf-8-sig'):
            if start.startswith(codecs.BOM_UTF8):
                raw.read(len(codecs.BOM_UTF8))
            return raw
    except BaseException:
        raw.close()
        raise
    return io.BufferedReader(_Recoded(raw, path, encoding), _BLOCK_BYTES)


@contextlib.contextmanager
def open_text(path: Path, encoding: str | None = None, errors: str = 'strict') -> Iterator[io.TextIOBase]:
    """A text file's characters, line ends as they are; the other arguments are those of `open_utf8` and `open`."""
    with open_utf8(path, encoding) as raw, io.TextIOWrapper(raw, 'utf-8', errors, newline='') as text:  # type: ignore[type-var]
        yield text


def is_utf8(path: Path, encoding: str | None) -> bool:
    """Whether a file is read byte by byte as it stands, but for a byte order mark."""
    if encoding is not None:
        return codecs.lookup(encoding).name in ('utf-8', 'utf-8-sig')
    return not starts_with(path, [mark for mark, _ in _MARKS])


def starts_with(path: Path, marks: list[bytes]) -> bool:
    """Whether a file, unpacked, begins with one of some bytes."""
    with open_bytes(path) as raw:
        return raw.read(4).startswith(tuple(marks))


def explain_not_utf8(path: Path) -> ValueError | None:
    """The error that names the first line of a file that is not UTF-8, and its likely encoding; None where all is."""
    decoder = codecs.getincrementaldecoder('utf-8')()
    n_lines = 0
    block = b''
    with open_bytes(path) as raw:
        while True:
            before = block
            block = raw.read(_BLOCK_BYTES)
            try:
                n_lines += decoder.decode(block, final=not block).count('\n')
            except UnicodeDecodeError as error:
                line = n_lines + error.object[: error.start].count(b'\n') + 1
                return ValueError(f'{path}:{line}: not UTF-8 ({not_utf8(error, before + block)}')
            if not block:
                return None


def not_utf8(error: UnicodeDecodeError, sample: bytes) -> str:
    """What is wrong and what to do, for people, as `byte 0xE9); it may be latin-1: set encoding to that, …`.

    Args:
        error: What decoding raised.
        sample: Bytes around it.
    """
    likely = likely_encoding(sample)
    which = f'it may be {likely}: set encoding to that' if likely else 'set encoding to what it is written in'
    return f'byte 0x{error.object[error.start]:02X}: {error.reason}); {which}, mend it, or leave the file out'


def likely_encoding(data: bytes) -> str:
    """What bytes that are not UTF-8 may be written in; '' where nothing tells.

    Few high bytes among letters are Western European; 0x80 to 0x9F are quotes in cp1252, controls in latin-1.
    """
    if found := _utf16(data):
        return found
    high = sum(byte > 127 for byte in data)
    if b'\0' in data or high > 0.3 * len(data):
        return ''
    if any(0x80 <= byte < 0xA0 for byte in data):
        return '' if set(data) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else 'cp1252'
    return 'latin-1'


def _utf16(data: bytes) -> str:
    """UTF-16 of a Western language has a zero in every second byte, which no UTF-8 has."""
    pairs = len(data) // 2
    for first, name in ((1, 'utf-16-le'), (0, 'utf-16-be')):
        if pairs and data[first::2].count(0) > 0.6 * pairs and data[1 - first :: 2].count(0) < 0.1 * pairs:
            return name
    return ''


class _Recoded(io.RawIOBase):
    """A file in another encoding as a stream of UTF-8.

    Args:
        raw: Its bytes.
        path: The file, for errors.
        encoding: What it is written in.
    """

    def __init__(self, raw: io.BufferedIOBase, path: Path, encoding: str) -> None:
        self._raw = raw
        self._path = path
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._n_lines = 0
        self._left = b''
        self._is_first = True
        self._at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._at_end:
            self._left = self._next()
        n = min(len(buffer), len(self._left))
        buffer[:n] = self._left[:n]
        self._left = self._left[n:]
        return n

    def _next(self) -> bytes:
        block = self._raw.read(_BLOCK_BYTES)
        self._at_end = not block
        try:
            text = self._decoder.decode(block, final=self._at_end)
            if self._is_first and text:
                text = text.removeprefix('\ufeff')
                self._is_first = False
            self._n_lines += text.count('\n')
            return text.encode()
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(self._encoding, 'ignore')
            line = self._n_lines + before.count('\n') + 1
            problem = f'byte 0x{error.object[error.start]:02X}: {error.reason}'
        except UnicodeError as error:
            line = self._n_lines + 1
            problem = str(error)
        raise ValueError(
            f'{self._path}:{line}: not {self._encoding} ({problem}); set encoding to what it is written in, or mend it'
        )

    def close(self) -> None:
        self._raw.close()
        super().close()
