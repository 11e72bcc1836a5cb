"""The settings in a checkpoint, matched with the signatures before the parser reads any of them."""

import secrets
import typing

from jsonargparse import Namespace

from xlabml.checkpoints import Contents
from xlabml.datamodules import XLabDataModule
from xlabml.models import Task
from xlabml.plain import Plain, PlainDict
from xlabml.untrusted.matching import match_arguments, match_part, parameters

from .groups import GROUPS, LINKED

_NOT_FROM_A_FILE = {
    *('default_root_dir', 'folder', 'devices', 'num_nodes'),
    *('callbacks', 'plugins', 'profiler', 'logger', 'strategy'),
}
"""Settings that belong to the machine, or that may name a class of another library."""

_NOT_OF_THE_NEXT = ('tokenizer_path', 'accept_changes')
"""Of the data: the tokenizer comes from the checkpoint, and a change is accepted once."""


class Seals:
    """Placeholders for the strings of a file, so that a parser finds no object and no path in them."""

    def __init__(self) -> None:
        self._word = f'text-{secrets.token_hex(8)}'
        self._texts = list[str]()

    def close(self, text: str) -> str:
        """The name of a text."""
        self._texts.append(text)
        return f'{self._word}-{len(self._texts) - 1}'

    def open(self, value: object) -> object:
        """Put every text back in its place, in settings of any depth; those that are namespaces stay the same ones."""
        if isinstance(value, Namespace | dict):
            items = vars(value) if isinstance(value, Namespace) else value
            for name, item in items.items():
                items[name] = self.open(item)
        elif isinstance(value, list):
            value[:] = [self.open(item) for item in value]
        elif isinstance(value, str) and value.startswith(self._word):
            return self._texts[int(value.rpartition('-')[2])]
        return value


def saved_settings(checkpoint: Contents, seals: Seals | None = None) -> PlainDict:
    """The settings of a checkpoint's run, without those that follow from others or belong to the machine.

    Of all but the model and the data only plain values are taken: no class of another library is named by a file.

    Args:
        checkpoint: Of the run.
        seals: Closes all texts; None: they stay as they are.

    Raises:
        ValueError: A name or a value does not fit the signature that it would end in.
    """
    text = str if seals is None else seals.close
    config = checkpoint.run.settings
    path, arguments = match_part(checkpoint.task.settings(), Task, 'model', text)
    data = match_arguments(XLabDataModule, checkpoint.data, 'data', text)
    seed = data.pop('seed', 42)
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f'data.seed is {seed}; it must be 0 or more')
    found: PlainDict = {
        'seed_everything': seed,
        'model': {
            'class_path': path,
            'init_args': {name: value for name, value in arguments.items() if name not in LINKED},
        },
        'data': {name: value for name, value in data.items() if name not in _NOT_OF_THE_NEXT},
    }
    for group, cls in GROUPS.items():
        if group not in found:
            found[group] = match_arguments(cls, _plain_of(config.get(group, {}), cls, group), group, text)
    return found


def _plain_of(values: Plain, cls: type, group: str) -> PlainDict:
    """The settings of a group that a file may set; a class, a list or a mapping of it has to be typed again."""
    if not isinstance(values, dict):
        raise ValueError(f'{group} is a {type(values).__name__}, where settings by name belong')
    kinds = parameters(cls)
    return {
        name: value
        for name, value in values.items()
        if name not in _NOT_FROM_A_FILE and not (isinstance(value, dict | list) and _holds_parts(kinds.get(name)))
    }


def _holds_parts(kind: object) -> bool:
    """Whether a setting of this kind may be a class or a mapping; a list of numbers is neither."""
    members = typing.get_args(kind)
    return any(
        one is dict or typing.get_origin(one) is dict or (isinstance(one, type) and one.__module__ != 'builtins')
        for one in (members or (kind,))
    )
