"""Rows of parquet, Arrow, JSON, CSV and text files, one after the other, with errors that say which file and line.

Large parquet and JSON-lines files can be read in spans, each on its own. pyarrow is loaded by the first file that needs
it: the sources that come in packages do without.
"""

import codecs
import contextlib
import functools
import gzip
import lzma
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, get_args

from xlabml.errors import SettingsError

from . import tally
from .cutting import FILE, check_document, cut
from .encodings import check_encoding, explain_not_utf8, is_utf8, open_text, starts_with
from .json_rows import read_json, read_json_lines
from .kinds import PACKED, TABLES, TEXTS, UNPACKED_RATIO, is_packed, kind_of
from .quotes import Quoting, check_delimiter

_BROKEN = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)
_TEXT_COLUMNS = ['text', 'path']
_LINES = ('.jsonl', '.ndjson')
_DELIMITED = ('.csv', '.tsv')
_BINARY = ('.parquet', '.arrow')


class Span(NamedTuple):
    """A stretch of a file.

    Args:
        path: The file.
        start: Its first byte (a line that begins before it is not part of it), or row group.
        end: One past its last; None: all of the file.
    """

    path: str
    start: int = 0
    end: int | None = None

    def __str__(self) -> str:
        unit = 'row group' if kind_of(Path(self.path)) == '.parquet' else 'byte'
        return f'{self.path}, {unit} {self.start} on' if self.start else self.path


@dataclass(frozen=True)
class Reading:
    """How files are read, where their names do not say it.

    Args:
        encoding: What text files are written in, by Python's name; None: UTF-8, or what a byte order mark says.
        delimiter: What parts the fields of csv and tsv files; None: a comma, and a tab.
        quoting: What quotes in these are for; None: `doubled` in csv, `none` in tsv.
        text: The column that has to hold texts; None: none has.
        document: What a document of a txt, text or md file is (`cutting`).

    Raises:
        ValueError: There is no such encoding, or the delimiter is not one character.
    """

    encoding: str | None = None
    delimiter: str | None = None
    quoting: Quoting | None = None
    text: str | None = None
    document: str | int = FILE

    def __post_init__(self) -> None:
        check_document(self.document)
        if self.encoding is not None:
            check_encoding(self.encoding)
        if self.delimiter is not None:
            check_delimiter(self.delimiter)
        if self.quoting not in (None, *get_args(Quoting)):
            raise ValueError(f'quoting is {self.quoting!r}; it is one of {", ".join(get_args(Quoting))}')

    def settings(self, paths: list[Path]) -> dict[str, object]:
        """Plain values that the rows of these files follow from; those of today's defaults are left out.

        Raises:
            ValueError: A setting is of no use to any of them.
        """
        kinds = {kind_of(path) for path in paths}
        if self.encoding is not None and not kinds - {*_BINARY}:
            raise SettingsError(f'encoding is {self.encoding!r}, but none of the files is a text file; leave it out')
        given: dict[str, object] = {'delimiter': self.delimiter, 'quoting': self.quoting}
        for name, value in given.items():
            if value is not None and not kinds & {*_DELIMITED}:
                raise SettingsError(f'{name} is {value!r}, but none of the files is csv or tsv; leave it out')
        if self.document != FILE:
            if not kinds & {*TEXTS}:
                raise SettingsError(
                    f'document is {self.document!r}, but none of the files is one of {", ".join(TEXTS)}; leave it out'
                )
            given['document'] = self.document
        if self.encoding is not None:
            given['encoding'] = check_encoding(self.encoding)
        if '.tsv' in kinds and self.quoting is None:
            given['quoting'] = 'none in tsv'  # before, it was as in csv
        return {name: value for name, value in given.items() if value is not None}


def spans(path: Path, column: str, n_bytes: int, encoding: str | None = None) -> list[tuple[Span, int]]:
    """Cut a file into spans of about n bytes of text, where its kind allows; each with about how many it has.

    Raises:
        ValueError: The file is broken.
    """
    size = path.stat().st_size
    if kind_of(path) == '.parquet':
        return _parquet_spans(path, column, n_bytes)
    if is_packed(path):
        return [(Span(str(path)), size * UNPACKED_RATIO)]
    if kind_of(path) not in _LINES or size <= n_bytes or not is_utf8(path, encoding):
        return [(Span(str(path)), size)]
    starts = range(0, size, n_bytes)
    return [(Span(str(path), start, min(start + n_bytes, size)), min(n_bytes, size - start)) for start in starts]


