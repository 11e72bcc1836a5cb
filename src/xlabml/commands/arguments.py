"""The parser of every command: names in full, errors of one line that name the nearest flag; and checked numbers."""

import argparse
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from textwrap import shorten
from typing import Any, NoReturn

from xlabml import bounds, settings

from .errors import UsageError, usage_errors

_MOST = 1 << 24
MOST_NAME = 80
"""Characters of a name that others are compared with."""

_MOST_MESSAGE = 900
UNKNOWN_FLAG = re.compile(r'unrecognized arguments: (-[^\s=]+)')
_UNKNOWN_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from ([^)]*)\)")


class Parser(argparse.ArgumentParser):
    """Takes flags in full only, and reports a wrong one in a line, as every other error is.

    `xlab-infer` and `xlab-manage`, which start without Lightning, use it as it is; `xlab` reads settings with the
    subclass of parser.py, which adds nothing but rules about classes.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, 'allow_abbrev': False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise UsageError with one message, in place of pages of usage.

        Args:
            message: What is wrong; it may end with the hint already, where a parser within this one has found it.
            ex: What jsonargparse caught.
        """
        hint = self.hint()
        line = re.sub(r'\s*\n\s*', ' ', message.replace(hint, '').strip())
        raise UsageError(f'{shorten(line, _MOST_MESSAGE, placeholder=" …")}{self._nearest(line)}{hint}')

    def hint(self) -> str:
        """Where to read which flags there are."""
        return f' (see {self.prog} --help)'

    def flags(self) -> Iterator[str]:
        """All flags, those of commands within this one too."""
        yield from self._option_string_actions
        for action in self._actions:
            for inner in action.choices.values() if isinstance(action.choices, dict) else ():
                if isinstance(inner, Parser):
                    yield from inner.flags()

    def _nearest(self, message: str) -> str:
        """The name that was meant, where what was typed is close to one."""
        known: Sequence[str] = ()
        if found := UNKNOWN_FLAG.search(message):
            known = list(self.flags())
        elif found := _UNKNOWN_CHOICE.search(message):
            known = re.findall(r"'([^']+)'", found[2])
        typed = found[1][:MOST_NAME] if found else ''
        longer = [name for name in known if typed and name.startswith(typed)]
        near = longer if len(longer) == 1 else difflib.get_close_matches(typed, known, 1, 0.75)
        return f'; did you mean {near[0]}?' if near and near[0] != typed else ''


def count(least: int = 1, most: int = _MOST) -> Callable[[str], int]:
    """Reads a whole number within bounds; 16,777,216 is more than any model's context or vocabulary."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} is not a whole number') from None
        if not least <= value <= most:
            span = ' or more' if most == _MOST and value < least else f' to {most}'
            raise argparse.ArgumentTypeError(f'{bounds.shown(value)} is out of range; give {least}{span}')
        return value

    return read


def number(bounds: str, is_within: Callable[[float], bool]) -> Callable[[str], float]:
    """Reads a number; `bounds` says in words what `is_within` asks."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} is not a number') from None
        if not is_within(value):
            raise argparse.ArgumentTypeError(f'{text} is out of range; give a number {bounds}')
        return value

    return read


def import_modules(options: argparse.Namespace) -> None:
    """Import what `--import` names, and let checkpoints name its classes."""
    with usage_errors():
        for module in options.modules:
            settings.trust(module)


def take_common(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of `add_common`, and the arguments that are none of them, in their order."""
    parser = Parser('xlab', add_help=False)
    add_common(parser)
    return parser.parse_known_args(arguments)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that opens checkpoints."""
    parser.add_argument(
        '--import',
        dest='modules',
        metavar='MODULE',
        action='append',
        default=[],
        help='a module of yours whose classes the checkpoint may name; may be repeated',
    )
    parser.add_argument('--debug', action='store_true', help='show where an error comes from')
