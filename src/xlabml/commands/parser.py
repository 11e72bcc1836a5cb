"""The parser of settings: a default task, a rule for classes that take another's place, errors that fit on a line."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, NoReturn

from jsonargparse import Namespace, _common, _typehints
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml import data
from xlabml.data import Location, Source
from xlabml.data.sources import kind_of
from xlabml.models import DEFAULT

from .arguments import MOST_NAME, UNKNOWN_FLAG, Parser
from .classes import classes_for, short_name
from .errors import show
from .files import read_list
from .groups import LINKED
from .near_names import names_within, nearest
from .rewording import UNKNOWN_SETTING, in_words

_UNKNOWN = object()
_SOURCES = list[Location | Source]
_YAML = ('.yaml', '.yml')
_adapt_typehints = _typehints.adapt_typehints
_resolve_class = _typehints.resolve_class_path_by_name


class SettingsParser(Parser, LightningArgumentParser):
    """Reads settings: Lightning's parser with a default task, and with the errors of every command.

    A class that takes another's place starts from its own defaults: only what is set together with it, or after it,
    counts. Of what was set for the other class one line on the terminal says that it does not count. Where the same
    class is named again, what was set for it before stays, but for the items of lists: a list replaces a list.
    (jsonargparse would keep arguments of equal names: Muon's momentum and decay in plain SGD.)
    """

    said: ClassVar[set[str]] = set()
    """The lines of this command: `--smoke`, and a checkpoint that is named, have it parsed several times."""

    def add_subclass_arguments(  # type: ignore[override]
        self, baseclass: type, nested_key: str, **kwargs: Any
    ) -> object:
        if nested_key == 'model':
            kwargs.update(default={'class_path': f'xlabml.models.{DEFAULT.__name__}'}, required=False)
        return super().add_subclass_arguments(baseclass, nested_key, **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        with self._own_defaults():
            return super().parse_args(*args, **kwargs)

    def parse_object(self, *args: Any, **kwargs: Any) -> Namespace:
        with self._own_defaults():
            return super().parse_object(*args, **kwargs)

    def get_defaults(self, skip_validation: bool = False, **kwargs: Any) -> Namespace:
        """As jsonargparse's; those of a class, whose parser it keeps as long as the process lasts, are found once."""
        if not getattr(self, '_inner_parser', False) or kwargs or _common.nested_links.get():
            return super().get_defaults(skip_validation, **kwargs)
        modes = (_common.lenient_check, _common.parsing_defaults, _common.load_value_mode)
        has_rule = _typehints.adapt_typehints is not _adapt_typehints
        known: dict[tuple, Namespace] = vars(self).setdefault('_known_defaults', {})
        key = (skip_validation, has_rule, *(mode.get() for mode in modes))
        if key not in known:
            known[key] = super().get_defaults(skip_validation)
        return known[key].clone()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """As of every parser; types and namespaces, which nobody typed, are left out of the message."""
        message = in_words(re.sub(r'Type \S.*? expects a function or a callable class: ', '', message))
        super().error(message, ex)

    def hint(self) -> str:
        return ' (xlab COMMAND --help lists what there is)'

    def _nearest(self, message: str) -> str:
        """As of every parser; a setting may be typed without its group, or be one of a class within the model."""
        found = UNKNOWN_FLAG.search(message) or UNKNOWN_SETTING.search(message)
        if found is None or 'did you mean' in message:
            return super()._nearest(message) if found is None else ''
        typed = found[1][:MOST_NAME].removeprefix('--')
        known = [flag.removeprefix('--') for flag in self.flags()]
        if getattr(self, '_inner_parser', False):  # of a class: whoever called it knows the names in full
            near = nearest(typed, known)
            return f'; did you mean {" or ".join(near)}?' if near else ''
        known += names_within(DEFAULT, 'model')
        if typed in known:  # of the default class, and another one is set
            return ''
        near = nearest(typed, [name for name in known if name.removeprefix('model.') not in LINKED])
        return f'; did you mean {" or ".join(f"--{name}" for name in near)}?' if near else ''

    @contextlib.contextmanager
    def _own_defaults(self) -> Iterator[None]:
        """Put the rule into the functions of jsonargparse that carry values on; parsers within parsers have it."""
        if _typehints.adapt_typehints is not _adapt_typehints:
            yield
            return
        dropped: list[str] = []

        def drop(parser: object, before: Namespace | None, now: Namespace) -> None:
            if not before or before.get('class_path') is None:  # nothing, or a class without a name of its own
                originals[1](parser, before, now)
            elif not _is_same_class(before['class_path'], now['class_path']):
                if typed := _typed(before):
                    dropped.append(
                        f'{now["class_path"]} replaces {before["class_path"]}, and drops what was set for it: {typed}'
                    )
                for name in ('init_args', 'dict_kwargs'):
                    before.pop(name, None)

        names = 'adapt_typehints', 'discard_init_args_on_class_path_change', 'resolve_class_path_by_name'
        originals = [getattr(_typehints, name) for name in names]
        try:
            for name, function in zip(names, (_adapt_lists_anew, drop, _ours_first)):
                setattr(_typehints, name, function)
            yield
        finally:
            for name, function in zip(names, originals):
                setattr(_typehints, name, function)
        for line in dict.fromkeys(dropped):
            if line not in self.said and getattr(rank_zero_only, 'rank', 0) == 0:
                print(show(line), file=sys.stderr)
            self.said.add(line)


def _ours_first(cls: type | tuple[type], name: str) -> str:
    """jsonargparse's path of a class that is named without its module; of several of one name ours is meant."""
    try:
        return _resolve_class(cls, name)
    except ValueError:
        bases = cls if isinstance(cls, tuple) else (cls,)
        ours = [path for base in bases for path in classes_for(base) if short_name(path) == name]
        if len(ours) != 1:
            raise
        return ours[0]


def _adapt_lists_anew(value: object, kind: object, *args: object, **options: object) -> object:
    """jsonargparse's, but an item of a list takes nothing over from the item that was in its place in another list, and
    paths may stand for sources.
    """
    if kind == _SOURCES:
        value = _as_sources(value)
    is_whole = isinstance(value, list) and not any(isinstance(item, _typehints.NestedArg) for item in value)
    if is_whole and not options.get('append') and isinstance(options.get('prev_val'), list):
        options['prev_val'] = None
    return _adapt_typehints(value, kind, *args, **options)


def _as_sources(value: object) -> object:
    """A list of sources in which paths became what they mean: `novel.txt` is `[{path: novel.txt}]`, and `texts.yaml`
    stands for the list in that file.
    """
    if isinstance(value, str) and not value.lstrip().startswith(('[', '{')):
        value = [value]
    if not isinstance(value, list):
        return value
    items: list[object] = []
    for item in value:
        items += read_list(Path(item), 'sources') if isinstance(item, str) and item.endswith(_YAML) else [item]
    return [{'path': item} if isinstance(item, str) and not _is_source_class(item) else item for item in items]


def _is_source_class(name: str) -> bool:
    """Whether a name is that of a source, and no path: a class of ours, or a dotted path to one that is no file."""
    found = getattr(data, name, None)
    if isinstance(found, type) and issubclass(found, Source):
        return True
    return '.' in name and all(map(str.isidentifier, name.split('.'))) and not kind_of(Path(name))


def _is_same_class(path: str, other: str) -> bool:
    """Whether two dotted paths, or bare names where jsonargparse knows the class, are of one class."""
    if path == other or path.rpartition('.')[2] == other or other.rpartition('.')[2] == path:
        return True
    try:
        return _typehints.import_object(path) is _typehints.import_object(other)
    except Exception:  # jsonargparse says what is wrong with a path
        return False


def _typed(part: Namespace) -> str:
    """Those arguments of a part that are no defaults of its class, for people."""
    arguments = part.get('init_args') or {}
    try:
        defaults = _typehints.ActionTypeHint.get_class_parser(part['class_path']).get_defaults()
    except Exception:
        defaults = Namespace()
    found = [
        f'{name}={value}'
        for name, value in (arguments if isinstance(arguments, dict) else vars(arguments)).items()
        if _as_list(defaults.get(name, _UNKNOWN)) != _as_list(value)
    ]
    return ', '.join(shorten(item, 60, placeholder=' …') for item in found)


def _as_list(value: object) -> object:
    """A tuple as the list that jsonargparse makes of it: a default of ('q2d',) is no value that anybody typed."""
    return list(value) if isinstance(value, tuple) else value
