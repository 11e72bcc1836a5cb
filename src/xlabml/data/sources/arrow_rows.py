"""Rows of parquet and Arrow files (as the datasets library saves them); of parquet, a stretch on its own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from .json_rows import refuse_type
from .kinds import kind_of

_BATCH_ROWS = 1024
_MAGIC = b'ARROW1'  # of an Arrow file; a stream has none


def read_arrow(path: Path, columns: list[str], row_groups: list[int] | None = None) -> Iterator[dict[str, object]]:
    """The rows of a parquet or Arrow file, with these columns of it.

    Args:
        row_groups: Of a parquet file, those to read; None: all.
    """
    if kind_of(path) == '.parquet':
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=row_groups, columns=columns or None):
                yield from batch.to_pylist()
        return
    for batch in _batches(path):
        some = batch.select(columns) if columns else batch
        some.validate(full=True)  # what another program wrote may point outside of its own buffers
        for start in range(0, len(some), _BATCH_ROWS):
            yield from some.slice(start, _BATCH_ROWS).to_pylist()


def arrow_columns(path: Path, text: str | None = None) -> list[str]:
    """The columns of a file; none where it has no row.

    Raises:
        ValueError: The column that shall hold texts is of another type.
    """
    if kind_of(path) == '.parquet':
        metadata = pyarrow.parquet.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        has_rows = metadata.num_rows > 0
    else:
        schema = _schema(path)
        has_rows = any(len(batch) for batch in _batches(path))
    if not has_rows:
        return []
    if text is not None and schema.names.count(text) == 1:
        kind = schema.field(text).type
        if not _holds_text(kind):
            raise ValueError(f'{path}, every row: {refuse_type(text, str(kind))}')
    return list(schema.names)


def parquet_groups(path: Path, column: str) -> list[int]:
    """How many bytes each row group has in a column, unpacked."""
    metadata = pyarrow.parquet.read_metadata(path)
    sizes = []
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        chunks = [group.column(k) for k in range(group.num_columns)]
        sizes.append(sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column))
    return sizes


def _holds_text(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pyarrow.BaseExtensionType):
        kind = kind.storage_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[pyarrow.NativeFile, bool]]:
    """An Arrow file, and whether it is one rather than a stream."""
    with pyarrow.OSFile(str(path)) as source:
        is_file = source.read(len(_MAGIC)) == _MAGIC
        source.seek(0)
        yield source, is_file


def _schema(path: Path) -> pyarrow.Schema:
    with _open(path) as (source, is_file):
        return (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source).schema


def _batches(path: Path) -> Iterator[pyarrow.RecordBatch]:
    with _open(path) as (source, is_file):
        if not is_file:
            yield from pyarrow.ipc.open_stream(source)
            return
        file = pyarrow.ipc.open_file(source)
        for i in range(file.num_record_batches):
            yield file.get_batch(i)
