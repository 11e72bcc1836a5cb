"""How much was read of files, counted where they are read: for people, beside how many documents that gave."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Tally:
    """What was read to its end.

    Args:
        files: How many files, each counted where its first byte is.
        lines: How many lines the files that have some (jsonl, csv, tsv) hold, headers included.
    """

    files: int = 0
    lines: int = 0


# Sources of the user's, and generators of ours, lie between who reads and who wants to know; a context reaches through.
_current: ContextVar[Tally | None] = ContextVar('tally', default=None)


@contextlib.contextmanager
def counting() -> Iterator[Tally]:
    """While this lasts, what this thread reads is counted."""
    tally = Tally()
    token = _current.set(tally)
    try:
        yield tally
    finally:
        _current.reset(token)


def count(files: int = 0, lines: int = 0) -> None:
    """Add to the tally, if one is kept."""
    tally = _current.get()
    if tally is not None:
        tally.files += files
        tally.lines += lines
