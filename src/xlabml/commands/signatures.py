"""Signatures in words, for --help and for docs/settings.md: types as a reader of YAML knows them, and meanings."""

import collections.abc
import inspect
import re
import types
import typing
from typing import Any

from docstring_parser import DocstringStyle, parse


def summary(cls: type) -> str:
    """What a class is: the first line of its docstring."""
    return one_line(parse(inspect.getdoc(cls) or '', DocstringStyle.GOOGLE).short_description or '')


def meanings(cls: type) -> dict[str, str]:
    """What each argument means: as the class says, or the one of ours that it is derived from."""
    found: dict[str, str] = {}
    for part in cls.__mro__:
        if part.__module__.startswith('xlabml'):
            for item in parse(inspect.cleandoc(part.__doc__ or ''), DocstringStyle.GOOGLE).params:
                found.setdefault(item.arg_name, item.description or '')
    return found


def shown(default: Any) -> str:
    """A default as YAML has it."""
    if inspect.isclass(default):
        return default.__name__
    if default is None or isinstance(default, bool):
        return {None: 'null', True: 'true', False: 'false'}[default]
    return str(default)


def kind(annotation: Any) -> str:
    """A type as a reader of YAML knows it: a factory is the class that it makes."""
    origin = typing.get_origin(annotation)
    inner = typing.get_args(annotation)
    if origin is collections.abc.Callable:
        return kind(inner[-1])
    if origin in (typing.Union, types.UnionType):
        return ' or '.join(dict.fromkeys(kind(one) for one in inner))
    if origin is typing.Literal:
        return ' or '.join(dict.fromkeys(map(str, inner)))
    if origin is not None:
        return f'{origin.__name__}[{", ".join(kind(one) for one in inner)}]'
    if annotation is type(None):
        return 'null'
    return re.sub(r'[\w.]+\.', '', getattr(annotation, '__name__', str(annotation)))


def one_line(text: str) -> str:
    """The text without its line ends."""
    return re.sub(r'\s*\n\s*', ' ', text.strip())
