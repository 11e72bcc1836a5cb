"""Rows of plain values as a file: JSON lines, CSV or parquet, by the ending of its name, written atomically."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from xlabml.errors import SettingsError
from xlabml.plain import Plain

from .files import replacing

ENDINGS = ('.jsonl', '.csv', '.parquet')


def check_ending(path: str | Path, setting: str) -> None:
    """Refuse a file of another kind.

    Args:
        path: The file.
        setting: What names it, for the message.

    Raises:
        SettingsError: Its name ends in none of ENDINGS.
    """
    if Path(path).suffix not in ENDINGS:
        raise SettingsError(f'{setting} is {path}; give a file whose name ends in {", ".join(ENDINGS)}')


def flatten(row: Mapping[str, Plain]) -> dict[str, Plain]:
    """A row as one level of columns: what is in a dictionary is named `outer.inner`."""
    found: dict[str, Plain] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= {f'{name}.{inner}': one for inner, one in value.items()}
        else:
            found[name] = value
    return found


def write_rows(path: Path, rows: Iterable[Mapping[str, Plain]], columns: Mapping[str, str] | None = None) -> int:
    """Write rows, and return how many they are.

    JSON lines have them as they are; CSV and parquet have a column for each value of a dictionary, `outer.inner`, and
    lists are JSON in a cell of CSV.

    Args:
        path: The file.
        rows: All with the same names.
        columns: Which columns are written, from their names in the file to those of `flatten`; None: all.

    Raises:
        SettingsError: The rows have no such column.
    """
    picked = rows if columns is None else _pick(rows, columns)
    with replacing(path) as beside:
        if path.suffix == '.parquet':
            return _write_parquet(beside, [flatten(row) for row in picked])
        n = 0
        # What a text cannot be encoded as (half a surrogate pair) is written as an escape.
        with beside.open('w', encoding='utf-8', errors='backslashreplace', newline='') as file:
            if path.suffix == '.csv':
                writer = csv.writer(file, lineterminator='\n')
                for row in picked:
                    flat = flatten(row)
                    if not n:
                        writer.writerow(flat)
                    writer.writerow([_as_cell(value) for value in flat.values()])
                    n += 1
            else:
                for row in picked:
                    file.write(json.dumps(row) + '\n')
                    n += 1
    return n


def _pick(rows: Iterable[Mapping[str, Plain]], columns: Mapping[str, str]) -> Iterator[dict[str, Plain]]:
    for row in rows:
        flat = flatten(row)
        for name in columns.values():
            if name not in flat:
                raise SettingsError(f'there is no column {name!r} to write; there are {", ".join(flat)}')
        yield {name: flat[inner] for name, inner in columns.items()}


def _write_parquet(path: Path, rows: Sequence[dict[str, Plain]]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path)
    return len(rows)


def _as_cell(value: Plain) -> Plain:
    """A value as CSV holds it."""
    if isinstance(value, list | bool):
        return json.dumps(value)
    return '' if value is None else value
