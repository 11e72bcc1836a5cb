"""Rows of parquet, JSON, CSV and text files, one after the other, with errors that say which file and line.

Large parquet and JSON-lines files can be read in spans, each on its own. pyarrow is loaded by the first file that needs
it: the sources that come in packages do without.
"""

import contextlib
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow

from xlabml.errors import SettingsError

_KINDS = ('.parquet', '.jsonl', '.ndjson', '.json', '.csv', '.tsv', '.txt')
PACKED = ('.gz', '.xz', '.zst')
_BROKEN = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)
_BATCH_ROWS = 1024
_CSV_BLOCK_BYTES = (1 << 20, 1 << 24)  # a row must fit; 32 blocks are read ahead, so that the larger takes 0.5 GB
_TEXT_COLUMNS = ['text', 'path']
UNPACKED_RATIO = 4  # of text to its compressed file, about; to say how much disk a store will take


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
        unit = 'row group' if _kind(Path(self.path)) == '.parquet' else 'byte'
        return f'{self.path}, {unit} {self.start} on' if self.start else self.path


def is_readable(path: Path) -> bool:
    """Whether the name says that we can read it."""
    return _kind(path) in _KINDS and not path.name.startswith(('.', '_'))


def spans(path: Path, column: str, n_bytes: int) -> list[tuple[Span, int]]:
    """Cut a file into spans of about so many bytes of text, where its kind allows; each with how many it has, about.

    Raises:
        ValueError: The file is broken.
    """
    size = path.stat().st_size
    if _kind(path) == '.parquet':
        return _parquet_spans(path, column, n_bytes)
    if path.suffix in PACKED:
        return [(Span(str(path)), size * UNPACKED_RATIO)]
    if _kind(path) not in ('.jsonl', '.ndjson') or size <= n_bytes:
        return [(Span(str(path)), size)]
    starts = range(0, size, n_bytes)
    return [(Span(str(path), start, min(start + n_bytes, size)), min(n_bytes, size - start)) for start in starts]


def read_file(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    """The rows of a file, with these columns of it.

    Raises:
        ValueError: The file is broken, or a row has no such column.
    """
    return read_span(Span(str(path)), columns)


def read_span(span: Span, columns: list[str]) -> Iterator[dict[str, object]]:
    """The rows of a span, with these columns of it.

    Raises:
        ValueError: The file is broken, or a row has no such column.
    """
    path = Path(span.path)
    reader = _READERS.get(_kind(path))
    if reader is None:
        raise SettingsError(
            f'cannot read {path}: its name must end in one of {", ".join(_KINDS)} (and {", ".join(PACKED)})'
        )
    with _named(path):
        if span.end is None:
            yield from reader(path, columns)
        elif _kind(path) == '.parquet':
            yield from _parquet(path, columns, list(range(span.start, span.end)))
        else:
            yield from _json_lines(path, columns, span.start, span.end)


def file_columns(path: Path) -> list[str]:
    """The columns of a file, or of its first row; none where it has no row.

    Raises:
        ValueError: The file is broken.
    """
    kind = _kind(path)
    if kind == '.txt':
        return _TEXT_COLUMNS
    with _named(path):
        if kind == '.parquet':
            import pyarrow.parquet

            metadata = pyarrow.parquet.read_metadata(path)
            return list(metadata.schema.to_arrow_schema().names) if metadata.num_rows else []
        if kind in ('.csv', '.tsv'):
            for batch in _csv_batches(path, []):
                return list(batch.schema.names)
    return list(next(read_file(path, []), {}))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have what libraries raise over a broken file name it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is not UTF-8: byte 0x{error.object[error.start]:02X} ({error.reason}); convert it, or leave it out'
        ) from error
    except _raised() as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's own; the libraries' have no number
            raise
        is_csv = type(error).__name__ == 'ArrowInvalid' and _kind(path) in ('.csv', '.tsv')
        remedy = f'mend the row (it may have {_CSV_BLOCK_BYTES[-1] >> 20} MB), or ' if is_csv else ''
        raise ValueError(f'{path} is broken or cut short ({error}); {remedy}fetch it again, or leave it out') from error


def _raised() -> tuple[type[Exception], ...]:
    """What libraries raise over a broken file: pyarrow too, once it was needed."""
    arrow = sys.modules.get('pyarrow')
    return (*_BROKEN, OSError) if arrow is None else (*_BROKEN, OSError, arrow.ArrowException)


def _kind(path: Path) -> str:
    suffixes = path.suffixes[-2:]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ''


