"""resolve: settings that follow from the machine, the task, the folders and the data are filled in, and checked."""

from pathlib import Path

from xlabml.datamodules import XLabDataModule
from xlabml.engine import auto_precision, check_strategy
from xlabml.evaluation import Monitor

from .command_line import RUN_COMMANDS, plain
from .errors import usage_errors
from .finding import refuse_used
from .opening import find_task
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
    return _ask_task(settings, data)


def choose_precision(settings: Settings) -> Settings:
    """Say which precision was chosen, so that it is saved and a resume keeps it."""
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
    """Hold the examples against the task's kinds of targets, and take the figure that chooses its checkpoints."""
    task = find_task(settings)
    if settings.command in RUN_COMMANDS:
        task.check_format(data.examples)
    monitor = task.monitor
    if settings.values.checkpoint.monitor == 'auto' and isinstance(monitor, Monitor):
        settings = settings.changed({'checkpoint.monitor': monitor.name, 'checkpoint.mode': monitor.mode})
    return settings
