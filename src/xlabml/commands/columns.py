"""The layout of help: names beside their meanings, in the width of the terminal."""

import shutil
import textwrap
from collections.abc import Iterable

_WIDEST = 100
_LEAST = 12
"""Characters of a sentence that says anything."""

_LEFT = 34
"""Characters of the column of names."""


def first_sentence(text: str) -> str:
    """The first sentence, or what stands before its first semicolon or colon; all, where that says too little."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in '([') - (letter in ')]')
        if letter in '.;:' and not depth and text[place + 1 : place + 2] == ' ' and place > _LEAST:
            return f'{text[:place]}.'
    return text


def lowered(text: str) -> str:
    """The text as it stands behind a colon; an acronym stays as it is."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def row(name: str, text: str, default: str, width: int) -> Iterable[str]:
    """A name and what it means, in two columns; one below the other where the name is long or the screen narrow."""
    words = f'{text} [{default}]' if default else text
    left = _LEFT if width >= 72 else 8
    lines = textwrap.wrap(words, width - left) or ['']
    if len(name) + 3 > left:
        return [f'  {name}', *(' ' * left + line for line in lines)]
    return [f'  {name}'.ljust(left) + lines[0], *(' ' * left + line for line in lines[1:])]


def wrap(text: str, width: int, indent: str = '') -> Iterable[str]:
    """The text in lines of this width; a line end that it begins with stays.

    Args:
        indent: What stands before each line but the first.
    """
    start = '\n' if text.startswith('\n') else ''
    return [start + textwrap.fill(text.removeprefix('\n'), width, subsequent_indent=indent)]


def page_width() -> int:
    """Columns of the terminal; of a wide one as many as are read with ease."""
    return min(shutil.get_terminal_size().columns, _WIDEST)
