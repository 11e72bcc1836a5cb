"""The pictures of a page, each drawn twice: for a wide page, and for a phone."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from matplotlib.figure import Figure

from . import plots
from .panels import NARROW, WIDE
from .runs import Run
from .svg import inline_svg


class Picture(NamedTuple):
    """A picture as SVG.

    Args:
        name: Of its kind: loss, speed …
        choice: Which of several pictures of its kind it is; empty: there is one.
        wide: For a wide page.
        narrow: For a phone.
    """

    name: str
    choice: str
    wide: str
    narrow: str


def draw_pictures(runs: Sequence[Run]) -> list[Picture]:
    """All pictures of a page; of the spectra one for each choice."""
    found: list[Picture] = []
    wide = plots.draw_all(runs, WIDE)
    narrow = plots.draw_all(runs, NARROW)
    for name in wide:
        if name != 'spectra':
            found.append(_both(name, '', wide[name], narrow[name]))
    choices = plots.draw_spectrum_choices(runs, NARROW)
    for choice, figure in plots.draw_spectrum_choices(runs, WIDE).items():
        found.append(_both('spectra', choice, figure, choices[choice]))
    return found


def _both(name: str, choice: str, wide: Figure, narrow: Figure) -> Picture:
    described = escape(choice or name.replace('_', ' '), quote=True)
    unique = f'{name}-{choice}'
    return Picture(
        name, choice, inline_svg(wide, f'{unique}-wide', described), inline_svg(narrow, f'{unique}-narrow', described)
    )
