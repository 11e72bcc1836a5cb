"""The command line before jsonargparse parses it, and settings as plain values afterwards."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from jsonargparse import Namespace

from xlabml.untrusted import yaml_text

from .errors import UsageError
from .files import read_settings
from .groups import LINKED
from .overview import COMMANDS

Parsed: TypeAlias = dict[str, Any]
"""Settings as `plain` makes them: the parser has held their values against the signatures, which no type names here."""


def plain(value: object) -> Any:
    """Settings as dictionaries, lists and plain values."""
    if isinstance(value, Namespace):
        return {name: plain(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def files_first(arguments: Sequence[str]) -> list[str]:
    """Move the files of `-c`, in any of its spellings, right behind the command's name: flags beat them from anywhere.

    Raises:
        UsageError: A `-c` has no file.
    """
    files = []
    others = []
    given = iter(arguments)
    for argument in given:
        if argument in ('-c', '--config'):
            value = next(given, None)
            if value is None:
                raise UsageError(f'{argument} needs a file')
        elif argument.startswith('--config='):
            value = argument.removeprefix('--config=')
        elif argument.startswith('-c') and not argument.startswith('--'):
            value = argument[2:].removeprefix('=')
        else:
            others.append(argument)
            continue
        files += ['--config', value]
    where = next((i for i, argument in enumerate(others) if argument in COMMANDS), None)
    if where is None:
        if files and not {'-h', '--help'} & set(others):
            raise UsageError(f'-c {files[1]} goes with a command: {", ".join(COMMANDS)}')
        return others
    return [*others[: where + 1], *files, *others[where + 1 :]]


def join_sources(arguments: Sequence[str]) -> list[str]:
    """Make one list of the paths that are typed one by one: `--data.sources a.jsonl --data.sources b.jsonl`.

    What is typed as a list or a dictionary stands alone, as everywhere: the last one counts. (jsonargparse would look
    for a list in the file of a path that is typed alone.)
    """
    flag = '--data.sources'
    others = without_option(arguments, flag)
    given = iter(arguments)
    values = []
    for argument in given:
        if argument == flag:
            value = next(given, None)
            if value is None:
                return list(arguments)  # argparse says that one is missing
            values.append(value)
        elif argument.startswith(f'{flag}='):
            values.append(argument.removeprefix(f'{flag}='))
    if not values or any(value.lstrip().startswith(('[', '{')) for value in values):
        return list(arguments)
    return [*others, f'{flag}={json.dumps(values)}']


def without_option(arguments: Sequence[str], name: str) -> list[str]:
    """The arguments without an option that has a value, in either of its spellings."""
    others = []
    given = iter(arguments)
    for argument in given:
        if argument == name:
            next(given, None)
        elif not argument.startswith(f'{name}='):
            others.append(argument)
    return others


def sets_model(arguments: Sequence[str]) -> bool:
    """Whether a command line says which task it is for: by a flag, or in a file of settings.

    Args:
        arguments: As `files_first` returns them.
    """
    return any(
        re.match(r'--model(?![^.=])', flag) or (flag == '--config' and 'model' in read_settings(Path(value)))
        for flag, value in itertools.zip_longest(arguments, arguments[1:], fillvalue='')
    )


def refuse_long(arguments: Sequence[str]) -> None:
    """Refuse a value of a length that no setting has, before anything reads it.

    Raises:
        UsageError: Names the flag, and does not repeat the value.
    """
    flag = 'an argument'
    for argument in arguments:
        if argument.startswith('-') and argument != '-':
            flag = argument.partition('=')[0][:80]
        if len(argument) > yaml_text.MAX_CHARS:
            raise UsageError(
                f'{flag} has a value of {len(argument):,} characters, where {yaml_text.MAX_CHARS:,} are the most; put '
                'texts and lists into files, and name these'
            )


def refuse_linked(arguments: Sequence[str]) -> None:
    """Refuse a setting that follows from another: the link would overwrite it in silence.

    Args:
        arguments: As `files_first` returns them.

    Raises:
        UsageError: A flag or a file sets one.
    """
    linked = {f'model.{name}': source for name, source in LINKED.items()} | {'data.seed': 'seed_everything'}
    for flag, value in itertools.zip_longest(arguments, arguments[1:], fillvalue=''):
        name, has_value, after = flag.removeprefix('--').partition('=')
        if name.replace('.init_args.', '.') in linked:
            raise UsageError(f'{name} follows from {linked[name.replace(".init_args.", ".")]}; set that')
        if flag == '--config':
            _refuse_linked_in(read_settings(Path(value)), linked, value)
        elif name in ('model', 'data'):
            _refuse_linked_in({name: _parse(after if has_value else value)}, linked, f'--{name}')


def _parse(text: str) -> object:
    """Settings that stand on the command line; None where they are broken: the parser reports the error."""
    try:
        return yaml_text.load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _refuse_linked_in(content: object, linked: dict[str, str], where: str) -> None:
    for group in ('model', 'data'):
        values = content.get(group) if isinstance(content, dict) else None
        if isinstance(values, dict):
            inner = values.get('init_args')
            for name in {**values, **(inner if isinstance(inner, dict) else {})}:
                if f'{group}.{name}' in linked:
                    raise UsageError(f'{group}.{name} in {where} follows from {linked[f"{group}.{name}"]}; set that')
