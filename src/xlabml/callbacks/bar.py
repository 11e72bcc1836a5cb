"""A progress bar of one line that fits the terminal: of its parts, the most important ones stay."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console, ConsoleOptions
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

_BAR = 24
_LEAST_BAR = 8
_GAP = '  '


class Piece(NamedTuple):
    """One part of the line.

    Args:
        text: What it shows.
        rank: Its importance; parts of larger numbers are left out first.
    """

    text: str
    rank: int


def fit_pieces(pieces: Sequence[Piece], width: int) -> list[str]:
    """The texts that fit a width with two spaces between, in their order; the most important one stays in any case."""
    shown = [piece for piece in pieces if piece.text]
    while len(shown) > 1 and len(_GAP.join(piece.text for piece in shown)) > width:
        shown.remove(max(shown, key=lambda piece: piece.rank))
    return [piece.text for piece in shown]


class Bar(RichProgress):
    """rich's progress of several tasks, each on a line of its own, made anew for the terminal's width at every update.

    A task's fields are `pieces`, what stands behind its counter, and `unit`.
    """

    def get_renderables(self) -> Iterator['_Line']:
        for task in self.tasks:
            if task.visible:
                yield _Line(task)


class _Line:
    """The line of one task."""

    def __init__(self, task: RichTask) -> None:
        self.task = task

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text(line_of(self.task, options.max_width - 1), no_wrap=True, overflow='crop')


def line_of(task: RichTask, width: int) -> str:
    """What a task has done, as its unit counts it, and its pieces; a bar where there is room."""
    total = '' if task.total is None else f'/{task.total:,.0f}'
    counter = Piece(f'{task.completed:,.0f}{total} {task.fields["unit"]}', 0)
    texts = fit_pieces([Piece(task.description, 9), counter, *task.fields['pieces']], width)
    free = width - len(_GAP.join([*texts, '']))
    if task.total and free >= _LEAST_BAR:
        size = min(_BAR, free)
        filled = min(size, int(size * task.completed / task.total))
        texts.insert(texts.index(counter.text), '━' * filled + '╌' * (size - filled))
    return _GAP.join(texts)
