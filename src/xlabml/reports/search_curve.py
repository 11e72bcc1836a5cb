"""How well a search by the first channels of vectors finds, as a picture."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curve(dims: Sequence[int], figures: Mapping[str, Sequence[float]], title: str) -> 'Figure':
    """A line for each figure over the number of channels, which doubles from one mark to the next.

    Args:
        dims: Rising.
        figures: By name, a value for each of `dims`.
    """
    from matplotlib.figure import Figure

    figure = Figure((7.0, 4.5), layout='constrained')
    panel = figure.subplots()
    for number, (name, values) in enumerate(figures.items()):
        panel.plot(dims, values, marker='o', color=colours.of_run(number), label=name)
    panel.set_xscale('log', base=2)
    panel.set_xticks(list(dims), [str(dim) for dim in dims])
    panel.minorticks_off()
    panel.set_ylim(0, 1)
    panel.set_xlabel('first channels of the vectors')
    panel.set_ylabel('recall')
    panel.legend(frameon=False)
    panel.set_title(title, fontsize='medium')
    return figure
