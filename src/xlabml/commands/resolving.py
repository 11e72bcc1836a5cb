"""resolve: fill in and check the settings that follow from the machine, the task, the folders and the data."""

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml.datamodules import XLabDataModule
from xlabml.engine import auto_precision, check_strategy
from xlabml.evaluation import Monitor
from xlabml.plain import Plain

from .command_line import plain
from .errors import MOST_SHOWN, UsageError, usage_errors
from .finding import refuse_used
from .opening import find_task
from .overview import DATA_COMMANDS, RUN_COMMANDS
from .parsing import Settings
from .run_folder import Choice, choose_run


def resolve(settings: Settings, data: XLabDataModule) -> Settings:
    """Fill in what is `auto`, and refuse what cannot be run, before anything of the run is built.

    Args:
        settings: Those of a checkpoint are among them already.
        data: The data that they describe.

    Raises:
        UsageError: A setting does not fit the others.
    """
    settings = choose_precision(settings)
    settings = _choose_run(settings)
    settings = _ask_task(settings, data)
    settings = _leave_out_validation(settings, data)
    return settings if settings.command in DATA_COMMANDS else _ask_data(settings, data)


def choose_precision(settings: Settings) -> Settings:
    """Set the precision that `auto` stands for, so that it is saved and a resumed run keeps it."""
    trainer = settings.values.trainer
    if trainer.precision == 'auto':
        settings = settings.changed({'trainer.precision': auto_precision(trainer.accelerator)})
    with usage_errors():
        check_strategy(plain(settings.values))
    return settings


def _choose_run(settings: Settings) -> Settings:
    """Find the run that a checkpoint belongs to; without one, and for a branch, it is a new one."""
    values = settings.values
    resumed = settings.resumed
    choice = Choice(None)
    if resumed is not None:
        root = Path(values.trainer.default_root_dir)
        folder = values.checkpoint.folder
        is_typed = str(root) != '.' or any(flag.startswith('--trainer.default_root_dir') for flag in settings.arguments)
        choice = choose_run(resumed.found, resumed.checkpoint, str(settings.command), root, is_typed, folder)
        if choice.folder is not None:
            settings = settings.changed({'checkpoint.folder': choice.folder})
    folder = settings.values.checkpoint.folder
    if settings.is_fit and folder is not None and not values.trainer.fast_dev_run:
        with usage_errors():
            refuse_used(folder, None if resumed is None else resumed.found)
    return settings._replace(choice=choice)


def _ask_task(settings: Settings, data: XLabDataModule) -> Settings:
    """Check that the task trains on this kind of targets, and set the monitor that `auto` stands for."""
    task = find_task(settings)
    if settings.command in RUN_COMMANDS:
        task.check_format(data.examples)
    monitor = task.monitor
    if settings.values.checkpoint.monitor == 'auto' and isinstance(monitor, Monitor):
        settings = settings.changed({'checkpoint.monitor': monitor.name, 'checkpoint.mode': monitor.mode})
    return settings


def _leave_out_validation(settings: Settings, data: XLabDataModule) -> Settings:
    """Train without validation where data.splits.val is 0 and no source is `only: val`."""
    is_asked = data.texts.splitting.ratios.get('val', 0) > 0 or any(source.only == 'val' for source in data.sources)
    if settings.command == 'validate' and not is_asked:
        raise UsageError(
            'data.splits.val is 0: there is nothing to validate on; xlab test evaluates the test split, and a source '
            'that is only: val gives texts of your own'
        )
    if not settings.is_fit or is_asked or settings.values.trainer.limit_val_batches is not None:
        return settings
    _say('data.splits.val is 0: there is no validation, and no best checkpoint')
    return settings.changed({'trainer.limit_val_batches': 0})


def _ask_data(settings: Settings, data: XLabDataModule) -> Settings:
    """Fill in arguments of the task and of the format that are found in the documents, and print them.

    The stores are opened, or built, where one of them is null. A checkpoint's facts are those of the run that it
    resumes.
    """
    task = find_task(settings)
    values = plain(settings.values)
    wanted = {f'model.init_args.{name}': name for name in task.from_data if _is_null(values['model'], name)}
    examples = values['data']['examples']
    wanted |= {f'data.examples.init_args.{name}': name for name in data.examples.from_data if _is_null(examples, name)}
    if not wanted:
        return settings
    facts: Mapping[str, Plain] = {}
    if settings.resumed is not None:
        facts = settings.resumed.checkpoint.facts
        data.use_tokenizer(settings.resumed.checkpoint.tokenizer_bytes())
    if not set(wanted.values()) <= set(facts):
        if data.stream is not None:
            raise UsageError(
                f'{_typed(next(iter(wanted)))} is not set, and with data.stream no run knows all documents before it '
                'starts; set it'
            )
        data.prepare_data()
        facts = {**data.examples.facts(data.texts.corpus), **facts}
    for path, name in wanted.items():
        if name not in facts:
            raise UsageError(
                f'{_typed(path)} is not set, and {type(data.examples).__name__} does not find it in the data; set it'
            )
    found = {path: facts[name] for path, name in wanted.items()}
    for path, value in found.items():
        _say(f'{_typed(path)} {shorten(json.dumps(value, ensure_ascii=False), MOST_SHOWN)}, found in the data')
    return settings.changed(found)._replace(facts=facts)


def _is_null(part: object, name: str) -> bool:
    """Whether an argument of a part is not set."""
    arguments = part.get('init_args') if isinstance(part, dict) else None
    return not isinstance(arguments, dict) or arguments.get(name) is None


def _typed(path: str) -> str:
    """A setting as the user types it."""
    return path.replace('.init_args.', '.')


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)
