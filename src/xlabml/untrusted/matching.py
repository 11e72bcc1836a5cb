"""Classes and arguments in a file, compared with the signatures: names and types; nothing is built.

jsonargparse parses anew whatever it is handed: a string that is JSON becomes an object, one that is a path is read, a
key with dots reaches into a class. So a checkpoint's settings come to it, and to `xlabml.settings.build`, through here.
"""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Any, Literal

from xlabml import bounds, settings
from xlabml.plain import Plain, PlainDict

Text = Callable[[str], str]
"""Replaces a string where the signature takes any string."""

_MAX_TEXT = 1_000_000
_MAX_ITEMS = 1_000_000
_MAX_DEPTH = 32
_KEY = re.compile(r'[A-Za-z_][\w-]*', re.ASCII)
_WORD = re.compile(r'[\w:+-]{1,64}', re.ASCII)
"""A string where a class, a list or a mapping could stand too: a parser has to find nothing in it, and no file."""


def match_part(value: Plain, kind: type, where: str, text: Text = str) -> tuple[str, PlainDict]:
    """Check the settings of one part in a file: its class and its arguments.

    Args:
        value: `{'class_path': …, 'init_args': …}`.
        kind: The class that it must be a subclass of.
        where: Its name in messages.
        text: Put in the place of every string that is neither one of a few choices nor a class.

    Returns:
        The path of the class, and the same arguments, the strings replaced.

    Raises:
        ValueError: Names the error and the place.
    """
    if isinstance(value, Mapping) and ('class_path' in value or 'init_args' in value):
        path, arguments = _match_class(value, (kind,), where, text, True, 0)
        return path, arguments or {}
    raise _wrong(where, value, _describe((kind,)))


def match_arguments(function: Callable, values: Plain, where: str, text: Text = str) -> PlainDict:
    """Check the arguments of a class or function; see `match_part`. Missing arguments are not reported."""
    return _match_arguments(function, values, where, text, 0)


def parameters(function: Callable) -> dict[str, object]:
    """The arguments that can be given by name, and their types; those of base classes where `**kwargs` go there."""
    return _signature(function)[0]


def find_base(path: str, known: Collection[str]) -> tuple[str, Collection[str]] | None:
    """The nearest of some classes that the class at a path derives from, itself included.

    Args:
        path: Where the class is; one that settings may not name is not imported.
        known: Paths of classes.

    Returns:
        The path of that class, and the names of the arguments that the class at `path` takes; None: it derives from
        none of them, or may not be named.
    """
    try:
        cls = settings.find_class(path)
    except ValueError:
        return None  # refused by what builds it
    base = next((base for base in map(settings.path_of, cls.__mro__) if base in known), None)
    return None if base is None else (base, parameters(cls))


def _signature(function: Callable) -> tuple[dict[str, object], bool]:
    """The same, and whether any other name is taken as well."""
    found: dict[str, object] = {}
    takes_any = False
    for part in function.__mro__ if inspect.isclass(function) else (function,):
        init = vars(part).get('__init__') if inspect.isclass(part) else part
        if init is None or init is object.__init__:
            continue
        signature = inspect.signature(init).parameters
        try:
            hints = typing.get_type_hints(init)
        except Exception:  # a name that is known to type checkers only
            hints = {}
        for name, parameter in signature.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name != 'self':
                found.setdefault(name, hints.get(name, object))
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())
        if not takes_any:
            break
    return found, takes_any


def _match_arguments(function: Callable, values: Plain, where: str, text: Text, depth: int) -> PlainDict:
    if not isinstance(values, Mapping):
        raise _wrong(where, values, 'arguments by name')
    kinds, takes_any = _signature(function)
    # The arguments of a class of torch's are plain values: none of ours is handed to one.
    may_nest = not str(function.__module__).startswith('torch.')
    matched: PlainDict = {}
    for name, value in values.items():
        _check_key(name, where)
        if name not in kinds and not takes_any:
            raise ValueError(f'{where}.{name[:80]} is not an argument of {function.__module__}.{_name(function)}')
        matched[name] = _match(value, kinds.get(name, object), f'{where}.{name}', text, may_nest, depth + 1)
    return matched


