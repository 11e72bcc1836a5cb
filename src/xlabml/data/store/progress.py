"""A progress bar for preparations that take a while, where there is a terminal to see it."""

import sys
import time
from types import TracebackType
from typing import Any

_PATIENCE_SECONDS = 2.0


class TerminalProgress:
    """Reports to a bar on the terminal, once it is worth one; nothing is shown for what is quick, or in a log file.

    Use it as a context: `with TerminalProgress() as report: prepare_store(..., report=report, say=report.say)`.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._bar: Any = None
        self._tasks: dict[str, object] = {}

    def __enter__(self) -> 'TerminalProgress':
        return self

    def __call__(self, what: str, n_done_bytes: int, n_total_bytes: int | None) -> None:
        if self._bar is None:
            if not sys.stderr.isatty() or time.monotonic() - self._started < _PATIENCE_SECONDS:
                return
            from rich import console, progress

            self._bar = progress.Progress(
                progress.TextColumn('{task.description}'),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(elapsed_when_finished=True),
                console=console.Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=n_total_bytes)
        self._bar.update(self._tasks[what], completed=n_done_bytes)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is None:
            print(text, file=sys.stderr)
        else:
            self._bar.console.print(text, highlight=False, markup=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
