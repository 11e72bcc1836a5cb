"""Plain values: what JSON can hold, and so settings, manifests and checkpoints beside their tensors."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Plain: TypeAlias = 'str | int | float | bool | Sequence[Plain] | Mapping[str, Plain] | None'
else:  # no checker of types at run time follows an alias that names itself
    Plain: TypeAlias = object

PlainDict: TypeAlias = dict[str, Plain]


def below(values: Plain, name: str) -> PlainDict:
    """The mapping that stands below a name; {} where there is none, or something else."""
    found = values.get(name) if isinstance(values, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def flat(values: Plain, name: str = '') -> dict[str, str | int | float | bool | None]:
    """Settings by the names that people type: `model.optimizer` has a class's name, `model.optimizer.lr` its argument.

    Lists are texts, so that two runs can be compared value by value.
    """
    if isinstance(values, Mapping):
        found: dict[str, str | int | float | bool | None] = {}
        if isinstance(path := values.get('class_path'), str):
            found[name] = path.rpartition('.')[2]
            values = below(values, 'init_args')
        for key, value in values.items():
            found |= flat(value, f'{name}.{key}' if name else str(key))
        return found
    if values is None or isinstance(values, str | int | float):
        return {name: values}
    return {name: json.dumps(values, ensure_ascii=False, default=str)}