def _open(path: Path) -> io.BufferedIOBase:
    if path.suffix == '.gz':
        return gzip.GzipFile(path)
    if path.suffix == '.xz':
        return lzma.LZMAFile(path)
    if path.suffix == '.zst':
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), 'zstd'))
    return path.open('rb')


def _parquet(path: Path, columns: list[str], row_groups: list[int] | None = None) -> Iterator[dict[str, object]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=row_groups, columns=columns or None):
            yield from batch.to_pylist()


def _parquet_spans(path: Path, column: str, n_bytes: int) -> list[tuple[Span, int]]:
    import pyarrow.parquet

    with _named(path):
        metadata = pyarrow.parquet.read_metadata(path)
    found: list[tuple[Span, int]] = []
    start = size = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        chunks = [group.column(k) for k in range(group.num_columns)]
        size += sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
        if size >= n_bytes or i == metadata.num_row_groups - 1:
            found.append((Span(str(path), start, i + 1), size))
            start, size = i + 1, 0
    return found or [(Span(str(path)), 0)]


def _csv(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    for batch in _csv_batches(path, columns):
        for start in range(0, len(batch), _BATCH_ROWS):
            yield from batch.slice(start, _BATCH_ROWS).to_pylist()


def _csv_batches(path: Path, columns: list[str]) -> 'Iterator[pyarrow.RecordBatch]':
    """The rows of a file, many at a time; the first batch has none, and says which columns there are."""
    import pyarrow

    n_read = 0
    for block_bytes in _CSV_BLOCK_BYTES:
        try:
            with _open(path) as raw, _open_csv(path, raw, columns, block_bytes) as reader:
                yield pyarrow.RecordBatch.from_pylist([], reader.schema)
                end = 0
                for batch in reader:
                    start, end = end, end + len(batch)
                    if end > n_read:
                        yield batch.slice(max(0, n_read - start))
                        n_read = end
            return
        except pyarrow.ArrowInvalid as error:
            if 'straddling' not in str(error) or block_bytes == _CSV_BLOCK_BYTES[-1]:
                raise


def _open_csv(path: Path, raw: io.BufferedIOBase, columns: list[str], block_bytes: int) -> Any:
    """A reader of these columns (none: all): the first, the text, is taken as it stands; other types are inferred."""
    import pyarrow.csv

    return pyarrow.csv.open_csv(
        raw,
        # With threads the rows are not counted, and an error does not say which.
        read_options=pyarrow.csv.ReadOptions(block_size=block_bytes, use_threads=False),
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
        try:
            _check_row(row, columns)
        except ValueError as error:
            raise ValueError(f'{path}, entry {number}: {error}') from None
        yield row


def _json_lines(path: Path, columns: list[str], start: int = 0, end: int | None = None) -> Iterator[dict[str, object]]:
    with _open(path) as raw:
        if start:
            raw.seek(start - 1)
            raw.readline()
        place = first = raw.tell() if start else 0
        for number, line in enumerate(raw, 1):
            if end is not None and place >= end:
                return
            place += len(line)
            if not line.strip():
                continue
            try:
                row = _parse(line.decode('utf-8-sig' if number == 1 and not start else 'utf-8').strip(' \t\r\n'))
                _check_row(row, columns)
            except json.JSONDecodeError as error:
                problem = f'not JSON ({error.msg}); mend the line, or remove it'
            except UnicodeDecodeError as error:
                problem = f'not UTF-8 ({error.reason}); mend the line, or remove it'
            except ValueError as error:
                problem = str(error)
            else:
                yield row
                continue
            raise ValueError(f'{path}:{number + _count_lines(path, first)}: {problem}')


_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def _parse(text: str) -> Any:
    """What `json.loads` gives, without what it does before and after: half of the time of a short line.

    Raises:
        JSONDecodeError: The text is no JSON.
    """
    try:
        value, end = _scan(text, 0)
    except StopIteration as error:
        raise json.JSONDecodeError('Expecting value', text, error.value) from None
    if end != len(text):
        raise json.JSONDecodeError('Extra data', text, end)
    return value


def _count_lines(path: Path, end: int) -> int:
    """How many lines end before a byte."""
    n = 0
    with path.open('rb') as raw:
        while end and (block := raw.read(min(end, 1 << 20))):
            n, end = n + block.count(b'\n'), end - len(block)
    return n


def _check_row(row: Any, columns: list[str]) -> None:
    if not isinstance(row, dict):
        raise ValueError(f'a row must be an object with columns, but this is {type(row).__name__}')
    for name in columns:
        if name not in row:
            raise ValueError(f'no column {name!r} in this row; it has {", ".join(map(str, row))}')


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
