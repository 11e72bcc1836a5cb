"""Rows of csv and tsv files, read by Arrow, whose parser drops or swallows what is not well quoted: that is checked."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv

from . import tally
from .encodings import explain_not_utf8, open_text, open_utf8
from .kinds import kind_of
from .quotes import CheckedQuotes, Quoting

BATCH_ROWS = 1024
_BLOCK_BYTES = (1 << 20, 1 << 24)  # a row must fit; 32 blocks are read ahead, so that the larger takes 0.5 GB
_MAX_MESSAGE = 200


@dataclass(frozen=True)
class Dialect:
    """How the fields of a file are parted.

    Args:
        delimiter: The character between them.
        quoting: How a field may hold it, or line ends.
    """

    delimiter: str
    quoting: Quoting

    @classmethod
    def of(cls, path: Path, delimiter: str | None, quoting: Quoting | None) -> 'Dialect':
        """That of a file, where None is what its kind has by custom."""
        is_tsv = kind_of(path) == '.tsv'
        return cls(delimiter or ('\t' if is_tsv else ','), quoting or ('none' if is_tsv else 'doubled'))


def read_delimited(
    path: Path, columns: list[str], dialect: Dialect, encoding: str | None
) -> Iterator[dict[str, object]]:
    """The rows of a file, with these columns of it.

    Raises:
        ValueError: The file is broken; the message says which line.
    """
    for batch in _batches(path, columns, dialect, encoding):
        for start in range(0, len(batch), BATCH_ROWS):
            yield from batch.slice(start, BATCH_ROWS).to_pylist()


def delimited_columns(path: Path, dialect: Dialect, encoding: str | None) -> list[str]:
    """The columns of a file; none where it has no row.

    Raises:
        ValueError: The file is broken.
    """
    names: list[str] = []
    for batch in _batches(path, [], dialect, encoding):
        names = list(batch.schema.names)
        if len(batch):
            return names
    return []


def _batches(path: Path, columns: list[str], dialect: Dialect, encoding: str | None) -> Iterator[pyarrow.RecordBatch]:
    n_read = 0
    for block_bytes in _BLOCK_BYTES:
        with open_utf8(path, encoding) as raw:
            checked = CheckedQuotes(raw, path, dialect.delimiter, dialect.quoting, _BLOCK_BYTES[-1])
            try:
                with _open(checked, columns, dialect, block_bytes) as reader:
                    end = 0
                    for batch in reader:
                        start = end
                        end = end + len(batch)
                        if end > n_read:
                            yield batch.slice(max(0, n_read - start))
                            n_read = end
                checked.finish()
                tally.count(lines=checked.n_lines)
                return
            except pyarrow.ArrowInvalid as error:
                if checked.error is not None:
                    raise checked.error from None
                if 'Empty CSV file' in str(error) and not n_read:
                    checked.finish()
                    return
                if 'straddling' not in str(error) or block_bytes == _BLOCK_BYTES[-1]:
                    raise _explain(path, dialect, encoding, str(error)) from error


def _open(raw: CheckedQuotes, columns: list[str], dialect: Dialect, block_bytes: int) -> Any:
    """A reader of these columns (none: all): the first, the text, is taken as it stands; other types are inferred."""
    quoted = dialect.quoting != 'none'
    return pyarrow.csv.open_csv(
        raw,
        # With threads the rows are not counted, and an error does not say which.
        read_options=pyarrow.csv.ReadOptions(block_size=block_bytes, use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char='"' if quoted else False,
            escape_char='\\' if dialect.quoting == 'escaped' else False,
            newlines_in_values=quoted,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=columns, column_types={name: pyarrow.string() for name in columns[:1]}
        ),
    )


def _explain(path: Path, dialect: Dialect, encoding: str | None, message: str) -> ValueError:
    """What Arrow says, with the line of the file, and what to do."""
    if 'invalid UTF8' in message and (error := explain_not_utf8(path)) is not None:
        return error
    found = re.search(r'Row #(\d+): *', message)
    line = _line_of_row(path, dialect, encoding, int(found[1])) if found else None
    if found is None or line is None:
        where = f'{path} is broken or cut short'
        problem = message
    else:
        where = f'{path}:{line}'
        problem = message[found.end() :]
    problem = problem.partition('\n')[0][:_MAX_MESSAGE]
    return ValueError(
        f'{where} ({problem}); mend the row (it may have {_BLOCK_BYTES[-1] >> 20} MB), check delimiter and quoting, '
        'fetch the file again, or leave it out'
    )


def _line_of_row(path: Path, dialect: Dialect, encoding: str | None, row: int) -> int | None:
    """The line where a row begins, counted from 1 as rows are; None where Python's reader cannot tell."""
    quoting: Any = csv.QUOTE_NONE if dialect.quoting == 'none' else csv.QUOTE_MINIMAL
    escape = '\\' if dialect.quoting == 'escaped' else None
    with open_text(path, encoding, 'replace') as text:
        reader = csv.reader(text, delimiter=dialect.delimiter, quoting=quoting, escapechar=escape)
        n_rows = end = 0
        try:
            for fields in reader:
                start = end + 1
                end = reader.line_num
                n_rows += bool(fields)
                if n_rows == row:
                    return start
        except csv.Error:  # a field of more than 128 KiB
            pass
    return None
