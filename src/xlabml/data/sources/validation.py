"""Documents that cannot be used: which, and why."""

import base64
import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .base import Source

REASONS = ('empty', 'not a string', 'lone surrogate')


class Invalid(NamedTuple):
    """A document that cannot be used.

    Args:
        row: Its number in its source.
        reason: One of REASONS, for which it is left out; or that it has nothing in a column that is needed.
        text: What stood where the text should be.
    """

    row: int
    reason: str
    text: object


def utf8(text: object) -> bytes | str:
    """A document's raw bytes; or, where it is invalid, the reason as a string."""
    if not isinstance(text, str):
        return 'not a string'
    try:
        return text.encode() or 'empty'
    except UnicodeEncodeError:
        return 'lone surrogate'


def validate(source: Source, columns: Sequence[str] = ()) -> Iterator[Invalid | None]:
    """Goes through a source: None for a valid document, what is wrong for another one.

    Args:
        columns: Those in which every document must have something.
    """
    for document in source.documents(columns):
        data = utf8(document.text)
        missing = [f'nothing in the column {name!r}' for name in columns if document.columns[name] is None]
        if isinstance(data, str):
            yield Invalid(document.row, data, document.text)
        else:
            yield Invalid(document.row, missing[0], document.text) if missing else None


def write_invalid(invalids: Iterable[Invalid], path: Path, dump: bool = False) -> int:
    """Write a CSV file `index,reason` and, when asked, the text in base64 (of its UTF-8, surrogates passed through).

    Returns:
        How many there were.
    """
    n = 0
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['index', 'reason', *(['text'] if dump else [])])
        for invalid in invalids:
            n += 1
            text = invalid.text if isinstance(invalid.text, str) else repr(invalid.text)
            dumped = [base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode()] if dump else []
            writer.writerow([invalid.row, invalid.reason, *dumped])
    return n
