"""What all parsers of flags have in common, one-line errors; and what argparse's have: checked numbers, two flags."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from xlabml import bounds, settings

from .errors import UsageError, usage_errors

_MOST = 1 << 24


class Strict:
    """Of a parser: takes flags in full only, and reports a wrong one in a line, as every other error is."""

    prog: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, 'allow_abbrev': False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise UsageError with one message, in place of pages of usage."""
        hint = self.hint()
        raise UsageError(f'{message.replace(hint, "")}{hint}')

    def hint(self) -> str:
        """Where to read which flags there are."""
        return f' (see {self.prog} --help)'


class Parser(Strict, argparse.ArgumentParser):
    """The parser of `xlab-infer` and `xlab-manage`, which start without Lightning."""


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
