"""Jobs with a time limit each, side by side or one after another, and a table of what they found.

A job is a process of its own session. One that hangs is killed with all of its children when its time is over, and
costs the others nothing. What a job has found so far is in its file of rows, so that it survives the kill.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.1
_LEAST_SECONDS = 3.0
"""A job that would get less is left out."""
_LOG_BYTES = 2_000_000
"""So much of the end of a job's output is kept."""


@dataclass
class Job:
    """A process, and what it has to do with others.

    Args:
        part: The letter in the table.
        name: It says what is tried; unique.
        command: Its words.
        limit: The most seconds that it may take.
        after: Names of jobs that have to be over before.
        reserve: Of the time of all jobs, so many seconds are kept for this one, whatever those before it take.
        environment: What differs from ours.
        read: Makes rows of what it printed, for programs that write none; given the text.
    """

    part: str
    name: str
    command: Sequence[str]
    limit: float
    after: Sequence[str] = ()
    reserve: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)
    read: Callable[[str], list[dict[str, Any]]] | None = None


@dataclass
class Outcome:
    """How a job ended.

    Args:
        status: ok, FAILED, timed out, no time left.
        seconds: How long it took.
        rows: What it found: `what`, `result`, `ok`, and figures.
        output: The end of what it printed.
    """

    status: str
    seconds: float
    rows: list[dict[str, Any]]
    output: str


class Running:
    """A job under way.

    Args:
        folder: For its output and rows.
        seconds: How long it may take.
    """

    def __init__(self, job: Job, folder: Path, seconds: float) -> None:
        self.job, self.seconds, self.began = job, seconds, time.monotonic()
        stem = job.name.replace(' ', '-').replace('/', '-')
        self.log, self.rows = folder / f'{stem}.log', folder / f'{stem}.jsonl'
        with self.log.open('wb') as log:
            self.process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **job.environment, 'GPU_ROWS': str(self.rows), 'PYTHONUNBUFFERED': '1'},
            )

    def look(self, is_over: str = '') -> Outcome | None:
        """How it ended; None: it goes on.

        Args:
            is_over: Kill it now, and say this of it.
        """
        seconds = time.monotonic() - self.began
        returned = self.process.poll()
        if returned is None and not is_over and seconds < self.seconds:
            return None
        if returned is None:
            kill(self.process.pid)
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)  # what it left behind
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)  # one that waits for a device's driver may not die
        output = self.log.read_bytes()[-_LOG_BYTES:].decode('utf-8', 'replace')
        rows = read_rows(self.rows)
        if self.job.read is not None:
            rows += self.job.read(output)
        if returned is None:
            status = f'{is_over or "timed out"} after {seconds:.0f} s'
        else:
            status = 'ok' if returned == 0 and all(row['ok'] for row in rows) else 'FAILED'
            if returned:
                last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), '')
                status = f'FAILED with {returned}: {last[:160]}' if not rows or rows[-1]['ok'] else 'FAILED'
        return Outcome(status, seconds, rows, output)


def run(
    jobs: Sequence[Job],
    seconds: float,
    folder: Path,
    tell: Callable[[Job, Outcome], None],
    is_over: Callable[[], bool] = lambda: False,
) -> dict[str, Outcome]:
    """Run all jobs; every one has an outcome.

    Args:
        seconds: For all of them together.
        folder: For outputs and rows.
        tell: Called as soon as a job is over.
        is_over: Once it says True, everything is killed.
    """
    end = time.monotonic() + seconds
    waiting = list(jobs)
    running: dict[str, Running] = {}
    done: dict[str, Outcome] = {}

    def finish(job: Job, outcome: Outcome) -> None:
        done[job.name] = outcome
        tell(job, outcome)

    try:
        while waiting or running:
            stopped = is_over()
            for name, one in list(running.items()):
                if (
                    outcome := one.look('interrupted' if stopped else 'timed out' if time.monotonic() > end else '')
                ) is not None:
                    del running[name]
                    finish(one.job, outcome)
            for job in list(waiting):
                if not stopped and any(name not in done for name in job.after):
                    continue
                waiting.remove(job)
                later = [other.reserve for other in waiting if job.name in _before(other, jobs)]
                left = end - time.monotonic() - sum(later)
                allowed = min(job.limit, left)
                if stopped or allowed < _LEAST_SECONDS:
                    finish(job, Outcome('interrupted' if stopped else 'no time left', 0.0, [], ''))
                    continue
                running[job.name] = Running(job, folder, allowed)
            time.sleep(_POLL_SECONDS)
    finally:
        for one in running.values():
            kill(one.process.pid)
    return done


def _before(job: Job, jobs: Sequence[Job]) -> set[str]:
    """All that has to be over before a job."""
    known = {one.name: one for one in jobs}
    found: set[str] = set()
    open_names = list(job.after)
    while open_names:
        name = open_names.pop()
        if name not in found:
            found.add(name)
            open_names += known[name].after
    return found


def kill(pid: int) -> None:
    """End a process, its session and all that descends from it."""
    for one in [*_descendants(pid), pid]:
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(one, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """Processes below one, as Linux lists them."""
    children: dict[int, list[int]] = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError, ValueError):
            # The name is in parentheses, and may hold anything.
            parent = int(stat.read_text(errors='replace').rpartition(')')[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, fresh = [], [pid]
    while fresh:
        fresh = [child for one in fresh for child in children.get(one, [])]
        found += fresh
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What a job wrote; a line that was cut off is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def table(outcomes: Sequence[tuple[Job, Outcome]]) -> str:
    """A line for each row that was found, and for each job that has none or did not end well."""
    lines = [('', 'what', 'seconds', 'result')]
    for job, outcome in outcomes:
        for row in outcome.rows:
            mark = '' if row['ok'] else 'FAILED: '
            lines.append(
                (f'({job.part})', row['what'], f'{row.get("seconds", outcome.seconds):.0f}', mark + row['result'])
            )
        if not outcome.rows or (outcome.status != 'ok' and all(row['ok'] for row in outcome.rows)):
            lines.append((f'({job.part})', job.name, f'{outcome.seconds:.0f}', outcome.status))
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return '\n'.join(
        f'{part:{widths[0]}}  {what:{widths[1]}}  {taken:>{widths[2]}}  {result}' for part, what, taken, result in lines
    )
