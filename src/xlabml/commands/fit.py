"""The console script `xlab`: fit, validate, test, predict, and what prepares data for them.

How the pieces go together: jsonargparse checks every setting against the signatures, whatever file or flag it comes
from; parts are then built from the checked settings by `xlabml.settings`, as a checkpoint's are.
"""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml import checkpoints, settings
from xlabml.callbacks import Checkpoints, Curves, NonFinite, Predictions, Progress, SampledText, Stopping, Summary
from xlabml.callbacks.progress import describe_figures
from xlabml.datamodules import XLabDataModule
from xlabml.models import Task, XLabModel

from . import data as data_commands
from .errors import UsageError, report_errors
from .trainer import Trainer, auto_precision

DEFAULTS = Path(__file__).with_name('defaults.yaml')
LINKED = {'n_vocab': 'data.n_vocab', 'max_len': 'data.max_len'}
"""Arguments of every task that follow from a setting of the data."""

_RUN_COMMANDS = ('fit', 'validate', 'test', 'predict')
_DATA_COMMANDS = ('prepare_data', 'validate_data', 'train_tokenizer', 'compute_stats')
_EPILOGUE = (
    'xlab COMMAND --help lists the settings of the trainer and the data; --model.help XLabModel those of a model; '
    '-c FILE reads settings from a file, --print_config prints them all. Everywhere: --import MODULE lets checkpoints '
    'name classes of a module of yours, --debug shows where an error comes from.'
)


class Parser(LightningArgumentParser):
    """Lightning's parser with a default task, and errors without pages of usage."""

    def add_subclass_arguments(self, baseclass: Any, nested_key: str, **kwargs: Any) -> Any:
        if nested_key == 'model':
            kwargs.update(default={'class_path': f'xlabml.models.{XLabModel.__name__}'}, required=False)
        return super().add_subclass_arguments(baseclass, nested_key, **kwargs)

    def print_usage(self, file: Any = None) -> None:
        """Nothing: the error says what is wrong, `--help` what there is."""


