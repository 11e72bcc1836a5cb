"""Classes and their arguments <-> plain values, so that a checkpoint needs no pickle and runs no code of its own.

A part is written as jsonargparse writes it: `{'class_path': 'xlabml.transformer.Rotary', 'init_args': {'base': 1e4}}`.
Only classes of xlabml, torch.nn, torch.optim and of modules that the user named are ever built.
"""

import contextlib
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from xlabml import bounds
from xlabml.moved import MOVED, renamed
from xlabml.plain import Plain, PlainDict, below

__all__ = [
    'MOVED',
    'build',
    'build_arguments',
    'class_paths',
    'describe',
    'find_class',
    'keep_arguments',
    'of_the_user',
    'path_of',
    'renamed',
    'trust',
    'trust_class',
]

_NOT_THE_USERS = frozenset({'xlabml', 'torch.nn', 'torch.optim'})
_TRUSTED = set(_NOT_THE_USERS)
_ROOMS = ('data', 'datamodules', 'evaluation', 'heads', 'losses', 'metadata', 'models', 'training', 'transformer')
"""Where parts live that settings can name."""

_PLAIN = (str, int, float, bool, type(None))


def trust(module: str) -> None:
    """Import a module of the user's, and let checkpoints name its classes from now on.

    Raises:
        ValueError: There is no such module.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f'cannot import {module!r} ({error}); check the name, and that its folder is on PYTHONPATH'
        ) from error
    _TRUSTED.add(module)


def of_the_user(module: str) -> bool:
    """Whether the user has named a module, or a class of it."""
    return module in _TRUSTED - _NOT_THE_USERS


def trust_class(path: str) -> None:
    """Let checkpoints name the classes of a module from which the user named this one.

    Raises:
        ValueError: There is no such module.
    """
    module, _, name = path.rpartition('.')
    if not module:
        raise ValueError(f'{path!r} is no path of a class; give its module too, as in torch.optim.{path}')
    if any(path.startswith(f'{root}.') for root in _TRUSTED):
        return
    trust(module)
    found = getattr(sys.modules[module], name, None)
    if inspect.isclass(found):
        _TRUSTED.add(found.__module__)


def describe(value: object) -> Plain:
    """Write a class, a partial of a class, a part or a plain value as plain values, defaults included.

    Raises:
        ValueError: The value is something else (a lambda, a built module); the message says what to pass instead.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [describe(item) for item in value]
    if inspect.isclass(value):
        return _describe_class(value, {})
    if isinstance(value, functools.partial) and inspect.isclass(value.func) and not value.args:
        return _describe_class(value.func, value.keywords)
    if _is_part(value):
        names = inspect.signature(type(value)).parameters
        return _describe_class(type(value), {name: getattr(value, name) for name in names})
    raise ValueError(
        f'{value!r} cannot be written into a checkpoint; pass a class, functools.partial(Class, name=value), or its '
        "settings {'class_path': ..., 'init_args': {...}}"
    )


def _describe_class(cls: type, arguments: Mapping[str, object]) -> PlainDict:
    written: PlainDict = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name not in arguments and parameter.default is not parameter.empty:
            # A default of another library that is no plain value stays that library's business.
            with contextlib.suppress(ValueError):
                written[name] = describe(parameter.default)
    path: PlainDict = {'class_path': path_of(cls)}
    written |= {name: describe(value) for name, value in arguments.items()}
    return {**path, 'init_args': written} if written else path


@runtime_checkable
class HasHyperParameters(Protocol):
    """A LightningModule or DataModule."""

    def _set_hparams(self, hp: PlainDict) -> None: ...


def keep_arguments(module: HasHyperParameters) -> str:
    """Keep what a LightningModule or DataModule is being built from as its hyper-parameters, in plain values.

    To be called first thing in the constructor. The outermost constructor counts, so that a subclass's arguments are
    kept, not those that it hands up. The class is kept as `_class_path`.

    Returns:
        Why the arguments cannot be written into a checkpoint; empty where they can.

    Raises:
        ValueError: A whole number among them is beyond its bound.
    """
    frame = inspect.currentframe()
    outermost = None
    while frame is not None:
        if frame.f_code.co_name == '__init__' and frame.f_locals.get('self') is module:
            outermost = frame
        frame = frame.f_back
    assert outermost is not None, 'keep_arguments is called by a constructor'
    names, _, keywords, values = inspect.getargvalues(outermost)
    arguments = {name: values[name] for name in names if name != 'self'} | (values[keywords] if keywords else {})
    problem = ''
    described: PlainDict = {}
    try:
        described = {name: describe(value) for name, value in arguments.items()}
    except ValueError as error:
        problem = str(error)
    bounds.check(described)
    module._set_hparams({**described, '_class_path': path_of(type(module))})
    return problem


