"""A picture as SVG inside a page: it scales, its letters are letters, and its colours are variables of the page."""

import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from . import colours


def inline_svg(figure: Figure, name: str, described: str) -> str:
    """The picture as an element of HTML.

    Args:
        figure: The picture, without a background.
        name: Told apart from those of other pictures of the page, whose elements are named by it.
        described: What it shows, for who cannot see it; escaped.
    """
    buffer = io.StringIO()
    without = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
    with rc_context({'svg.fonttype': 'none', 'svg.hashsalt': name}):
        figure.savefig(buffer, format='svg', transparent=True, metadata=without)
    text = buffer.getvalue()
    text = text[text.index('<svg') :]
    text = re.sub(r'<metadata>.*?</metadata>|<style type="text/css">.*?</style>|<!--.*?-->', '', text, flags=re.DOTALL)
    used = {f'id="{name}"' for name in re.findall(r'(?:xlink:href="|url\()#([\w-]+)', text)}
    text = re.sub(r' id="[^"]*"', lambda found: found[0] if found[0].strip() in used else '', text)
    head = re.search(r'viewBox="[^"]*"', text)
    assert head is not None
    text = f'<svg role="img" aria-label="{described}" {head[0]}>{text[text.index(">") + 1 :]}'
    for variable, (light, _) in colours.VARIABLES.items():
        text = text.replace(light.lower(), f'var(--{variable})')
    return re.sub(r'\n\s*', '\n', text)
