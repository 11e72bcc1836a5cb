"""Shared parts of the pictures: stacked panels with a common step axis, a title, curves with a band, legends."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from . import colours
from .numbers import number
from .runs import Run

_POINTS = 400
"""Maximum number of points of a curve."""
_WINDOW_RATIO = 0.03
"""Window of a band, as a share of the rows."""
_LEAST_BAND = 2
"""Rows to each side from which quantiles of a window say anything."""
_DECADE = 10


class Look(NamedTuple):
    """The width that a picture is made for.

    Args:
        width: In inches.
        font: Size of its letters, in points.
        is_narrow: Whether it is for a phone.
    """

    width: float
    font: float
    is_narrow: bool = False


WIDE = Look(9.0, 9.0)
NARROW = Look(4.4, 9.5, is_narrow=True)


@contextmanager
def style(look: Look) -> Iterator[None]:
    """Draw in our colours and with the size of letters of a look; names of runs and sources are no formulas."""
    options = {
        'font.size': look.font,
        'axes.titlesize': look.font,
        'axes.titlecolor': colours.MUTED,
        'axes.labelcolor': colours.MUTED,
        'axes.edgecolor': colours.GRID,
        'grid.color': colours.GRID,
        'text.color': colours.INK,
        'text.parse_math': False,
        'xtick.color': colours.MUTED,
        'ytick.color': colours.MUTED,
    }
    with rc_context(options):  # type: ignore[arg-type]  # matplotlib lists the names of all its options
        yield


class Stack(NamedTuple):
    """Panels over one another.

    Args:
        figure: The picture.
        panels: From top to bottom.
    """

    figure: Figure
    panels: list[Axes]


def make_stack(
    look: Look, title: str, runs: Sequence[Run], names: Sequence[str], handles: Sequence[Any], height: float = 2.4
) -> Stack:
    """Panels with a common step axis, at the same place in every picture, below a title and a legend.

    Args:
        look: For which width.
        title: What is shown; the runs and their date are put behind it.
        runs: Of which.
        names: What each panel shows.
        handles: What the legend explains.
        height: Of a panel, in inches.
    """
    line = look.font / 72 * 1.6  # inches
    titles = _titles(look, title, runs)
    columns = _legend_columns(look, [handle.get_label() for handle in handles])
    top = line * (len(titles) + math.ceil(len(handles) / columns) + 1.5)
    bottom = 2.6 * line
    gap = 2.2 * line
    n = len(names)
    total = top + bottom + n * height + (n - 1) * gap
    figure = Figure(figsize=(look.width, total), dpi=150)
    grid = figure.subplots(n, 1, sharex=True, squeeze=False)
    left = look.font / 72 * 5.2
    figure.subplots_adjust(
        left / look.width, bottom / total, 1 - 0.45 * left / look.width, 1 - top / total, 0, gap / height
    )
    for i, text in enumerate(titles):
        weight = 'normal' if i else 'bold'
        colour = colours.MUTED if i else colours.INK
        y = 1 - line * (i + 0.9) / total
        figure.text(0.25 * left / look.width, y, text, fontweight=weight, color=colour)
    panels = list(grid.flat)
    last = max((row['step'] for run in runs for row in [*run.training, *run.evaluations]), default=1)
    for panel, name in zip(panels, names):
        panel.set_title(name, loc='left')
        panel.grid(linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[['top', 'right', 'left']].set_visible(False)
        panel.tick_params(length=0)
        panel.set_xlim(0, 1.03 * last)
        panel.xaxis.set_major_locator(MaxNLocator(4 if look.is_narrow else 8, integer=True))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        panel.yaxis.set_major_locator(MaxNLocator(5))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    panels[-1].set_xlabel('step')
    if handles:
        place = (0.25 * left / look.width, 1 - line * (len(titles) + 0.35) / total)
        figure.legend(
            handles=handles,
            loc='upper left',
            bbox_to_anchor=place,
            ncols=columns,
            frameon=False,
            borderaxespad=0.0,
            borderpad=0.3,
        )
    return Stack(figure, panels)


def _titles(look: Look, title: str, runs: Sequence[Run]) -> list[str]:
    """What is shown, of which runs, and when they wrote their newest row."""
    whose = runs[0].name if len(runs) == 1 else f'{len(runs)} runs'
    dates = [date for run in runs if (date := run.date)]
    parts = [whose, *([max(dates).strftime('%-d %b %Y, %H:%M UTC')] if dates else [])]
    return [title, ' · '.join(parts)] if look.is_narrow else [' · '.join([title, *parts])]


def _legend_columns(look: Look, labels: Sequence[str]) -> int:
    """How many names of a legend fit beside each other."""
    widest = max(map(len, labels), default=1)
    fitting = int(look.width * 72 / look.font / (0.58 * widest + 4))
    return max(1, min(len(labels) or 1, fitting))


def band(panel: Axes, steps: list[int], values: list[float], colour: str, **options: Any) -> bool:
    """Draw the median of a window and, where the window has enough rows, their 10-90 % quantiles.

    Returns:
        Whether there is a band.
    """
    places, medians = smooth(values)
    at = [steps[i] for i in places]
    has_band = half_window(len(values)) >= _LEAST_BAND
    if has_band:
        low, high = (smooth(values, lambda part, q=q: np.quantile(part, q))[1] for q in (0.1, 0.9))
        panel.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(at, medians, color=colour, **{'linewidth': 1.4, 'marker': '.' if len(at) == 1 else None, **options})
    return has_band


def half_window(n_rows: int) -> int:
    """Rows to each side of a point that its window has."""
    return int(n_rows * _WINDOW_RATIO) // 2


def smooth(values: Sequence[float], reduce: Callable = np.median) -> tuple[list[int], list[float]]:
    """Places of a curve, and the reduction of the window around each; the window shrinks at both ends."""
    array = np.asarray(values, np.float64)
    n = len(array)
    half = half_window(n)
    places = np.unique(np.linspace(0, n - 1, min(n, _POINTS)).round().astype(int)).tolist()
    windows = (min(half, i, n - 1 - i) for i in places)
    return places, [float(reduce(array[i - w : i + w + 1])) for i, w in zip(places, windows)]


def from_zero(panel: Axes) -> None:
    """Show a panel from zero to a little above its highest line."""
    highest = max(heights(panel), default=0.0)
    panel.set_ylim(0, 1.12 * highest or 1.0)


def around(panel: Axes, is_ratio: bool = False) -> None:
    """Show all of a panel's lines; on a log axis, with labels, where they span more than a factor of 1.5.

    Args:
        is_ratio: Whether the values are shares of 1, whose axis is never a log one.
    """
    values = heights(panel)
    if not values:
        return
    low = min(values)
    high = max(values)
    if is_ratio or low <= 0 or high < 1.5 * low:
        margin = 0.06 * (high - low or abs(high) or 1)
        panel.set_ylim(low - margin, high + margin)
        return
    panel.set_yscale('log')
    panel.set_title(f'{panel.get_title(loc="left")}, log scale', loc='left')
    factor = (high / low) ** 0.06
    panel.set_ylim(low / factor, high * factor)
    panel.yaxis.set_major_locator(FixedLocator(_log_ticks(low / factor, high * factor)))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range, a few whatever its size."""
    if high < _DECADE * low:
        # From the lower half of the range, where a log axis has more room than even steps would fill.
        middle = math.sqrt(low * high)
        steps = [1, 2, 2.5, 5, 10]
        below = MaxNLocator(4, steps=steps).tick_values(low, middle)
        above = MaxNLocator(3, steps=steps).tick_values(middle, high)
        return sorted({float(tick) for tick in (*below, *above) if low <= tick <= high})
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    leads = (1, 2, 5) if last - first <= 3 else (1,)
    every = max(1, (last - first) // 6)
    powers = range(first, last + 1, every)
    return [lead * 10.0**power for power in powers for lead in leads if low <= lead * 10.0**power <= high]


def of_runs(runs: Sequence[Run]) -> list[Line2D]:
    """Runs by colour, for a legend; none where there is one run, whose name is in the title."""
    if len(runs) == 1:
        return []
    return [Line2D([], [], color=colours.of_run(i), linewidth=3, label=label(run.name)) for i, run in enumerate(runs)]


def grey(text: str, **options: Any) -> Line2D:
    """A line that explains a style in a legend."""
    return Line2D([], [], color=colours.MUTED, label=label(text), **options)


def label(text: str) -> str:
    """A text as a label; matplotlib leaves out of a legend what begins with an underscore."""
    return f'\u200b{text}' if text.startswith('_') else text


def heights(panel: Axes) -> list[float]:
    """The finite values of all lines of a panel."""
    values = [np.asarray(line.get_ydata(), np.float64) for line in panel.lines]
    return [value for array in values for value in array[np.isfinite(array)].tolist()]