def find_class(path: str) -> type:
    """Find a class by its dotted path, among those that a checkpoint may name.

    Nothing is imported but the rooms of xlabml that have parts, and modules that the user named. The path may be that
    of an earlier version (`MOVED`).

    Raises:
        ValueError: Nothing of ours, of torch.nn, torch.optim or of a module that the user named has this path.
    """
    root = next((root for root in sorted(_TRUSTED, key=len, reverse=True) if path.startswith(f'{root}.')), None)
    if root is None or not all(part.isidentifier() for part in path.split('.')):
        raise ValueError(
            f'{path[:200]} is not a class of xlabml, torch.nn or torch.optim; if you trust it, name its module with '
            f'--import {path[:200].rpartition(".")[0] or path[:200]}'
        )
    path = renamed(path)
    if path.startswith('xlabml.commands.'):
        raise ValueError(f'{path[:200]} is a command, not a part')
    found = _walk(path.split('.'), root)
    # A path may lead through a module that ours imports (`xlabml.settings.importlib`): where it ends is what counts.
    if not inspect.isclass(found) or not any(f'{found.__module__}.'.startswith(f'{root}.') for root in _TRUSTED):
        raise ValueError(
            f'there is no class {path[:200]}; was it made by a later version, or is its module not imported?'
        )
    return found


def _walk(parts: Sequence[str], root: str) -> object:
    """What stands at a path: of ours and torch's, only what is there once our rooms are loaded."""
    if root == 'xlabml' and parts[1] in _ROOMS:
        importlib.import_module(f'xlabml.{parts[1]}')
    elif root.startswith('torch.'):
        importlib.import_module(root)
    is_users = root not in _NOT_THE_USERS
    found: object = None
    for n in range(len(parts) - 1, 0, -1):
        name = '.'.join(parts[:n])
        if is_users and f'{name}.'.startswith(f'{root}.'):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
        found = sys.modules.get(name)
        if found is not None:
            for item in parts[n:]:
                found = getattr(found, item, None) if is_users else getattr(found, '__dict__', {}).get(item)
            break
    return found


def class_paths(value: object) -> Iterator[str]:
    """The dotted paths of all classes that settings name."""
    if isinstance(value, dict):
        if isinstance(path := value.get('class_path'), str):
            yield path
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from class_paths(item)


def build(settings: Plain, kind: object = object) -> Any:
    """Build the argument that a signature takes from its settings.

    Args:
        settings: Plain values.
        kind: The annotation: a callable yields a partial of the class, a class an instance.

    Raises:
        ValueError: A class is unknown or unfit, or does not take these arguments.
    """
    kinds = _members(kind)
    if isinstance(settings, Mapping) and 'class_path' in settings:
        path = settings['class_path']
        if not isinstance(path, str):
            raise ValueError(f'{path!r:.200} is no path of a class')
        cls = find_class(path)
        factories = [kind for kind in kinds if typing.get_origin(kind) is Callable or kind is Callable]
        results = [typing.get_args(kind)[-1] for kind in factories if typing.get_args(kind)]
        bases = tuple(base for base in results or kinds if inspect.isclass(base) and base not in (*_PLAIN, Any, object))
        # Before anything is built: what a file names is only ever one of the parts that a signature asks for.
        if not bases:
            raise ValueError(f'{path} stands where no class is expected')
        if not issubclass(cls, bases):
            raise ValueError(f'{path} is not a {" or ".join(base.__qualname__ for base in bases)}')
        arguments = build_arguments(cls, below(settings, 'init_args'))
        return functools.partial(cls, **arguments) if factories else cls(**arguments)
    if isinstance(settings, list):
        kind = next((kind for kind in kinds if typing.get_origin(kind) in (list, tuple)), None)
        item = typing.get_args(kind)
        values = [build(value, item[0] if item else object) for value in settings]
        return tuple(values) if typing.get_origin(kind) is tuple else values
    return settings


def build_arguments(function: Callable, settings: Mapping[str, Plain]) -> dict[str, Any]:
    """The arguments of a class or function, built from their settings.

    Raises:
        ValueError: It does not take one of them.
    """
    signature = inspect.signature(function).parameters
    kinds = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())
    for name in settings:
        if name not in signature and not takes_any:
            raise ValueError(f'{function.__module__}.{function.__qualname__} takes no {name!r}')
    return {name: build(value, kinds.get(name, object)) for name, value in settings.items()}


def path_of(cls: type) -> str:
    """The shortest dotted path under which a class is to be had: that of the room which re-exports it."""
    modules = cls.__module__.split('.')
    for n in range(1, len(modules)):
        package = sys.modules.get('.'.join(modules[:n]))
        if getattr(package, cls.__name__, None) is cls:
            return f'{".".join(modules[:n])}.{cls.__name__}'
    return f'{cls.__module__}.{cls.__qualname__}'


def _is_part(value: object) -> bool:
    """Whether an object keeps its constructor's arguments as attributes of the same names, and holds no weights."""
    if hasattr(value, 'state_dict') or type(value).__module__ in ('builtins', 'torch'):
        return False
    try:
        parameters = inspect.signature(type(value)).parameters
    except (TypeError, ValueError):
        return False
    return all(hasattr(value, name) for name in parameters)


def _members(kind: object) -> tuple[object, ...]:
    """The members of a union; of anything else, itself."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
