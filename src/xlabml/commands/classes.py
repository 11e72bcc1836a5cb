"""Which classes of ours, and of the user's, can stand for a setting: for help, completion and nearest names."""

import inspect
from collections.abc import Iterator

from jsonargparse._typehints import get_class_types

from xlabml import settings


def classes_for(annotation: object) -> dict[str, type]:
    """Classes by the shortest path that imports them, sorted by name; other libraries' are left out.

    A setting whose own base class is another library's (torch's optimizers, Lightning's callbacks) can have classes of
    that library too: a list of them would be long, and their documentation is theirs.
    """
    if annotation is None:
        return {}
    found = {cls for base in get_class_types(annotation) for cls in _subclasses(base)}
    ours = {settings.path_of(cls): cls for cls in found if _is_choice(cls)}
    return dict(sorted(ours.items(), key=lambda item: short_name(item[0])))


def short_name(path: str) -> str:
    """The name of a class alone, which is enough for those of ours."""
    return path.rpartition('.')[2]


def _subclasses(cls: type) -> Iterator[type]:
    yield cls
    inner: type
    for inner in cls.__subclasses__() if cls is not type else ():
        yield from _subclasses(inner)


def _is_choice(cls: type) -> bool:
    if inspect.isabstract(cls) or cls.__name__.startswith('_') or '<locals>' in cls.__qualname__:
        return False
    if settings.of_the_user(cls.__module__):
        return True
    is_public = settings.path_of(cls) != f'{cls.__module__}.{cls.__qualname__}'  # a room exports it
    return cls.__module__.partition('.')[0] == 'xlabml' and is_public
