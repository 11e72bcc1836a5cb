"""Kinds of values that a file can hold, as functions that refuse all others."""

from collections.abc import Callable, Mapping
from typing import NoReturn

from xlabml import bounds
from xlabml.errors import CheckpointError

_PLAIN_KINDS = (str, int, float, bool, type(None))
_MOST = 1 << 48

Check = Callable[[object, str], None]
"""Raises WrongError where a value is of another kind; gets the name that messages use."""


class WrongError(CheckpointError):
    """Names the error but not the file, whose name the reader of the file adds."""


def refuse(value: object, where: str, wanted: str) -> NoReturn:
    """Raise WrongError with the value and the kind that it must have."""
    shown = f'{value!r:.60}' if isinstance(value, str | float | bool) else type(value).__name__
    shown = bounds.shown(value) if type(value) is int else shown
    raise WrongError(f'{where} is {shown}; it must be {wanted}')


def count(value: object, where: str) -> None:
    """A whole number from 0."""
    if type(value) is not int or not 0 <= value <= _MOST:
        refuse(value, where, 'a whole number from 0')


def number(value: object, where: str) -> None:
    """A number, finite or not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(value, where, 'a number')


def flag(value: object, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        refuse(value, where, 'true or false')


def text(value: object, where: str) -> None:
    """A string."""
    if not isinstance(value, str):
        refuse(value, where, 'text')


def plain(value: object, where: str) -> None:
    """Strings, numbers, switches and None, in mappings and lists of any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            text(key, f'a key of {where}')
            plain(item, f'{where}.{key}')
    elif isinstance(value, list | tuple):
        for item in value:
            plain(item, where)
    elif not isinstance(value, _PLAIN_KINDS):
        refuse(value, where, 'plain values')


def or_none(check: Check) -> Check:
    """What a check takes, or None."""

    def check_some(value: object, where: str) -> None:
        if value is not None:
            check(value, where)

    return check_some


def by_name(value: object, where: str, needed: tuple[str, ...] = ()) -> dict[str, object]:
    """A value that must be a mapping, with some names that have to be there."""
    if not isinstance(value, dict):
        refuse(value, where, 'a mapping')
    for name in needed:
        if name not in value:
            raise WrongError(f'{where} has no {name}')
    return value


def mapping(
    known: Mapping[str, Check] | None = None, every: Check | None = None, needed: tuple[str, ...] = ()
) -> Check:
    """A mapping: some names are known, some needed, and all others may have one kind of value."""

    def check(value: object, where: str) -> None:
        for name, item in by_name(value, where, needed).items():
            one = (known or {}).get(name, every)
            if one is not None:
                one(item, f'{where}.{name}')

    return check


def items(every: Check | None = None, length: int | None = None) -> Check:
    """A list; of n items where its length is known."""

    def check(value: object, where: str) -> None:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            refuse(value, where, 'a list' if length is None else f'a list of {length}')
        for i, item in enumerate(value):
            if every is not None:
                every(item, f'{where}[{i}]')

    return check


def plain_mapping(value: object, where: str) -> None:
    """Plain values by name."""
    mapping()(value, where)
    plain(value, where)
