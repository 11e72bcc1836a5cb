"""Modules and classes that moved, and settings that were removed, so that earlier names keep working.

One table of paths, used by `settings.find_class`, by the import system (through `Aliases`) and by packages that a class
left (through `old_names`); one of settings, used where checkpoints are migrated and where settings are parsed.
Importing this module loads nothing.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_DATA = {
    'sources': (
        'location',
        'files',
        'listing',
        'kinds',
        'encodings',
        'quotes',
        'delimited',
        'json_rows',
        'arrow_rows',
        'embedded',
        'remote',
        'pieces',
        'tally',
        'recorded',
        'validation',
    ),
    'store': ('store_build', 'store_parts', 'shared_parts', 'processes', 'cluster', 'progress'),
    'corpus': ('splits', 'buckets', 'copies', 'near_duplicates', 'near_reports', 'held_out'),
    'rows': ('plan_rows', 'plans'),
    'order': ('mixture', 'gaps'),
    'stream': ('shards',),
    'batching': ('loaders',),
    'inspection': ('histograms', 'statistics'),
}

_ATTENTION = ('backends', 'cache', 'documents', 'kernels', 'long_documents', 'short_documents', 'tiled_documents')

_NO_WARMUP = 'runs that began with smaller steps or shorter documents were no better at the same number of tokens'

MOVED: dict[str, str] = {
    **{
        f'xlabml.data.{module}': f'xlabml.data.{room}.{module}' for room, modules in _DATA.items() for module in modules
    },
    **{f'xlabml.transformer.{module}': f'xlabml.transformer.attention.{module}' for module in _ATTENTION},
    'xlabml.checksums': 'xlabml.artifacts.checksums',
    'xlabml.data.folders': 'xlabml.artifacts.folders',
    'xlabml.data.manifests': 'xlabml.artifacts.manifests',
    'xlabml.datamodules.streamed': 'xlabml.data.prepared.streamed',
    'xlabml.datamodules.texts': 'xlabml.data.prepared.texts',
    'xlabml.generation': 'xlabml.pipelines.generator',
    'xlabml.models.task': 'xlabml.engine.task',
    'xlabml.strategies': 'xlabml.engine',
    'xlabml.strategies.choice': 'xlabml.engine.strategy_choice',
    'xlabml.transformer.LanguageModel': 'xlabml.heads.LanguageModel',
    'xlabml.transformer.language_model': 'xlabml.heads.language_model',
}
"""Dotted path of a module or class in an earlier version -> its current path, which is never itself an earlier one.

A module that became a package of the same name (`xlabml.data.store`) is not listed: the package has its classes.
"""


REMOVED: dict[str, dict[str, tuple[int | None, str]]] = {
    'data': {
        'first_batch_tokens': (None, _NO_WARMUP),
        'batch_warmup_steps': (0, _NO_WARMUP),
        'first_len': (None, _NO_WARMUP),
        'len_warmup_steps': (0, _NO_WARMUP),
    }
}
"""Removed settings by group and name: the default, equal to what this version does, and the reason for removal."""


def without_removed(group: str, values: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """The settings of a group without removed ones, and the removed ones that were set, by dotted name."""
    removed = REMOVED.get(group, {})
    kept = {name: value for name, value in values.items() if name not in removed}
    was_set = {name: value for name, value in values.items() if name in removed and value != removed[name][0]}
    return kept, {f'{group}.{name}': value for name, value in was_set.items()}


def why_removed(was_set: Mapping[str, object]) -> str:
    """Which removed settings were set, and why they were removed, for people.

    Args:
        was_set: As `without_removed` returns them, not empty.
    """
    names = ', '.join(f'{name} ({value})' for name, value in was_set.items())
    reasons = {REMOVED[group][name][1] for group, _, name in (path.partition('.') for path in was_set)}
    return f'{names} {"were" if len(was_set) > 1 else "was"} removed: {"; ".join(sorted(reasons))}'


def renamed(path: str) -> str:
    """The current dotted path of a module or class; a path that never moved is returned unchanged."""
    parts = path.split('.')
    for n in range(len(parts), 1, -1):
        new = MOVED.get('.'.join(parts[:n]))
        if new is not None:
            return '.'.join([new, *parts[n:]])
    return path


class _Room(ModuleType):
    """A room that classes left. Importing one of its old modules does not hide a function of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and f'{self.__name__}.{name}' in MOVED):
            super().__setattr__(name, value)


def old_names(room: str) -> Callable[[str], object]:
    """A `__getattr__` for a package that classes left: each is imported from its new module on first use."""
    sys.modules[room].__class__ = _Room

    def find(name: str) -> object:
        new = MOVED.get(f'{room}.{name}')
        if new is None:
            raise AttributeError(f'module {room!r} has no attribute {name!r}')
        module, _, attribute = new.rpartition('.')
        return getattr(importlib.import_module(module), attribute)

    return find


class Aliases(MetaPathFinder):
    """Finder on `sys.meta_path`: an old module's name imports the current module, one object under both names.

    It comes first, since modules of a package that moved as a whole would otherwise be imported a second time.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        new = renamed(name) if name.startswith('xlabml.') else name
        return None if new == name else ModuleSpec(name, _Alias(new))


class _Alias(Loader):
    """Loader of one old name."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just replaced it by that of the old name
