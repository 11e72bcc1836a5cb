"""A run's rows as JSON lines: written one by one, read while the run goes on and after it was cut off.

Three files lie in the folder of a run, one JSON object a line: `log.jsonl` (training), `eval.jsonl` (evaluations) and
`run.jsonl` (every start and end).
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

_COUNTS = ('max_steps', 'parameters', 'trained_parameters', 'devices', 'threads')
_TEXTS = ('event', 'command', 'split', 'error', 'task', 'device', 'precision', 'peak_is')
_MAX_BYTES = 4 << 30
"""Of a file: rows of a kilobyte at each of four million steps."""


class Rows(NamedTuple):
    """What could be read of a file.

    Args:
        rows: The rows, in their order.
        n_broken: How many lines are none: cut off while they were written, or damaged.
    """

    rows: list[dict[str, Any]]
    n_broken: int


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Write a row behind the others, and the time of day with it; it is in the file when this returns.

    What is not finite becomes null, which JSON can say. A line that was cut off stays a line of its own.
    """
    values = {'time': datetime.now(UTC).isoformat(timespec='milliseconds'), **row}
    line = json.dumps({name: _sayable(value) for name, value in values.items()}, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a+b') as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        is_cut = size > 0 and file.read(1) != b'\n'
        file.write(b'\n' * is_cut + line.encode() + b'\n')


def drop_after(path: Path, step: int) -> int:
    """Take out the rows of later steps, which a run that goes on from this one supersedes, and lines that are cut off.

    The file is replaced at once: whoever reads it meanwhile sees the old one or the new one.

    Returns:
        How many rows went.
    """
    if not path.is_file():
        return 0
    lines = _content(path).splitlines()
    kept = [line for line in lines if (row := _parse(line)) is not None and row.get('step', 0) <= step]
    if len(kept) < len(lines) or not path.read_bytes().endswith(b'\n'):
        artifacts.write_bytes(path, b''.join(line + b'\n' for line in kept))
    return len(lines) - len(kept)


def read(path: Path) -> Rows:
    """The rows of a file; none where there is no file.

    Raises:
        ValueError: It is too large.
    """
    lines = _content(path).splitlines() if path.is_file() else []  # a pipe or a device would be read without end
    rows = [_parse(line) for line in lines if line.strip()]
    return Rows([row for row in rows if row is not None], sum(row is None for row in rows))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # cut off, or not even UTF-8
        return None
    return row if isinstance(row, dict) and all(_is_ours(*item) for item in row.items()) else None


def _content(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f'{path} has {path.stat().st_size:,} bytes, where {_MAX_BYTES:,} are the most; look at it')
    return path.read_bytes()


def _is_ours(name: str, value: Any) -> bool:
    """Whether a row may have such a value: whoever reads rows computes with numbers and times, and shows texts."""
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


def _sayable(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
