"""The settings that a wrong name may have meant."""

import difflib
import inspect
from collections.abc import Iterator, Sequence

from xlabml.untrusted.matching import parameters

_MOST = 3
_LIKENESS = 0.75
_MAX_DEPTH = 2
"""Classes within a class whose settings are looked at: of `model.trunk` and `model.optimizer`."""


def nearest(typed: str, known: Sequence[str]) -> list[str]:
    """The names that are nearest to one that is unknown, three at most; [] where none is near.

    A setting is often typed without its group (`--lr`, `--max_steps`), so its last part counts before the whole: equal,
    then the end of another one after an underscore (`matrix_lr`), then misspelt.

    Args:
        typed: The name, dots and all.
        known: Those that there are.
    """
    last = typed.rpartition('.')[2]
    lasts = {name: name.rpartition('.')[2] for name in known}
    alike = difflib.get_close_matches(last, lasts.values(), 1, _LIKENESS)
    choices = (
        [name for name in known if name.startswith(typed) and '.' not in name[len(typed) :]],
        [name for name, end in lasts.items() if end == last],
        [name for name, end in lasts.items() if end.endswith(f'_{last}')],
        difflib.get_close_matches(typed, known, 1, _LIKENESS),
        [name for name, end in lasts.items() if end in alike],
    )
    group = typed.partition('.')[0]
    for found in choices:
        # Those of the group that was typed, where it is one; else all.
        near = [name for name in found if '.' in typed and name.startswith(f'{group}.')] or found
        if near and near != [typed]:
            return near[:_MOST]
    return []


def names_within(cls: type, prefix: str, depth: int = _MAX_DEPTH) -> Iterator[str]:
    """The names of the arguments of a class, and of the classes that are their defaults, with dots between."""
    defaults = inspect.signature(cls).parameters
    for name in parameters(cls):
        default = defaults[name].default if name in defaults else None
        if default is inspect.Parameter.empty:
            continue  # handed over by xlabml: a width, a length
        yield f'{prefix}.{name}'
        if depth and inspect.isclass(default):
            yield from names_within(default, f'{prefix}.{name}', depth - 1)
