"""resume: the settings of a checkpoint's run stand below what is typed, and above the defaults."""

import contextlib
from pathlib import Path

import yaml

from xlabml import artifacts, checkpoints
from xlabml.untrusted.building import REMEDY, naming

from .command_line import RUN_COMMANDS, plain
from .errors import UsageError, typed_paths
from .finding import Found, Resumed, find_checkpoint, reading
from .parsing import Settings
from .saved import Seals, saved_settings

_MAX_LOOKS = 5
_LIMITS = ('max_steps', 'max_epochs', 'max_time')


def resume(settings: Settings, opened: contextlib.ExitStack) -> Settings:
    """Read the checkpoint that `ckpt_path` names, and put its settings below what is typed.

    Args:
        settings: As `parse` returns them.
        opened: Keeps what was fetched for as long as the command lasts.

    Raises:
        UsageError: There is no such checkpoint, it cannot be trained on, or it is of another task.
        ValueError: It is damaged, or its settings cannot be used.
    """
    command, typed = settings.command, settings.values
    asked = typed.get('ckpt_path') if command in RUN_COMMANDS else None
    if asked is None:
        if command in ('validate', 'test', 'predict'):
            raise UsageError(f'xlab {command} needs a trained model: give --ckpt_path PATH, last or best')
        return settings
    with typed_paths():
        try:
            found = _find(asked, settings, opened)
        except FileNotFoundError:
            if not settings.is_fit or asked != 'last':
                raise
            return settings.changed({'ckpt_path': None})
    for _ in range(_MAX_LOOKS):
        with reading(asked, found), contextlib.suppress(FileNotFoundError):
            checkpoint = checkpoints.read(found.path)
            break
        found = _find(asked, settings, opened)  # a run that trains on has just deleted it, for a newer one
    else:
        checkpoint = checkpoints.read(found.path)
    path = found.path
    if settings.is_fit and checkpoints.is_export(checkpoint):
        raise UsageError(f'{path} is an exported model without optimizer state; resume from a training checkpoint')
    checkpoints.require_whole(checkpoint, path, training=settings.is_fit)
    seals = Seals()
    with naming(path, remedy=REMEDY):
        saved = saved_settings(checkpoint, seals)
    if any(typed.trainer.get(limit) not in (None, -1) for limit in _LIMITS):
        # A length that is typed is the length: no other one of the saved run cuts it short.
        saved['trainer'] = {key: value for key, value in saved['trainer'].items() if key not in _LIMITS}
    merged = _parse_above(settings, yaml.safe_dump(saved), path)
    seals.open(merged.values)
    merged.check()
    values = merged.values
    values.ckpt_path = found.name
    if values.model.class_path != saved['model']['class_path']:
        raise UsageError(
            f'{path} holds a {saved["model"]["class_path"]}, but model is {values.model.class_path}; a run is resumed '
            'as the same task'
        )
    names_sources = any(
        (now := plain(values.data[group])) is not None and now != plain(typed.data[group])
        for group in ('sources', 'held_out')
    )
    return merged._replace(resumed=Resumed(found, checkpoint, names_sources, _is_alone(settings.arguments)))


def _find(asked: str, settings: Settings, opened: contextlib.ExitStack) -> Found:
    values = settings.values
    root, folder = Path(values.trainer.default_root_dir), values.checkpoint.folder
    is_remote = '://' in asked or '://' in (folder or '')
    into = opened.enter_context(artifacts.scratch()) if is_remote else Path()
    return find_checkpoint(asked, root, values.model.class_path, folder, into)


def _parse_above(settings: Settings, saved: str, path: Path) -> Settings:
    """Parse what was typed once more, on top of what a checkpoint says."""
    arguments, command = settings.arguments, str(settings.command)
    where = arguments.index(command) + 1
    try:
        config = settings.parsers.main.parse_args([*arguments[:where], '--config', saved, *arguments[where:]])
    except UsageError as error:  # what was typed has been parsed already
        raise ValueError(f'{path} has settings that do not go with what is typed: {error}') from error
    return settings._replace(values=config[command])


def _is_alone(arguments: tuple[str, ...]) -> bool:
    """Whether a command line names a checkpoint and nothing else."""
    return len(arguments) == (2 if any(argument.startswith('--ckpt_path=') for argument in arguments) else 3)
