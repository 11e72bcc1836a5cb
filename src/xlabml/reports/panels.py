"""Shared parts of the plots: panels with a common step axis, curves with a band, legends."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from . import colours
from .runs import Run

_POINTS = 400
"""Maximum number of points of a curve."""
_WINDOW_RATIO = 0.03
"""Window of a band, as a share of the rows."""


def make_panels(n_rows: int, n_columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels with a common step axis; `height` is that of one row, in inches."""
    figure = Figure(figsize=(width, height * n_rows + 0.6), dpi=110, layout='constrained')
    grid = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False)
    panels = list(grid.flat)
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.spines[['top', 'right']].set_visible(False)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    return figure, panels


def band(panel: Axes, steps: list[int], values: list[float], colour: str) -> float:
    """Draw the median and the 10-90 % quantiles; returns the largest quantile after the first tenth."""
    places, medians = smooth(values)
    low, high = (smooth(values, lambda part, q=q: np.quantile(part, q))[1] for q in (0.1, 0.9))
    at = [steps[i] for i in places]
    panel.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(at, medians, color=colour, linewidth=1.5, marker='.' if len(at) == 1 else None)
    return max(high[len(high) // 10 :])


def smooth(values: Sequence[float], reduce: Callable = np.median) -> tuple[list[int], list[float]]:
    """Places of a curve, and the reduction of the window around each; the window shrinks at both ends."""
    array = np.asarray(values, np.float64)
    n = len(array)
    half = int(n * _WINDOW_RATIO) // 2
    places = np.unique(np.linspace(0, n - 1, min(n, _POINTS)).round().astype(int)).tolist()
    return places, [float(reduce(array[max(0, i - half) : i + half + 1])) for i in places]


def short(value: float, _: int) -> str:
    return f'{value:g}' if value < 1000 else f'{value / 1000:g}k'


def from_zero(panel: Axes) -> None:
    """Show a panel from zero to a little above its highest line."""
    highest = max(heights(panel), default=0.0)
    panel.set_ylim(0, 1.12 * highest or 1.0)


def legend(panel: Axes, runs: Sequence[Run], styles: Sequence[Line2D]) -> None:
    """Runs by colour, where there are several, and lines by style."""
    handles = [Line2D([], [], color=colours.of_run(i), linewidth=3, label=run.name) for i, run in enumerate(runs)]
    handles = [*(handles if len(runs) > 1 else []), *styles]
    if handles:
        panel.figure.legend(handles=handles, loc='outside upper center', ncols=min(6, len(handles)), frameon=False)


def grey(label: str, **options: Any) -> Line2D:
    """A line that explains a style in a legend."""
    return Line2D([], [], color='#555555', label=label, **options)


def heights(panel: Axes) -> list[float]:
    """The finite values of all lines of a panel."""
    values = [np.asarray(line.get_ydata(), np.float64) for line in panel.lines]
    return [value for array in values for value in array[np.isfinite(array)].tolist()]
