"""resume: settings of a checkpoint, or those that a new run takes over, stand below what is typed."""

import contextlib
from pathlib import Path

import yaml

from xlabml import artifacts, checkpoints
from xlabml.plain import PlainDict, below
from xlabml.untrusted.building import REMEDY, naming

from .command_line import plain, sets_model
from .errors import UsageError, typed_paths, usage_errors
from .finding import Found, Resumed, find_checkpoint, reading
from .initial import initial_settings, open_initial
from .overview import RUN_COMMANDS
from .parsing import Settings, drop_removed
from .saved import Seals, saved_settings
from .sizing import AUTO

_MAX_LOOKS = 5
_LIMITS = ('max_steps', 'max_epochs', 'max_time')


def resume(settings: Settings, opened: contextlib.ExitStack) -> Settings:
    """Read the checkpoint that `ckpt_path` or `init_from` names, and put its settings below what is typed.

    Args:
        settings: As `parse` returns them.
        opened: Keeps what was fetched for as long as the command lasts.

    Raises:
        UsageError: There is no such checkpoint, it cannot be trained on, or it is of another task.
        ValueError: It is damaged, or its settings cannot be used.
    """
    command = settings.command
    typed = settings.values
    asked = typed.get('ckpt_path') if command in RUN_COMMANDS else None
    if asked is None:
        if command in ('validate', 'test', 'predict'):
            raise UsageError(f'xlab {command} needs a trained model: give --ckpt_path PATH, last or best')
        return _take_over(settings)
    if typed.get('init_from') is not None and asked != 'last':
        raise UsageError(
            f'--init_from starts a new run and --ckpt_path {asked} resumes one; give one of them, or --ckpt_path '
            'last, which starts a run where there is none to resume'
        )
    with typed_paths():
        try:
            found = _find(asked, settings, opened)
        except FileNotFoundError:
            if not settings.is_fit or asked != 'last':
                raise
            return _take_over(settings).changed({'ckpt_path': None})
    for _ in range(_MAX_LOOKS):
        with reading(asked, found), contextlib.suppress(FileNotFoundError):
            checkpoint = checkpoints.load(found.path)
            break
        found = _find(asked, settings, opened)  # a run that trains on has just deleted it, for a newer one
    else:
        checkpoint = checkpoints.load(found.path)
    path = found.path
    if settings.is_fit and checkpoint.is_export:
        raise UsageError(f'{path} is an exported model without optimizer state; resume from a training checkpoint')
    checkpoints.require_whole(checkpoint, path, training=settings.is_fit)
    seals = Seals()
    with naming(path, remedy=REMEDY):
        saved = saved_settings(checkpoint, seals)
    if any(typed.trainer.get(limit) not in (None, -1, AUTO) for limit in _LIMITS):
        # A length that is typed is the length: no other one of the saved run cuts it short.
        saved['trainer'] = {key: value for key, value in below(saved, 'trainer').items() if key not in _LIMITS}
    merged = _parse_above(settings, saved, seals, path)
    values = merged.values
    values.ckpt_path = found.name
    task = below(saved, 'model')['class_path']
    if values.model.class_path != task:
        raise UsageError(
            f'{path} holds a {task}, but model is {values.model.class_path}; a run is resumed as the same task'
        )
    names_sources = any(
        (now := plain(values.data[group])) is not None and now != plain(typed.data[group])
        for group in ('sources', 'held_out')
    )
    return merged._replace(resumed=Resumed(found, checkpoint, names_sources, _is_alone(settings.arguments)))


def _find(asked: str, settings: Settings, opened: contextlib.ExitStack) -> Found:
    values = settings.values
    root = Path(values.trainer.default_root_dir)
    folder = values.checkpoint.folder
    is_remote = '://' in asked or '://' in (folder or '')
    into = opened.enter_context(artifacts.scratch()) if is_remote else Path()
    # Evaluated is the newest run of any task, as what it says of itself; trained is one of the default task.
    is_any = not settings.is_fit and not sets_model(settings.arguments)
    return find_checkpoint(asked, root, None if is_any else values.model.class_path, folder, into, settings.is_fit)


def _take_over(settings: Settings) -> Settings:
    """Let the settings that a new run takes over from another one stand below what is typed."""
    typed = settings.values
    seals = Seals()
    asked = typed.get('init_from') if settings.command in RUN_COMMANDS else None
    if asked is None:
        return settings
    initial = open_initial(asked, Path(typed.trainer.default_root_dir))
    with usage_errors():
        saved = initial_settings(initial, typed.model.class_path, typed.data.tokenizer_path is not None, seals)
    return _parse_above(settings, saved, seals, initial.path)._replace(initial=initial)


def _parse_above(settings: Settings, saved: PlainDict, seals: Seals, path: Path) -> Settings:
    """Parse what was typed once more, on top of settings from a file."""
    arguments = settings.arguments
    command = str(settings.command)
    text = yaml.safe_dump(saved)
    where = arguments.index(command) + 1
    try:
        config = settings.parsers.main.parse_args([*arguments[:where], '--config', text, *arguments[where:]])
    except UsageError as error:  # what was typed has been parsed already
        raise ValueError(f'{path} has settings that do not go with what is typed: {error}') from error
    drop_removed(config[command], command)
    seals.open(config)
    merged = settings._replace(values=config[command])
    merged.check()
    return merged


def _is_alone(arguments: tuple[str, ...]) -> bool:
    """Whether a command line names a checkpoint and nothing else."""
    return len(arguments) == (2 if any(argument.startswith('--ckpt_path=') for argument in arguments) else 3)