def read_span(span: Span, columns: list[str], reading: Reading = Reading()) -> Iterator[dict[str, object]]:
    """The rows of a span, with these columns of it.

    Raises:
        ValueError: The file is broken, or a row has no such column.
    """
    path = Path(span.path)
    with _named(path):
        yield from _rows(path, span, columns, reading)
    tally.count(files=not span.start)


def file_columns(path: Path, reading: Reading = Reading()) -> list[str]:
    """The columns of a file, or of its first row; none where it has no row.

    Raises:
        ValueError: The file is broken, or is no file; or its column of texts is of another type.
    """
    kind = kind_of(path)
    with _named(path):
        if not path.is_file():
            raise ValueError(describe_no_file(path))
        if not kind:
            raise SettingsError(_unreadable(path))
        if kind in TEXTS:
            return _TEXT_COLUMNS
        if not path.stat().st_size:
            return []
        if kind in _BINARY:
            from .arrow_rows import arrow_columns

            return arrow_columns(path, reading.text)
        if kind in _DELIMITED:
            from .delimited import Dialect, delimited_columns

            dialect = Dialect.of(path, reading.delimiter, reading.quoting)
            return delimited_columns(path, dialect, reading.encoding)
        return list(next(_rows(path, Span(str(path)), [], replace(reading, text=None)), {}))


@functools.lru_cache(1 << 20)
def is_marked(path: Path, size: int, modified: int) -> bool:
    """Whether a file that is one text begins with a byte order mark of UTF-8; of a file's size and time read once.

    Raises:
        ValueError: The file is broken.
    """
    if kind_of(path) not in TEXTS:
        return False
    with _named(path):
        return starts_with(path, [codecs.BOM_UTF8])


def describe_no_file(path: Path) -> str:
    """What a path is that is neither a file nor a folder, for people."""
    if path.is_symlink():
        return f'{path} is a link to {path.readlink()}, which is not there; mend the link, or remove it'
    if path.exists():
        return f'{path} is no regular file (a pipe, a device, a folder); write its output to a file, or leave it out'
    return f'{path} is not there any more; restore it, or leave it out'


def _rows(path: Path, span: Span, columns: list[str], reading: Reading) -> Iterator[dict[str, object]]:
    kind = kind_of(path)
    encoding = reading.encoding
    if kind in _BINARY:
        from .arrow_rows import read_arrow

        return read_arrow(path, columns, None if span.end is None else list(range(span.start, span.end)))
    if kind in _LINES:
        return read_json_lines(path, columns, reading.text, encoding, span.start, span.end)
    if kind == '.json':
        return read_json(path, columns, reading.text, encoding)
    if kind in _DELIMITED:
        from .delimited import Dialect, read_delimited

        return read_delimited(path, columns, Dialect.of(path, reading.delimiter, reading.quoting), encoding)
    if kind in TEXTS:
        return _read_text(path, encoding, reading.document)
    raise SettingsError(_unreadable(path))


def _unreadable(path: Path) -> str:
    return (
        f'cannot read {path}: its name must end in one of {", ".join((*TABLES, *TEXTS))}, all but parquet and arrow '
        f'perhaps with {", ".join(PACKED)} behind it'
    )


def _read_text(path: Path, encoding: str | None, document: str | int) -> Iterator[dict[str, object]]:
    with open_text(path, encoding) as text:
        try:
            for found in cut(text, document):
                yield {'text': found, 'path': str(path)}
        except UnicodeDecodeError as error:
            raise explain_not_utf8(path) or error from None


def _parquet_spans(path: Path, column: str, n_bytes: int) -> list[tuple[Span, int]]:
    from .arrow_rows import parquet_groups

    with _named(path):
        groups = parquet_groups(path, column)
    found: list[tuple[Span, int]] = []
    start = size = 0
    for i, group in enumerate(groups):
        size += group
        if size >= n_bytes or i == len(groups) - 1:
            found.append((Span(str(path), start, i + 1), size))
            start = i + 1
            size = 0
    return found or [(Span(str(path)), 0)]


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have what the system and libraries raise over a file name it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not UTF-8 ({error}); convert it, or leave it out') from error
    except PermissionError as error:
        raise ValueError(f'{path} may not be read ({error.strerror}); change its mode, or leave it out') from error
    except _broken() as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's own; the libraries' have no number
            raise
        problem = ' '.join(str(error).split())
        raise ValueError(f'{path} is broken or cut short ({problem}); fetch it again, or leave it out') from error


def _broken() -> tuple[type[Exception], ...]:
    """What the libraries that were needed raise over a broken file."""
    loaded = sys.modules.get('pyarrow')
    return (*_BROKEN, OSError, *(() if loaded is None else (loaded.ArrowException,)))
