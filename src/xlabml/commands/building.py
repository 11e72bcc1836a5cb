"""build: from settings to objects, the task, its callbacks and the trainer."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning.pytorch as L
from jsonargparse import Namespace

from xlabml.callbacks import Checkpoints, Curves, Predictions, Spikes
from xlabml.callbacks.events import Events
from xlabml.datamodules import XLabDataModule
from xlabml.engine import Task
from xlabml.finite import require_finite
from xlabml.heads.loading import Initialized, initialize
from xlabml.plain import PlainDict
from xlabml.settings import build_arguments
from xlabml.untrusted.building import naming, try_out

from .claiming import claim, nothing_left_behind
from .command_line import plain
from .errors import UsageError
from .finding import Resumed
from .groups import CALLBACKS
from .initial import Initial
from .loggers import make_loggers
from .ngrams import mix_task
from .opening import blaming, find_task, within_the_checkpoint
from .parsing import Settings
from .run_facts import RunFacts
from .run_folder import RunFolder, SavedSettings
from .trainer import Trainer


class Own(NamedTuple):
    """Callbacks of a run whose results its command prints."""

    checkpoints: Checkpoints
    curves: Curves
    spikes: Spikes
    predictions: Predictions


class Built(NamedTuple):
    """The objects that a command runs.

    Args:
        claimed: The run's folder; None: there is none.
        initialized: Which weights of another run were loaded; None: without --init_from.
    """

    settings: Settings
    data: XLabDataModule
    task: Task
    trainer: Trainer
    own: Own
    claimed: RunFolder | None
    initialized: Initialized | None = None


def build(
    settings: Settings, data: XLabDataModule, opened: contextlib.ExitStack, callbacks: Sequence[L.Callback] = ()
) -> Built:
    """Build the task and its trainer; the run's folder is claimed last, when everything else has been checked.

    Args:
        settings: As `resolve` returns them.
        data: The data that they describe.
        opened: Keeps the run's lock for as long as the command lasts.
        callbacks: More of them, beside those that settings name.

    Raises:
        ValueError: A part cannot be built, does not fit the checkpoint, or not the other parts.
        OSError: The run's folder cannot be written to, or another process trains this run.
    """
    L.seed_everything(settings.values.seed_everything, workers=True)  # weights are drawn right after
    values = settings.values.clone()
    del values['data'], values['model']
    with blaming(settings), within_the_checkpoint(settings):
        model = plain(settings.values.model)
        cls = find_task(settings)
        task = cls(**build_arguments(cls, model.get('init_args') or {}))
        task.facts.update(settings.facts)
        made = settings.parser.instantiate_classes(values)
    if settings.command != 'predict':
        task.open_files()
    if settings.resumed is not None and values.get('ngram') is not None:
        callbacks = [*callbacks, *mix_task(values.ngram, settings.resumed, task)]
    initialized = None if settings.initial is None else _begin_with(settings.initial, task, data)
    if settings.resumed is not None:
        with naming(str(settings.resumed.found.path)):
            _take_up(settings.resumed, model, task, data, settings.is_fit)
    claimed = claim(settings, opened)
    with nothing_left_behind(claimed), blaming(settings):
        trainer, own = _build_trainer(settings, made, claimed, callbacks)
        if settings.is_fit:
            # A few steps of trainer.fast_dev_run are no run that a schedule has to fit into.
            task.check_training(-1 if settings.values.trainer.fast_dev_run else trainer.max_steps)
            _check_monitor(task, trainer, own.checkpoints)
    return Built(settings, data, task, trainer, own, claimed, initialized)


def _take_up(resumed: Resumed, model: PlainDict, task: Task, data: XLabDataModule, is_fit: bool) -> None:
    """Hold a checkpoint against the task and the data, and pass the data its part of it."""
    checkpoint = resumed.checkpoint
    task.check_weights(checkpoint)
    task.eval()
    try_out(str(resumed.found.path), model, task.try_network)
    task.train()
    data.use_tokenizer(checkpoint.tokenizer_bytes())
    if is_fit:
        data.will_go_on(checkpoint.place)
        return
    require_finite({name: checkpoint.weights[name] for name, _ in task.named_parameters()}, resumed.found.name)


def _begin_with(initial: Initial, task: Task, data: XLabDataModule) -> Initialized:
    """Give a new network the weights of another run, those of the vocabulary where the tokenizer is the same."""
    path, contents = initial
    tokenizer = data.tokenizer_path
    is_same = tokenizer.exists() and data.tokenizer.data == contents.tokenizer_bytes()
    return initialize(task.network, contents, path, is_same)


def _build_trainer(
    settings: Settings, made: Namespace, claimed: RunFolder | None, callbacks: Sequence[L.Callback]
) -> tuple[Trainer, Own]:
    """The trainer, with every callback that a run has.

    Args:
        made: The settings of the trainer, and the callbacks of the groups.
    """
    values: dict[str, Any] = vars(made.trainer)
    own = Own(made.checkpoint, made.curves, made.spikes, made.predictions)
    values['logger'] = _loggers(settings, claimed, values['logger'])
    if values['enable_checkpointing'] is False:
        raise UsageError(
            'trainer.enable_checkpointing is false, but runs are saved by checkpoint.*; leave it out, and set '
            'checkpoint.monitor to null to keep the newest checkpoint only'
        )
    if values['enable_progress_bar'] is False:
        made.progress.refresh_seconds = 0
        values['enable_progress_bar'] = None
    given = values['callbacks'] or []
    given = given if isinstance(given, list) else [given]
    saved = []
    if settings.is_fit and claimed is not None:
        written = settings.values.clone()
        written.pop('init_from', None)  # no other command takes it, and the checkpoints have the weights
        saved.append(SavedSettings(settings.parser.dump(written, skip_none=False), claimed.path))
    of_groups = [made[name] for name in CALLBACKS]
    trainer = Trainer(**{**values, 'callbacks': [*given, *callbacks, RunFacts(), *saved, *of_groups]})
    own.checkpoints.continues = settings.choice.run is not None
    if claimed is not None:
        trainer.run.folder = claimed.path
        own.curves.folder = claimed.path
        if own.checkpoints.folder is None:
            own.checkpoints.folder = str(claimed.path / 'checkpoints')
    for logger in trainer.loggers:
        if isinstance(logger, Events):
            logger.give_up = own.curves.give_up
    return trainer, own


def _loggers(settings: Settings, claimed: RunFolder | None, asked: object) -> object:
    """Who writes the curves of a run, in its folder: TensorBoard, or those that are named. True: the trainer's own, of
    a run without a folder; False: nobody, as there is no place for them."""
    names = ['tensorboard'] if asked is True else [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return asked
    if claimed is None:
        return settings.command is None or bool(settings.values.trainer.fast_dev_run)  # or a number of steps
    resumed = settings.resumed
    step = resumed.checkpoint.step + 1 if resumed is not None and settings.is_fit else None
    return make_loggers(names, claimed.path, step)


def _check_monitor(task: Task, trainer: Trainer, saver: Checkpoints) -> None:
    """Refuse a metric that no validation reports. A class of the user's may report more than it names."""
    saver.choose_monitor(task.monitor)
    figures = task.figure_names()
    observers = (task, *trainer.callbacks)
    if figures is not None and all(type(part).__module__.startswith(('xlabml.', 'lightning.')) for part in observers):
        saver.check_monitor([f'val_{name}' for name in figures])
