"""Checkpoints of earlier formats, turned into those of today step by step as they are read.

Format 1: the network of a task was its attribute `model`. Format 2: it is `network`. Format 3: the checkpoint says how
the network is built without the task. Format 4: settings of the data that are gone (`moved.REMOVED`) are not among its
arguments; those that were set are listed, since such a run cannot be resumed. Format 5: settings whose default was
another one before (`ADDED`, and the length of a run) are written out as what was done.
"""

from collections.abc import Callable

from xlabml.moved import without_removed
from xlabml.plain import PlainDict
from xlabml.untrusted.matching import find_base

from .contents import DATA, NETWORK, REMOVED, SETTINGS, TASK, TRAINED_WEIGHTS, WEIGHTS, Saved

FIRST = 1
"""The oldest format that is read."""

FORMAT = 5
"""The format that this version writes."""

_HEAD = 'xlabml.heads.LanguageModel'
_HEAD_ARGUMENTS = ('n_vocab', 'max_len', 'trunk', 'tied', 'head_bias', 'logit_cap')
"""The only network that there was in format 2, and the arguments of its task which it was built from."""


def _name_network(checkpoint: Saved) -> Saved:
    """Rename the weights, averaged ones and trained ones; optimizer state goes by position."""
    renamed = dict(checkpoint)
    for key in (WEIGHTS, TRAINED_WEIGHTS):
        weights = checkpoint.get(key)
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            continue  # refused by what checks a migrated checkpoint
        if not any(name.startswith('network.') for name in weights):
            renamed[key] = {_of_network(name): weight for name, weight in weights.items()}
    return renamed


def _of_network(name: str) -> str:
    return f'network.{name.removeprefix("model.")}' if name.startswith('model.') else name


def _describe_network(checkpoint: Saved) -> Saved:
    """Say how the network is built, where the task's arguments say it."""
    arguments = checkpoint.get(TASK)
    if NETWORK in checkpoint or not isinstance(arguments, dict) or not {'n_vocab', 'max_len'} <= set(arguments):
        return checkpoint
    known = {name: arguments[name] for name in _HEAD_ARGUMENTS if name in arguments}
    return {**checkpoint, NETWORK: {'class_path': _HEAD, 'init_args': known}}


def _list_removed(checkpoint: Saved) -> Saved:
    """Take settings that are gone out of the data's arguments."""
    arguments = checkpoint.get(DATA)
    if not isinstance(arguments, dict):
        return checkpoint
    kept, was_set = without_removed('data', arguments)
    return {**checkpoint, DATA: kept, **({REMOVED: was_set} if was_set else {})}


ADDED: dict[str, dict[str, PlainDict]] = {
    'trunk': {'xlabml.transformer.Transformer': {'shift_width': 1, 'shift_places': ['projections']}},
    'optimizer': {'xlabml.training.Muon': {'iteration': 'quintic'}},
}
"""Settings that are newer than format 4: by the argument of the task, the class of the part, and the setting, the value
that means what was done without it."""

_LIMITS = ('max_steps', 'max_epochs', 'max_time')
_STEPS = 1950
"""The length of a run that set none of its limits, until format 4."""


def _write_out_defaults(checkpoint: Saved) -> Saved:
    """Write out what was done where a setting was not there or not set."""
    found = dict(checkpoint)
    if isinstance(arguments := checkpoint.get(TASK), dict):
        found[TASK] = _with_added(arguments)
    if isinstance(network := checkpoint.get(NETWORK), dict):
        found[NETWORK] = _in_arguments(network)
    if isinstance(run := checkpoint.get(SETTINGS), dict):
        run = dict(run)
        if isinstance(model := run.get('model'), dict):
            run['model'] = _in_arguments(model)
        if isinstance(trainer := run.get('trainer'), dict) and all(trainer.get(name) in (None, -1) for name in _LIMITS):
            run['trainer'] = {**trainer, 'max_steps': _STEPS}
        found[SETTINGS] = run
    return found


def _in_arguments(part: Saved) -> Saved:
    arguments = part.get('init_args')
    return {**part, 'init_args': _with_added(arguments)} if isinstance(arguments, dict) else part


def _with_added(arguments: Saved) -> Saved:
    found = dict(arguments)
    for name, of_classes in ADDED.items():
        part = arguments.get(name)
        if not isinstance(part, dict) or not isinstance(part.get('class_path'), str):
            continue
        given = part.get('init_args', {})
        added = _added_to(part['class_path'], of_classes)
        if added and isinstance(given, dict):
            found[name] = {**part, 'init_args': {**added, **given}}
    return found


def _added_to(path: str, of_classes: dict[str, PlainDict]) -> PlainDict:
    """What is newer in a class: one that is named, or a class of the user's that derives from it and takes it too."""
    found = find_base(path, of_classes)
    if found is None:
        return {}
    base, taken = found
    return {name: value for name, value in of_classes[base].items() if name in taken}


MIGRATIONS: dict[int, Callable[[Saved], Saved]] = {
    1: _name_network,
    2: _describe_network,
    3: _list_removed,
    4: _write_out_defaults,
}
"""What turns a checkpoint of a format into one of the next."""
