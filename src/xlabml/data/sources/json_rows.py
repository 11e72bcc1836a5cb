"""Rows of JSON files: an array of objects, or an object a line, of which a stretch can be read on its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import tally
from .encodings import explain_not_utf8, not_utf8, open_utf8

_PEEKED_BYTES = 1024


def read_json(path: Path, columns: list[str], text: str | None, encoding: str | None) -> Iterator[dict[str, object]]:
    """The rows of a file that is an array, or has an object a line.

    Args:
        columns: What each row has to have.
        text: The column that has to hold texts; None: none has.
        encoding: What the file is written in; None: UTF-8, or what its byte order mark says.

    Raises:
        ValueError: The file is broken; the message says which line or entry.
    """
    with open_utf8(path, encoding) as raw:
        start = raw.peek(_PEEKED_BYTES)[:_PEEKED_BYTES].lstrip(b' \t\r\n')[:1]  # type: ignore[attr-defined]
        if start == b'[':
            data = raw.read()
    if start != b'[':
        yield from read_json_lines(path, columns, text, encoding)
        return
    try:
        rows = json.loads(data.decode())
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}:{error.lineno}: not JSON ({error.msg}); mend it, or leave the file out') from None
    except UnicodeDecodeError as error:
        raise explain_not_utf8(path) or error from None
    except (RecursionError, ValueError) as error:
        raise ValueError(f'{path}: {_unreadable(error)}; mend it, or leave the file out') from None
    for number, row in enumerate(rows):
        try:
            _check_row(row, columns, text)
        except ValueError as error:
            raise ValueError(f'{path}, entry {number}: {error}') from None
        yield row


def read_json_lines(
    path: Path, columns: list[str], text: str | None, encoding: str | None, start: int = 0, end: int | None = None
) -> Iterator[dict[str, object]]:
    """The rows of a file that has an object a line; blank lines are none.

    Args:
        columns: What each row has to have.
        text: The column that has to hold texts; None: none has.
        encoding: What the file is written in; None: UTF-8, or what its byte order mark says.
        start: Of a plain file in UTF-8, the byte to begin at: with the first line that begins there or later.
        end: One past the last byte that a line may begin at; None: all lines.

    Raises:
        ValueError: The file is broken; the message says which line.
    """
    with open_utf8(path, encoding) as raw:
        place = first = 0
        if end is not None:
            if start:
                raw.seek(start - 1)
                raw.readline()
            place = first = raw.tell()
        number = 0
        for number, line in enumerate(raw, 1):
            if end is not None and place >= end and (start or number > 1):  # the first may be behind a mark
                number -= 1
                break
            place += len(line)
            if not line.strip():
                continue
            try:
                row = _parse(line.decode().strip(' \t\r\n'))
                _check_row(row, columns, text)
            except json.JSONDecodeError as error:
                problem = f'not JSON ({error.msg}); mend the line, or remove it'
            except UnicodeDecodeError as error:
                problem = f'not UTF-8 ({not_utf8(error, line)}'
            except RecursionError as error:
                problem = f'{_unreadable(error)}; mend the line, or remove it'
            except ValueError as error:
                problem = str(error)
            else:
                yield row
                continue
            raise ValueError(f'{path}:{number + _count_lines(path, first)}: {problem}')
        tally.count(lines=number)


_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def _parse(text: str) -> Any:
    """What `json.loads` returns, without what it does before and after: half of the time of a short line.

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
            n = n + block.count(b'\n')
            end = end - len(block)
    return n


def _unreadable(error: Exception) -> str:
    return 'JSON nested too deep to be read' if isinstance(error, RecursionError) else f'not JSON ({error})'


def _check_row(row: object, columns: list[str], text: str | None) -> None:
    if not isinstance(row, dict):
        raise ValueError(f'a row must be an object with columns, but this is {type(row).__name__}')
    for name in columns:
        if name not in row:
            raise ValueError(f'no column {name!r} in this row; it has {", ".join(map(str, row))}')
    if text is not None and type(row[text]) in (list, dict):
        raise ValueError(refuse_type(text, 'a list' if type(row[text]) is list else 'an object'))


def refuse_type(column: str, kind: str) -> str:
    """What is wrong with a text column that holds something else, for people."""
    remedy = ', or have a list of texts joined (JoinColumns)' if 'list' in kind else ''
    return f'column {column!r} holds {kind} where a text should be; make it a string, name another column{remedy}'