def _match(value: Plain, kind: object, where: str, text: Text, may_nest: bool, depth: int) -> Plain:
    if depth > _MAX_DEPTH:
        raise ValueError(f'{where} is nested too deep')
    kinds = _flat(kind)
    if value is None:
        if type(None) in kinds or object in kinds:
            return None
    elif any(typing.get_origin(one) is Literal and _is_choice(value, typing.get_args(one)) for one in kinds):
        return value
    elif isinstance(value, bool):
        if bool in kinds or object in kinds:
            return value
    elif isinstance(value, int | float):
        if _takes_number(value, kinds) and not math.isnan(value):
            if isinstance(value, int):
                bounds.check_one(value, where.rpartition('.')[2].partition('[')[0], where)
            return value
    elif isinstance(value, str):
        return _match_text(value, kinds, where, text)
    elif isinstance(value, list | tuple):
        for one in kinds:
            if one is object or typing.get_origin(one) in (list, tuple, Sequence) or one in (list, tuple):
                return _match_items(value, one, where, text, may_nest, depth)
    elif isinstance(value, Mapping):
        if 'class_path' in value or 'init_args' in value:
            path, arguments = _match_class(value, kinds, where, text, may_nest, depth)
            return {'class_path': path} if arguments is None else {'class_path': path, 'init_args': arguments}
        for one in kinds:
            if one is object or typing.get_origin(one) in (dict, Mapping) or one is dict:
                item = (typing.get_args(one) or (str, object))[-1]
                for key in value:
                    _check_key(key, where)
                return {
                    key: _match(one, item, f'{where}.{key}', text, may_nest, depth + 1) for key, one in value.items()
                }
    raise _wrong(where, value, _describe(kinds))


def _match_text(value: str, kinds: Sequence[object], where: str, text: Text) -> str:
    if len(value) > _MAX_TEXT or '\0' in value:
        raise ValueError(f'{where} is no text of at most {_MAX_TEXT:,} characters')
    if str in kinds or object in kinds:
        is_alone = all(one in (str, object, bool, int, float, type(None)) or _is_literal(one) for one in kinds)
        if is_alone:
            return text(value)
        if _WORD.fullmatch(value):
            return value
        raise _wrong(where, value, 'a single word')
    if any(_is_written_as_text(one) for one in kinds) and '\n' not in value:
        return value
    raise _wrong(where, value, _describe(kinds))


def _match_items(
    value: Sequence[Plain], kind: object, where: str, text: Text, may_nest: bool, depth: int
) -> list[Plain]:
    if len(value) > _MAX_ITEMS:
        raise ValueError(f'{where} has {len(value):,} items; it can have at most {_MAX_ITEMS:,}')
    items = typing.get_args(kind) or (object, ...)
    if typing.get_origin(kind) is tuple and Ellipsis not in items and len(items) != len(value):
        raise ValueError(f'{where} has {len(value)} items; it must have {len(items)}')
    is_fixed = typing.get_origin(kind) is tuple and Ellipsis not in items
    return [
        _match(one, items[i] if is_fixed else items[0], f'{where}[{i}]', text, may_nest, depth + 1)
        for i, one in enumerate(value)
    ]


