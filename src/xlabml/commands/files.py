"""Files of settings: errors are reported with the name and the line, before anything is parsed or built."""

from collections.abc import Hashable
from pathlib import Path

import yaml

from xlabml.untrusted import yaml_text

from .errors import UsageError
from .groups import GROUPS

_MAX_DEPTH = 40
"""Settings of settings: ours go to a dozen."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: the first value would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != '<<':
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f'{key.value!r} stands there twice', problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_settings(path: Path) -> dict[str, object]:
    """The settings in a YAML file, by group.

    Raises:
        UsageError: It is no YAML, or holds no settings; the message says where.
    """
    found = _read(path)
    example = 'it must hold settings by group, such as "data: {max_len: 256}"'
    if not isinstance(found, dict):
        raise UsageError(f'{path} holds {"nothing" if found is None else f"a {type(found).__name__}"}; {example}')
    for group, value in found.items():
        if not isinstance(group, str):
            raise UsageError(f'{path} has {group!r} where the name of a group should be; {example}')
        if group in GROUPS and not isinstance(value, dict | str):  # a string: a file of the group's own, or a class
            shown = 'empty' if value is None else repr(value)
            raise UsageError(f'{group} in {path} is {shown}; it must hold settings, or be left out')
    return found


def read_list(path: Path, what: str) -> list[object]:
    """The list in a YAML file.

    Args:
        what: What it is a list of, for errors.

    Raises:
        UsageError: It is no YAML, or holds no list.
    """
    found = _read(path)
    if not isinstance(found, list):
        raise UsageError(f'{path} must hold a list of {what}, and holds {"nothing" if found is None else "none"}')
    return found


def _read(path: Path) -> object:
    """What a YAML file holds.

    Raises:
        UsageError: It is no YAML; the message says where.
    """
    try:
        found = yaml_text.load(yaml_text.read(path), _Loader)
        if _depth_exceeds(found, _MAX_DEPTH):
            raise RecursionError
    except OSError as error:
        raise UsageError(f'{path}, a file of settings, cannot be read: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise UsageError(f'{path} is not text in UTF-8 (byte {error.start}); give a YAML file') from error
    except yaml.YAMLError as error:
        raise UsageError(f'{path}{_where(error)}: no valid YAML: {_what(error)}') from error
    except (ValueError, RecursionError) as error:
        what = 'settings nested too deep' if isinstance(error, RecursionError) else error
        raise UsageError(f'{path} holds {what}; shorten or correct it') from error
    return found


def _depth_exceeds(value: object, limit: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return not limit or any(_depth_exceeds(item, limit - 1) for item in items)


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, 'problem_mark', None)
    return f', line {mark.line + 1}, column {mark.column + 1}' if mark else ''


def _what(error: yaml.YAMLError) -> str:
    return getattr(error, 'problem', None) or getattr(error, 'reason', None) or str(error)
