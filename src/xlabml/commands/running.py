"""run: each command, with the objects that were built for it."""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence

import lightning.pytorch as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml.callbacks import Checkpoints, Overfitting, attention_lines, skip_argument
from xlabml.callbacks.events import Events
from xlabml.callbacks.progress import find_figures
from xlabml.datamodules import XLabDataModule
from xlabml.engine import Run, wait_for_children
from xlabml.errors import VocabularyError
from xlabml.plain import PlainDict, flat

from . import data as data_commands
from .autotune import autotune
from .building import Built, build
from .claiming import nothing_left_behind
from .command_line import plain
from .errors import show, usage_errors
from .horizon import describe_new_horizon
from .opening import open_data
from .overview import DATA_COMMANDS
from .parsing import Settings
from .resolving import resolve
from .resuming import resume
from .sizing import AUTO, shrink_vocabulary, size_run


def execute(settings: Settings, callbacks: Sequence[L.Callback] = ()) -> Built | None:
    """Run a command, from its settings on.

    Args:
        settings: As `parse` returns them.
        callbacks: More of them, beside those that settings name.

    Returns:
        The objects that were run; None for a command that prepares data.
    """
    with contextlib.ExitStack() as opened:
        is_auto = settings.values.data.n_vocab == AUTO
        settings, data = prepare(settings, opened)
        if settings.command in DATA_COMMANDS:
            try:
                run_data_command(settings, data)
            except VocabularyError as error:
                if not is_auto:
                    raise
                settings = shrink_vocabulary(settings, error)
                run_data_command(settings, open_data(settings))
            return None
        built = build(settings, data, opened, callbacks)
        run(built)
        return built


def prepare(settings: Settings, opened: contextlib.ExitStack) -> tuple[Settings, XLabDataModule]:
    """Resolve settings, and build the data that they describe then."""
    is_auto = settings.values.data.n_vocab == AUTO
    settings = size_run(resume(settings, opened))
    if not is_auto or settings.resumed is not None or settings.initial is not None:
        return _prepare(settings)
    try:
        found, data = _prepare(settings)
        if settings.command not in DATA_COMMANDS:
            data.texts.tokenizer_file.ensure()
        return found, data
    except VocabularyError as error:
        return _prepare(shrink_vocabulary(settings, error))


def _prepare(settings: Settings) -> tuple[Settings, XLabDataModule]:
    """The same of settings whose sizes are known."""
    data = open_data(settings)
    found = resolve(settings, data)
    if found.autotunes:
        found = autotune(found)
    if plain(found.values.data) != plain(settings.values.data):
        data = open_data(found)
    return found, data


def run_data_command(settings: Settings, data: XLabDataModule) -> None:
    """Call the function of a command that prepares data, or inspects it."""
    function = getattr(data_commands, str(settings.command))
    names = list(inspect.signature(function).parameters)[1:]
    function(data, **{name: plain(settings.values[name]) for name in names})


def run(built: Built) -> None:
    """Fit, validate, test or predict.

    Raises:
        SystemExit: The run was ended early; its status says why.
    """
    with nothing_left_behind(built.claimed, built.trainer):
        _RUNS[str(built.settings.command)](built)


def _fit(built: Built) -> None:
    """Train, or resume, or report that the run is finished."""
    settings, data, task, trainer, _, claimed, initialized = built
    resumed = settings.resumed
    with usage_errors():
        attention = attention_lines(trainer, task)
    data.prepare_data()
    assert len(data.texts.train_examples)  # an empty split is refused before anything is written
    if settings.values.trainer.limit_val_batches != 0:
        assert len(data.texts.open_examples('val', 'val'))
    length = data.run_steps(trainer.max_steps, settings.values.trainer.max_epochs)
    if resumed is not None and _is_finished(built, length):
        step = resumed.checkpoint.step
        _say(f'{resumed.found.name} has finished its {step:,} steps; a larger trainer.max_steps resumes it')
        if settings.choice.run is None and claimed is not None:
            claimed.give_up()
        else:
            _say_results(built)
        return
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        with usage_errors():
            task.check_schedule(task.find_horizon(length, data))
    if resumed is not None:
        _say(f'resuming from {resumed.found.name}')
        _say_new_run(built)
        if line := describe_new_horizon(task, data, length, resumed.checkpoint):
            _say(line)
        step = resumed.checkpoint.step
        skipped = resumed.checkpoint.place.get('skipped', [])
        known = [pair for *pair, _, _ in skipped if pair in data.skip and pair[1] > step]
        if known:
            _say(f'the rows of data.skip {known} are left out already, as the checkpoint says: no others are')
    if initialized is not None and settings.initial is not None:
        _say(f'initial weights from {settings.initial.path}: {initialized.describe()}')
    _say(f'precision {trainer.precision}, run folder {None if claimed is None else claimed.path}')
    for line in attention:
        _say(line)
    path = None if resumed is None else str(resumed.found.path)
    _log_settings(built)
    trainer.fit(task, datamodule=data, ckpt_path=path, weights_only=True)
    _say_results(built)
    _say_end(built)
    if status := Run.of(trainer).status:
        wait_for_children(trainer)
        raise SystemExit(status)


def _log_settings(built: Built) -> None:
    """Describe the run in TensorBoard's tab HPARAMS, by the settings of model and data."""
    values = {name: built.settings.values.get(name) for name in ('model', 'data', 'seed_everything')}
    settings = flat(plain(values)).items()
    # TensorBoard shows a truth value as 1.0000.
    shown = {
        name: str(value).lower() if isinstance(value, bool) else value for name, value in settings if value is not None
    }
    for logger in built.trainer.loggers:
        if isinstance(logger, Events):
            logger.log_settings(shown, built.own.checkpoints.monitor or 'val_loss')


