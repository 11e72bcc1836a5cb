"""The plot of a run that a notebook shows."""

from . import colours
from .panels import WIDE, style
from .plots import draw_loss
from .runs import Run
from .svg import inline_svg


def draw(run: Run) -> str:
    """Loss and figures with a unit as SVG, in colours of its own; empty where there are no rows yet."""
    with style(WIDE):
        figure = draw_loss([run], WIDE)
    if figure is None:
        return ''
    drawn = inline_svg(figure, 'notebook', 'loss')
    for name, (light, _) in colours.VARIABLES.items():
        drawn = drawn.replace(f'var(--{name})', light)
    return f'<div style="background: white; max-width: 50rem">{drawn}</div>'
