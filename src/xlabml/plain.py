"""Plain values: what JSON can hold, and so settings, manifests and checkpoints beside their tensors."""

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
