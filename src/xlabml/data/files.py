"""Rows of parquet, JSON, CSV and text files, one after the other, with errors that say which file and line."""

import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet

_KINDS = ('.parquet', '.jsonl', '.ndjson', '.json', '.csv', '.tsv', '.txt')
_PACKED = ('.gz', '.xz', '.zst')
_BROKEN = (pyarrow.ArrowException, EOFError, lzma.LZMAError, gzip.BadGzipFile)
_TEXT_COLUMNS = ['text', 'path']


def is_readable(path: Path) -> bool:
    """Whether the name says that we can read it."""
    return _kind(path) in _KINDS and not path.name.startswith(('.', '_'))


def read_file(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    """The rows of a file, with these columns of it.

    Raises:
        ValueError: The file is broken, or a row has no such column.
    """
    reader = _READERS.get(_kind(path))
    if reader is None:
        raise ValueError(
            f'cannot read {path}: its name must end in one of {", ".join(_KINDS)} (and {", ".join(_PACKED)})'
        )
    try:
        yield from reader(path, columns)
    except _BROKEN as error:
        raise _broken(path, error) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is not UTF-8: byte 0x{error.object[error.start]:02X} ({error.reason}); convert it, or leave it out'
        ) from error


def file_columns(path: Path) -> list[str]:
    """The columns of a file, or of its first row.

    Raises:
        ValueError: The file is broken.
    """
    kind = _kind(path)
    if kind == '.txt':
        return _TEXT_COLUMNS
    try:
        if kind == '.parquet':
            return list(pyarrow.parquet.read_schema(path).names)
        if kind in ('.csv', '.tsv'):
            with _open(path) as raw, _open_csv(path, raw, []) as reader:
                return list(reader.schema.names)
    except _BROKEN as error:
        raise _broken(path, error) from error
    return list(next(read_file(path, []), {}))


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(f'{path} is broken or cut short ({error}); fetch it again, or leave it out')


def _kind(path: Path) -> str:
    suffixes = path.suffixes[-2:]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ''


def _open(path: Path) -> io.BufferedIOBase:
    if path.suffix == '.gz':
        return gzip.GzipFile(path)
    if path.suffix == '.xz':
        return lzma.LZMAFile(path)
    if path.suffix == '.zst':
        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), 'zstd'))
    return path.open('rb')


def _parquet(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024, columns=columns or None):
            yield from batch.to_pylist()


def _csv(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    with _open(path) as raw, _open_csv(path, raw, columns) as batches:
        for batch in batches:
            yield from batch.to_pylist()


def _open_csv(path: Path, raw: io.BufferedIOBase, columns: list[str]) -> pyarrow.csv.CSVStreamingReader:
    """A reader of these columns (none: all): the first, the text, is taken as it stands; other types are inferred."""
    return pyarrow.csv.open_csv(
        raw,
        parse_options=pyarrow.csv.ParseOptions(
            delimiter='\t' if _kind(path) == '.tsv' else ',', newlines_in_values=True
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=columns, column_types={name: pyarrow.string() for name in columns[:1]}
        ),
    )


def _json(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    with _open(path) as raw:
        start = raw.read(1024).lstrip(b'\xef\xbb\xbf \t\r\n')[:1]
    if start != b'[':
        yield from _json_lines(path, columns)
        return
    with _open(path) as raw:
        try:
            rows = json.load(raw)
        except json.JSONDecodeError as error:
            raise ValueError(f'{path}:{error.lineno}: not JSON ({error.msg}); mend it, or leave the file out') from None
    for number, row in enumerate(rows):
        yield _check_row(row, columns, f'{path}, entry {number}')


def _json_lines(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    with _open(path) as raw:
        for number, line in enumerate(raw, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode('utf-8-sig' if number == 1 else 'utf-8'))
            except json.JSONDecodeError as error:
                raise ValueError(f'{path}:{number}: not JSON ({error.msg}); mend the line, or remove it') from None
            except UnicodeDecodeError as error:
                raise ValueError(f'{path}:{number}: not UTF-8 ({error.reason}); mend the line, or remove it') from None
            yield _check_row(row, columns, f'{path}:{number}')


def _check_row(row: Any, columns: list[str], where: str) -> dict[str, object]:
    if not isinstance(row, dict):
        raise ValueError(f'{where}: a row must be an object with columns, but this is {type(row).__name__}')
    for name in columns:
        if name not in row:
            raise ValueError(f'{where}: no column {name!r} in this row; it has {", ".join(map(str, row))}')
    return row


def _text(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    with _open(path) as raw:
        yield {'text': raw.read().decode(), 'path': str(path)}


_READERS: dict[str, Callable[[Path, list[str]], Iterator[dict[str, object]]]] = {
    '.parquet': _parquet,
    '.jsonl': _json_lines,
    '.ndjson': _json_lines,
    '.json': _json,
    '.csv': _csv,
    '.tsv': _csv,
    '.txt': _text,
}
