"""A bar on the terminal, for what takes more than a few seconds."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_QUIET_SECONDS = 3


@contextlib.contextmanager
def progress_bar(what: str, progress: bool | None = None, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; the function that is yielded advances it by a number.

    Args:
        what: Is counted.
        progress: Whether a bar is shown; None: on a terminal, from the third second on.
        total: How many there will be; None: it is not known, and the number of those that are done is shown.
    """
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=False)
    task = bar.add_task(what, total=total)
    began = time.monotonic()
    is_shown = False

    def advance(n: int) -> None:
        nonlocal is_shown
        bar.advance(task, n)
        if not is_shown and (progress or time.monotonic() - began >= _QUIET_SECONDS):
            bar.start()
            is_shown = True

    try:
        yield advance
    finally:
        if is_shown:
            bar.stop()
