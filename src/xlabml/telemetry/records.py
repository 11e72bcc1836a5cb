"""A run's rows as JSON lines, appended one by one; they can be read during the run, and after a kill.

Four files in the folder of a run have one JSON object per line: `log.jsonl` (training), `eval.jsonl` (evaluations),
`run.jsonl` (starts and ends) and `samples.jsonl` (texts that the model generated at validations).
"""

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from xlabml import artifacts, bounds

TRAINING = 'log.jsonl'
EVALUATION = 'eval.jsonl'
EVENTS = 'run.jsonl'
SAMPLES = 'samples.jsonl'

_COUNTS = ('max_steps', 'parameters', 'trained_parameters', 'devices', 'threads')
_TEXTS = ('event', 'command', 'split', 'error', 'task', 'device', 'precision', 'peak_is', 'command_line')
_MAX_BYTES = 4 << 30
"""Maximum size of a file: rows of a kilobyte at each of four million steps."""

Row = dict[str, Any]
"""JSON values by name; those with a name that readers rely on have the type that `_is_ours` checks."""


class Rows(NamedTuple):
    """The rows of a file.

    Args:
        rows: The rows, in their order.
        n_broken: Number of lines that are not rows: cut off while they were written, or damaged.
    """

    rows: list[Row]
    n_broken: int


def append(path: Path, row: Mapping[str, object]) -> None:
    """Append a row with the current time; it is in the file when this returns.

    Numbers that are not finite become null, as JSON requires. A line that was cut off stays a separate line.
    """
    values = {'time': datetime.now(UTC).isoformat(timespec='milliseconds'), **row}
    line = json.dumps({name: _to_json(value) for name, value in values.items()}, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a+b') as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        is_cut = size > 0 and file.read(1) != b'\n'
        file.write(b'\n' * is_cut + line.encode() + b'\n')


def drop_after(path: Path, step: int) -> int:
    """Remove the rows of later steps, which a run resumed from this step supersedes, and lines that are cut off.

    The file is replaced atomically.

    Returns:
        Number of lines removed.
    """
    if not path.is_file():
        return 0
    lines = _content(path).splitlines()
    kept = [line for line in lines if (row := _parse(line)) is not None and row.get('step', 0) <= step]
    if len(kept) < len(lines) or not path.read_bytes().endswith(b'\n'):
        artifacts.write_bytes(path, b''.join(line + b'\n' for line in kept))
    return len(lines) - len(kept)


def read(path: Path) -> Rows:
    """The rows of a file; none if it does not exist.

    Raises:
        ValueError: It is too large.
    """
    lines = _content(path).splitlines() if path.is_file() else []  # a pipe or a device would be read without end
    rows = [_parse(line) for line in lines if line.strip()]
    return Rows([row for row in rows if row is not None], sum(row is None for row in rows))


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # cut off, or not even UTF-8
        return None
    return row if isinstance(row, dict) and all(_is_ours(*item) for item in row.items()) else None


def _content(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f'{path} has {path.stat().st_size:,} bytes, more than the limit of {_MAX_BYTES:,}; check it')
    return path.read_bytes()


def _is_ours(name: str, value: object) -> bool:
    """Whether a value has the type that readers rely on: they compute with numbers and times, and show texts."""
    if name == 'time':
        return isinstance(value, str) and _is_time(value)
    if name in _TEXTS:
        return isinstance(value, str)
    if name == 'step' and type(value) is not int:
        return False
    if name in _COUNTS and not (value is None or type(value) is int):
        return False
    if name == 'peak_tflops' and not isinstance(value, int | float):
        return False
    return not isinstance(value, int) or abs(value) < bounds.ANY


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None  # others cannot be compared with ours
    except ValueError:
        return False


def _to_json(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