def _is_finished(built: Built, length: int) -> bool:
    """Whether a checkpoint is that of the last step of its run."""
    resumed = built.settings.resumed
    assert resumed is not None
    checkpoint = resumed.checkpoint
    stops = any(
        isinstance(callback, EarlyStopping) or (isinstance(callback, Overfitting) and callback.patience is not None)
        for callback in built.trainer.callbacks
    )
    saved = checkpoint.callback_state(Checkpoints.__name__)
    is_over = 0 <= length <= checkpoint.step and not saved.get('owes_validation', False)
    return is_over or (stops and saved.get('stopped_early', False))


def _say_results(built: Built) -> None:
    """Print where the checkpoints and the curves are."""
    if built.claimed is None:
        return
    saver = built.own.checkpoints
    resumed = built.settings.resumed
    if resumed is not None and not saver.saved:
        saver.load_state_dict(resumed.checkpoint.callback_state(saver.state_key))
    best = saver.best
    newest = saver.newest
    if best is not None:
        _say(f'best checkpoint: {best} ({saver.monitor} {saver.saved[best]:.4f})')
    if newest is not None and newest != best:
        _say(f'newest checkpoint: {newest}')
    if saver.exported is not None:
        _say(f'its weights are put back, and exported to {saver.exported}')
    if best is None and newest is None:
        _say('no checkpoint was saved')
    if not built.own.curves.is_given_up and any(
        isinstance(logger, TensorBoardLogger) for logger in built.trainer.loggers
    ):
        _say(f'curves: tensorboard --logdir {built.claimed.path.parent.parent} (http://localhost:6006/#custom_scalars)')


def _say_end(built: Built) -> None:
    """Print why the run ended early, where it did, and which command resumes it."""
    trainer = built.trainer
    spikes = built.own.spikes
    run = Run.of(trainer)
    if spikes.stopped:
        step = spikes.stopped
        is_saved = run.newest_checkpoint is not None
        skip = skip_argument(trainer, step, step)
        last = '--ckpt_path last' if is_saved else ''  # of another run, where this one has none
        typed = ' '.join(filter(None, ['with', last, skip])) if last or skip else 'as it was'
        resumes = 'resumes' if is_saved or built.settings.resumed is not None else 'begins anew,'
        _say(
            f'ended by a loss spike at step {step} ({spikes.path}); nothing was saved after it: the same command '
            f'{typed} {resumes} {"without" if skip else "with"} the rows of that step'
        )
    elif run.ended is not None and not run.ended.status:
        _say(f'ended at step {trainer.global_step:,}: {run.ended.why}')
    elif run.ended is not None:
        _say(f'{run.ended.why} at step {trainer.global_step}; the same command with --ckpt_path last resumes it')


def _say_new_run(built: Built) -> None:
    """Print that a new run is opened, and why."""
    if built.settings.choice.why_new and built.claimed is not None:
        _say(f'opening a new run, {built.claimed.path}: {built.settings.choice.why_new}')


def _validate(built: Built) -> None:
    """Evaluate on the val split."""
    _evaluate(built, built.trainer.validate, 'val')


def _test(built: Built) -> None:
    """Evaluate on the test split."""
    resumed = built.settings.resumed
    assert resumed is not None
    there = {type(callback).__name__ for callback in built.trainer.callbacks}
    missing = [name for name in saved_callbacks(resumed.checkpoint.run.settings) if name not in there]
    _evaluate(built, built.trainer.test, 'test')
    if missing:
        run = built.settings.choice.run
        settings = None if run is None else run / 'config.yaml'
        how = f'add -c {settings}' if settings and settings.is_file() else 'name them in trainer.callbacks'
        _say(show(f'the run had callbacks that this test did not ({", ".join(missing)}); to have them, {how}'))


def saved_callbacks(settings: PlainDict) -> list[str]:
    """Names of the classes of `trainer.callbacks` in the settings of a run."""
    trainer = settings.get('trainer')
    found = trainer.get('callbacks') if isinstance(trainer, dict) else None
    entries = found if isinstance(found, list) else [found]
    paths = [one.get('class_path') if isinstance(one, dict) else one for one in entries]
    return [path.rpartition('.')[2] for path in paths if isinstance(path, str)]


def _evaluate(built: Built, evaluate: Callable, split: str) -> None:
    resumed = built.settings.resumed
    task = built.task
    assert resumed is not None
    built.data.prepare_data()
    _say_new_run(built)
    evaluate(task, datamodule=built.data, ckpt_path=str(resumed.found.path), verbose=False, weights_only=True)
    figures = find_figures(built.trainer, f'{split}_')
    _say(f'{split}: {task.describe(figures)} ({task.n_evaluated:,} {task.counted})')


def _predict(built: Built) -> None:
    """Score every document of a split."""
    resumed = built.settings.resumed
    writer = built.own.predictions
    assert resumed is not None
    built.data.prepare_data()
    _say_new_run(built)
    built.trainer.predict(
        built.task,
        datamodule=built.data,
        ckpt_path=str(resumed.found.path),
        return_predictions=False,
        weights_only=True,
    )
    if writer.path is not None:
        counted = f', {writer.n_counted:,} {built.task.counted}' if writer.n_counted else ''
        _say(f'predictions: {writer.path} ({writer.n_documents:,} documents{counted})')


_RUNS: Mapping[str, Callable[[Built], None]] = {
    'fit': _fit,
    'validate': _validate,
    'test': _test,
    'predict': _predict,
}


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)