def _match_class(
    value: Mapping[str, Plain], kinds: Sequence[object], where: str, text: Text, may_nest: bool, depth: int
) -> tuple[str, PlainDict | None]:
    path = value.get('class_path')
    if not isinstance(path, str) or not set(value) <= {'class_path', 'init_args'}:
        raise _wrong(where, value, 'a class: class_path and init_args')
    factories = [one for one in kinds if _is_factory(one)]
    results = [typing.get_args(one)[-1] for one in factories if typing.get_args(one)]
    bases = tuple(one for one in results or kinds if inspect.isclass(one) and not _is_plain(one))
    if not bases or not may_nest:
        raise ValueError(f'{where}: {_short(path)} stands where no class is expected')
    try:
        cls = settings.find_class(path)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error
    if not issubclass(cls, bases):
        raise ValueError(f'{where}: {path} is not a {" or ".join(_name(base) for base in bases)}')
    if inspect.isabstract(cls):
        raise ValueError(f'{where}: {path} is abstract; name a class that is made from it')
    path = settings.renamed(path)
    arguments = value.get('init_args')
    matched = {} if arguments is None else _match_arguments(cls, arguments, where, text, depth)
    handed = typing.get_args(factories[0])[0] if factories and typing.get_args(factories[0]) else []
    try:
        inspect.signature(cls).bind(*(handed if isinstance(handed, list) else []), **matched)
    except TypeError as error:
        raise ValueError(f'{where}: {path} cannot be made from these arguments: {error}') from error
    return path, None if arguments is None else matched


def _check_key(name: object, where: str) -> None:
    if not isinstance(name, str) or not _KEY.fullmatch(name) or name.startswith('__'):
        raise ValueError(f'{where} has a key {_short(name)}, which is no name')


def _flat(kind: object) -> tuple[object, ...]:
    """The members of a union, those of unions in it too; of anything else, itself. `object` stands for any kind."""
    if kind in (inspect.Parameter.empty, Any) or isinstance(kind, typing.TypeVar):
        return (object,)
    if typing.get_origin(kind) is typing.Annotated:
        return _flat(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(one for member in typing.get_args(kind) for one in _flat(member))
    return (kind,)


def _takes_number(value: int | float, kinds: Sequence[object]) -> bool:
    if float in kinds or object in kinds:
        return True
    return int in kinds and isinstance(value, int)


def _is_choice(value: object, choices: Sequence[object]) -> bool:
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _is_literal(kind: object) -> bool:
    return typing.get_origin(kind) is Literal


def _is_factory(kind: object) -> bool:
    return typing.get_origin(kind) is Callable or kind is Callable


def _is_plain(kind: object) -> bool:
    return kind in (str, int, float, bool, type(None), Any, object, list, dict, tuple)


def _is_written_as_text(kind: object) -> bool:
    """Whether a part's argument of this kind gets text, because settings hold nothing else for it."""
    return inspect.isclass(kind) and (
        issubclass(kind, Enum) or kind.__module__.partition('.')[0] in ('pathlib', 'datetime')
    )


def _wrong(where: str, value: object, wanted: str) -> ValueError:
    named = {type(None): 'nothing', bool: 'a switch'}
    kind = named.get(type(value)) or _WORDS.get(type(value), type(value).__name__)
    shown = '' if isinstance(value, dict | list | tuple) or value is None else f' {_short(value)}'
    return ValueError(f'{where} is {kind}{shown}, where {wanted} belongs')


_WORDS: dict[object, str] = {
    str: 'text',
    int: 'a whole number',
    float: 'a number',
    bool: 'true or false',
    type(None): 'null',
    list: 'a list',
    tuple: 'a list',
    dict: 'a mapping',
    object: 'a plain value',
}


def _describe(kinds: Sequence[object]) -> str:
    words = []
    for kind in kinds:
        if _is_literal(kind):
            words += [repr(choice) for choice in typing.get_args(kind)]
        elif _is_factory(kind) or (inspect.isclass(kind) and not _is_plain(kind)):
            words.append('a class with its arguments')
        else:
            plain = typing.get_origin(kind) or kind
            words.append(_WORDS.get(plain, _name(plain)))
    return ' or '.join(dict.fromkeys(words))


def _name(kind: object) -> str:
    return getattr(kind, '__qualname__', str(kind))


def _short(value: object) -> str:
    if isinstance(value, int):
        return bounds.shown(value)
    text = repr(value)[:80] if not isinstance(value, str) else repr(value[:80])
    return text if not isinstance(value, float) or math.isfinite(value) else str(value)