class XLabCLI(LightningCLI):
    """All commands of `xlab`.

    Args:
        args: Command-line arguments, or settings as a dictionary.
        run: Whether to run the subcommand that the arguments name; else there is none, and the objects are built.
    """

    def __init__(self, args: Sequence[str] | dict[str, Any], run: bool = True) -> None:
        self._arguments = args
        self._checkpoint: dict[str, Any] | None = None
        self._checkpoint_path: Path | None = None
        options = {'default_config_files': [str(DEFAULTS)], 'allow_abbrev': False}
        main = {'allow_abbrev': False, 'prog': 'xlab', 'description': 'Train and evaluate models.', 'epilog': _EPILOGUE}
        names = (*_RUN_COMMANDS, *_DATA_COMMANDS)
        super().__init__(
            Task,
            XLabDataModule,
            save_config_callback=None,
            trainer_class=Trainer,
            seed_everything_default=42,
            parser_kwargs={**main, **{name: dict(options) for name in names}} if run else {**main, **options},
            parser_class=Parser,
            subclass_mode_model=True,
            args=args,  # type: ignore[arg-type]
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # Settings

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            '--seed_everything',
            type=int,
            default=self.seed_everything_default,
            help='What weights, data order and dropout are drawn from.',
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, callback in (
            ('checkpoint', Checkpoints),
            ('curves', Curves),
            ('nonfinite', NonFinite),
            ('progress', Progress),
            ('samples', SampledText),
            ('summary', Summary),
        ):
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments('seed_everything', 'data.seed')
        for name, source in LINKED.items():
            parser.link_arguments(source, f'model.init_args.{name}')

    def _setup_parser_kwargs(self, parser_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        names = (*_RUN_COMMANDS, *_DATA_COMMANDS)
        own = {name: parser_kwargs[name] for name in names if name in parser_kwargs}
        return {name: value for name, value in parser_kwargs.items() if name not in names}, own

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        for name in _DATA_COMMANDS:
            function = getattr(data_commands, name)
            description = (function.__doc__ or '').partition('\n')[0]
            sub = self.init_parser(description=description, **kwargs.get(name, {}))
            self._add_arguments(sub)
            added = sub.add_function_arguments(function, skip={'data'})
            self._subcommand_method_arguments[name] = added
            parser._subcommands_action.add_subcommand(name, sub, help=description)  # type: ignore[union-attr]
            self._subcommand_parsers[name] = sub

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if isinstance(args, dict):
            self.config = parser.parse_object(args)
        else:
            arguments = files_first(list(args))
            refuse_linked(arguments)
            self._arguments = arguments
            self.config = parser.parse_args(arguments)
        for path in class_paths(plain(self.config)):
            settings.trust_class(path)  # what the user types may be built; what only a checkpoint names may not

    def _parse_ckpt_path(self) -> None:
        """Let a checkpoint's settings stand below what the user typed, and above the defaults."""
        name = self.config.get('subcommand')
        asked = self.config[name].get('ckpt_path') if name in _RUN_COMMANDS else None
        if asked is None:
            if name in ('validate', 'test', 'predict'):
                raise UsageError(f'xlab {name} needs a trained model: give --ckpt_path PATH, or --ckpt_path last')
            return
        task = self.config[name].model.class_path
        try:
            path = checkpoints.find(asked, Path(self.config[name].trainer.default_root_dir), task)
        except FileNotFoundError:
            if name != 'fit' or asked != 'last':
                raise
            self.config[name].ckpt_path = None
            return
        checkpoint = checkpoints.read(path)
        if name == 'fit' and checkpoints.is_export(checkpoint):
            raise ValueError(f'{path} is an exported model without optimizer state; go on from a training checkpoint')
        saved = saved_settings(checkpoint)
        for class_path in class_paths(saved):
            settings.find_class(class_path)
        arguments = list(self._arguments)
        where = arguments.index(name) + 1
        self.config = self.parser.parse_args([*arguments[:where], '--config', json.dumps(saved), *arguments[where:]])
        self.config[name].ckpt_path = str(path)
        asked_task, found_task = self.config[name].model.class_path, saved['model']['class_path']
        if asked_task != found_task:
            raise ValueError(f'{path} holds a {found_task}, but model is {asked_task}; a run goes on as the same task')
        self._checkpoint, self._checkpoint_path = checkpoint, path

    def before_instantiate_classes(self) -> None:
        """Say which precision was chosen, so that it is saved and a resume keeps it."""
        config = self._own_config()
        if config.trainer.precision == 'auto':
            config.trainer.precision = auto_precision(config.trainer.accelerator)

    # Objects

    def _own_config(self) -> Namespace:
        return self.config[self.subcommand] if self.subcommand else self.config

    def instantiate_classes(self) -> None:
        config = plain(self._own_config())
        with usage_errors():
            self.datamodule = XLabDataModule(**settings.build_arguments(XLabDataModule, config['data']))
            self.config_init = self.config.clone()
            rest = self.config_init[self.subcommand] if self.subcommand else self.config_init
            del rest['data'], rest['model']
            if self.subcommand in _DATA_COMMANDS:
                return
            task = settings.find_class(config['model']['class_path'])
            self.model = task(**settings.build_arguments(task, config['model'].get('init_args') or {}))
            self.config_init = self.parser.instantiate_classes(self.config_init)
            self.trainer = self.instantiate_trainer()
        if self._checkpoint is not None:
            self.datamodule.use_tokenizer(checkpoints.tokenizer_bytes(self._checkpoint))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, 'trainer')
        own: list[L.Callback] = [Stopping(), Predictions()]
        if self.subcommand == 'fit':
            own.append(SavedSettings(plain(self._own_config())))
        callbacks = config['callbacks'] or []
        config['callbacks'] = [*(callbacks if isinstance(callbacks, list) else [callbacks]), *own]
        self.run_folder = None
        if self.subcommand and not config['fast_dev_run']:
            self.run_folder = self._claim_run_folder(Path(config['default_root_dir']) / 'logs')
            if config['logger'] is True:
                step = self._checkpoint['global_step'] + 1 if self._checkpoint and self.subcommand == 'fit' else None
                config['logger'] = TensorBoardLogger(
                    self.run_folder.parent.parent, self.run_folder.parent.name, self.run_folder.name, purge_step=step
                )
        trainer = super().instantiate_trainer(**kwargs)
        saver = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))  # type: ignore[attr-defined]
        if saver.folder is None and self.run_folder is not None:
            saver.folder = str(self.run_folder / 'checkpoints')
        return trainer

    def _claim_run_folder(self, logs: Path) -> Path:
        """The folder of the checkpoint's run where this goes on with it, else a new one, made at once."""
        path = self._checkpoint_path
        if path is not None and path.parent.name == 'checkpoints' and path.parent.parent.name.startswith('version_'):
            newest = checkpoints.find('last', path.parents[3]) if path.parents[2].name == 'logs' else None
            siblings = sorted(path.parent.glob('*.ckpt'), key=lambda file: file.stat().st_mtime)
            if self.subcommand != 'fit' or (siblings and siblings[-1].samefile(path)):
                del newest
                return path.parent.parent
        taken = [int(folder.name[8:]) for folder in logs.glob('version_*') if folder.name[8:].isdecimal()]
        version = max(taken, default=-1) + 1
        while rank_zero_only.rank == 0:
            try:
                (logs / f'version_{version}').mkdir(parents=True)
                break
            except FileExistsError:
                version += 1
        return logs / f'version_{version}'

    # Commands

    def _run_subcommand(self, subcommand: str) -> None:
        getattr(self, f'run_{subcommand}', self._run_data_command)()

    def _run_data_command(self) -> None:
        function = getattr(data_commands, str(self.subcommand))
        config = self.config_init[self.subcommand]
        arguments = {name: config[name] for name in self._subcommand_method_arguments[str(self.subcommand)]}
        function(self.datamodule, **arguments)

    def run_fit(self) -> None:
        """Train, or go on, or say that there is nothing left to do."""
        trainer, data, path = self.trainer, self.datamodule, self._checkpoint_path
        data.prepare_data()
        if self._checkpoint is not None and self._is_finished(self._checkpoint):
            self._say(f'{path} has finished its {self._checkpoint["global_step"]:,} steps; a larger trainer.max_steps goes on')
            self._say_results()
            return
        if self._checkpoint is not None:
            self._say(f'going on from {path}')
        self._say(f'precision {trainer.precision}, run folder {self.run_folder}')
        if self.run_folder is not None and rank_zero_only.rank == 0:
            self._save_config(self.run_folder)
        trainer.fit(self.model, datamodule=data, ckpt_path=None if path is None else str(path), weights_only=True)
        stopping = next(callback for callback in trainer.callbacks if isinstance(callback, Stopping))  # type: ignore[attr-defined]
        self._say_results()
        if stopping.interrupted:
            self._say('interrupted; the same command with --ckpt_path last goes on')
            raise SystemExit(130)

    def _is_finished(self, checkpoint: dict[str, Any]) -> bool:
        config = self._own_config().trainer
        if config.max_steps < 0 and config.max_epochs is not None:
            max_steps = self.datamodule.n_steps(config.max_epochs)
        else:
            max_steps = self.trainer.max_steps
        stops = any(isinstance(callback, EarlyStopping) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        stopped = checkpoint['callbacks'].get(Checkpoints.__name__, {}).get('stopped_early', False)
        return (stops and stopped) or 0 <= max_steps <= checkpoint['global_step']

    def _save_config(self, folder: Path) -> None:
        """Write the resolved settings; beside those of an earlier start, where they differ."""
        config = self._own_config().clone()
        text = self._parser(self.subcommand).dump(config, skip_none=False)
        path, n = folder / 'config.yaml', 1
        while path.exists() and path.read_text(encoding='utf-8') != text:
            n += 1
            path = folder / f'config-{n}.yaml'
        path.write_text(text, encoding='utf-8')

    def _say_results(self) -> None:
        if self.run_folder is None:
            return
        saver = next(callback for callback in self.trainer.callbacks if isinstance(callback, Checkpoints))  # type: ignore[attr-defined]
        if self._checkpoint is not None and not saver.saved:
            saver.load_state_dict(self._checkpoint['callbacks'][saver.state_key])
        best, newest = saver.best, saver.newest
        if best is not None:
            self._say(f'best checkpoint: {best} ({saver.monitor} {saver.saved[best]:.4f})')
        if newest is not None and newest != best:
            self._say(f'newest checkpoint: {newest}')
        if best is None and newest is None:
            self._say('no checkpoint was saved')
        self._say(f'curves: tensorboard --logdir {self.run_folder.parent.parent}')

    def run_validate(self) -> None:
        """Evaluate on the val split."""
        self._evaluate('validate', 'val')

    def run_test(self) -> None:
        """Evaluate on the test split."""
        self._evaluate('test', 'test')

    def _evaluate(self, command: str, split: str) -> None:
        self.datamodule.prepare_data()
        run = getattr(self.trainer, command)
        run(self.model, datamodule=self.datamodule, ckpt_path=str(self._checkpoint_path), verbose=False, weights_only=True)
        prefix = f'{split}_'
        figures = {
            name.removeprefix(prefix): float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith(prefix)
        }
        self._say(f'{split}: {describe_figures(figures)} ({self.datamodule.describe_split(split)})')

    def run_predict(self) -> None:
        """Score every document of a split."""
        self.datamodule.prepare_data()
        self.trainer.predict(
            self.model,
            datamodule=self.datamodule,
            ckpt_path=str(self._checkpoint_path),
            return_predictions=False,
            weights_only=True,
        )
        writer = next(callback for callback in self.trainer.callbacks if isinstance(callback, Predictions))  # type: ignore[attr-defined]
        if writer.path is not None:
            self._say(f'predictions: {writer.path} ({self.datamodule.describe_split(self.datamodule.predict_split)})')

    @staticmethod
    @rank_zero_only
    def _say(text: str) -> None:
        print(text, flush=True)


class SavedSettings(L.Callback):
    """Keep the run's settings in its checkpoints, so that a resume without them is the same run."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint['config'] = self.config


def saved_settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the settings of its run, less what follows from them or belongs to the machine.

    Only plain values are taken of all but the model and the data: no class of another library is named by a file.
    """
    model, data = dict(checkpoint['hyper_parameters']), dict(checkpoint['datamodule_hyper_parameters'])
    class_path = model.pop('_class_path')
    data.pop('_class_path', None)
    seed = data.pop('seed')
    data.pop('tokenizer_path', None)
    found: dict[str, Any] = {
        'seed_everything': seed,
        'model': {'class_path': class_path, 'init_args': {k: v for k, v in model.items() if k not in LINKED}},
        'data': data,
    }
    for group in ('trainer', 'checkpoint', 'curves', 'nonfinite', 'progress', 'samples', 'summary'):
        values = checkpoint.get('config', {}).get(group, {})
        found[group] = {
            name: value
            for name, value in values.items()
            if isinstance(value, str | int | float | bool) and name not in ('default_root_dir', 'logger', 'folder', 'strategy')
        }
    return found


def plain(value: Any) -> Any:
    """Settings as dictionaries, lists and plain values."""
    if isinstance(value, Namespace):
        return {name: plain(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def class_paths(value: Any) -> Iterator[str]:
    """The dotted paths of all classes that settings name."""
    if isinstance(value, dict):
        if isinstance(path := value.get('class_path'), str):
            yield path
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from class_paths(item)


def files_first(arguments: list[str]) -> list[str]:
    """Move `-c FILE` to the front of a command's arguments, so that flags beat files wherever they stand."""
    files, others, i = [], [], 0
    where = next((k for k, argument in enumerate(arguments) if argument in (*_RUN_COMMANDS, *_DATA_COMMANDS)), None)
    if where is None:
        return arguments
    rest = arguments[where + 1 :]
    while i < len(rest):
        if rest[i] in ('-c', '--config') and i + 1 < len(rest):
            files += ['--config', rest[i + 1]]
            i += 1
        elif rest[i].startswith('--config='):
            files.append(rest[i])
        else:
            others.append(rest[i])
        i += 1
    return [*arguments[: where + 1], *files, *others]


def refuse_linked(arguments: Sequence[str]) -> None:
    """Refuse a setting that follows from another: the link would overwrite it in silence.

    Raises:
        UsageError: An argument or a file sets one.
    """
    for name, source in LINKED.items():
        for flag in (f'--model.{name}', f'--model.init_args.{name}'):
            if any(argument == flag or argument.startswith(f'{flag}=') for argument in arguments):
                raise UsageError(f'{flag[2:]} follows from {source}; set that')
    for flag, value in zip(arguments, arguments[1:]):
        if flag != '--config' or not Path(value).is_file():
            continue
        try:
            content = yaml.safe_load(Path(value).read_text(encoding='utf-8'))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue  # the parser says what is wrong with it
        model = content.get('model') if isinstance(content, dict) else None
        if isinstance(model, dict):
            given = {**model, **(model['init_args'] if isinstance(model.get('init_args'), dict) else {})}
            for name, source in LINKED.items():
                if name in given:
                    raise UsageError(f'model.{name} in {value} follows from {source}; set that')


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Errors of constructors are errors of usage: the values were typed."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def quieten() -> None:
    """Keep other libraries' advertising and news for developers off the user's terminal."""
    for name in ('lightning.pytorch', 'lightning.fabric'):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        '.*does not have many workers.*',
        '.*LeafSpec.*',
        '.*Checkpoint directory.*',
        '.*smaller than the logging interval.*',
        '.*is deprecated and will be removed in jsonargparse.*',
    ):
        warnings.filterwarnings('ignore', message=message)
    from jsonargparse._deprecated import JsonargparseDeprecationWarning

    warnings.filterwarnings('ignore', category=JsonargparseDeprecationWarning)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = '--debug' in given
    given = [argument for argument in given if argument != '--debug']

    def run() -> None:
        quieten()
        XLabCLI(take_imports(given))

    return report_errors('xlab', run, debug)


def take_imports(arguments: list[str]) -> list[str]:
    """Import the modules that `--import` names, and return the other arguments."""
    others, i = [], 0
    while i < len(arguments):
        name, _, value = arguments[i].partition('=')
        if name != '--import':
            others.append(arguments[i])
        else:
            if not value:
                i += 1
                if i == len(arguments):
                    raise UsageError('--import needs the name of a module')
                value = arguments[i]
            with usage_errors():
                settings.trust(value)
        i += 1
    return others
