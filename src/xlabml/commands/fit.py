"""The console script `xlab`: fit, validate, test, predict, and what prepares data for them.

How the pieces go together: jsonargparse checks every setting against the signatures, whatever file or flag it comes
from; parts are then built from the checked settings by `xlabml.settings`, as a checkpoint's are.
"""

import contextlib
import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NoReturn, TypeVar

import lightning.pytorch as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml import checkpoints, settings
from xlabml.callbacks import (
    Checkpoints,
    Curves,
    NonFinite,
    Predictions,
    Progress,
    SampledText,
    Stopping,
    Summary,
    attention_lines,
)
from xlabml.callbacks.progress import describe_figures, find_figures
from xlabml.datamodules import XLabDataModule
from xlabml.models import Task, XLabModel
from xlabml.strategies import check_strategy

from . import autotune
from . import data as data_commands
from .command_line import (
    DATA_COMMANDS,
    LINKED,
    RUN_COMMANDS,
    files_first,
    plain,
    refuse_linked,
    saved_settings,
    take_imports,
)
from .errors import UsageError, report_errors, usage_errors
from .trainer import Trainer, auto_precision

DEFAULTS = Path(__file__).with_name('defaults.yaml')

_HINT = ' (xlab COMMAND --help lists what there is)'
_LIMITS = ('max_steps', 'max_epochs', 'max_time')
_Callback = TypeVar('_Callback', bound=L.Callback)

_EPILOGUE = (
    'xlab COMMAND --help lists the settings of the trainer and the data; --model.help XLabModel those of a model; '
    '-c FILE reads settings from a file, --print_config prints them all. Everywhere: --import MODULE lets checkpoints '
    'name classes of a module of yours, --debug shows where an error comes from; '
    'with fit, --autotune measures which data.device_batch_tokens is the fastest, and uses and saves it.'
)


class Parser(LightningArgumentParser):
    """Lightning's parser with a default task, and errors without pages of usage."""

    def add_subclass_arguments(  # type: ignore[override]
        self, baseclass: Any, nested_key: str, **kwargs: Any
    ) -> Any:
        if nested_key == 'model':
            kwargs.update(default={'class_path': f'xlabml.models.{XLabModel.__name__}'}, required=False)
        return super().add_subclass_arguments(baseclass, nested_key, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One message in place of usage and tip; types and namespaces, which nobody typed, are left out."""
        message = re.sub(r'Type \S.*? expects a function or a callable class: ', '', message)
        message = re.sub(r'[.;]? Got value: Namespace\(.*', '', message)
        message = re.sub(r"Problem with given class_path '([^']*)':\s*", '', message)
        message = re.sub(r'\s*\n\s*', ' ', message.strip())
        message = shorten(message, 1000, placeholder=' …')
        raise UsageError(f'{message.replace(_HINT, "")}{_HINT}')


class XLabCLI(LightningCLI):
    """All commands of `xlab`.

    Args:
        args: Command-line arguments, or settings as a dictionary.
        run: Whether to run the subcommand that the arguments name; else there is none, and the objects are built.
    """

    def __init__(self, args: Sequence[str] | dict[str, Any], run: bool = True) -> None:
        self._autotunes = '--autotune' in args
        if not isinstance(args, dict):
            args = [argument for argument in args if argument != '--autotune']
        self._arguments = args
        self._checkpoint: dict[str, Any] | None = None
        self._checkpoint_path: Path | None = None
        options = {'default_config_files': [str(DEFAULTS)], 'allow_abbrev': False}
        main = {'allow_abbrev': False, 'prog': 'xlab', 'description': 'Train and evaluate models.', 'epilog': _EPILOGUE}
        # Each command's parser takes time to build: only that of the command which is typed is needed.
        typed = next((word for word in args if word in (*RUN_COMMANDS, *DATA_COMMANDS)), None)
        names = (*RUN_COMMANDS, *DATA_COMMANDS) if typed is None else (typed,)
        skips = LightningCLI.subcommands()
        self.subcommands = lambda: {name: skips[name] for name in names if name in skips}  # type: ignore[method-assign]
        self._data_commands = [name for name in DATA_COMMANDS if name in names]
        super().__init__(
            Task,
            XLabDataModule,
            save_config_callback=None,
            trainer_class=Trainer,
            seed_everything_default=42,
            parser_kwargs={**main, **{name: dict(options) for name in names}} if run else {**main, **options},
            parser_class=Parser,
            subclass_mode_model=True,
            args=args,
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
        names = (*RUN_COMMANDS, *DATA_COMMANDS)
        own = {name: parser_kwargs[name] for name in names if name in parser_kwargs}
        return {name: value for name, value in parser_kwargs.items() if name not in names}, own

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        for name in self._data_commands:
            function = getattr(data_commands, name)
            description = (function.__doc__ or '').partition('\n')[0]
            sub = self.init_parser(description=description, **kwargs.get(name, {}))
            self._add_arguments(sub)
            flags = {name for name, kind in function.__annotations__.items() if kind is bool}
            added = sub.add_function_arguments(function, skip={'data', *flags})
            for flag in flags:
                sub.add_argument(f'--{flag}', action='store_true', help=data_commands.FLAGS[flag])
            self._subcommand_method_arguments[name] = [*added, *flags]
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
        for path in settings.class_paths(plain(self.config)):
            settings.trust_class(path)  # what the user types may be built; what only a checkpoint names may not

    def _parse_ckpt_path(self) -> None:
        """Let a checkpoint's settings stand below what the user typed, and above the defaults."""
        name = self.config.get('subcommand')
        asked = self.config[name].get('ckpt_path') if name in RUN_COMMANDS else None
        if asked is None:
            if name in ('validate', 'test', 'predict'):
                raise UsageError(f'xlab {name} needs a trained model: give --ckpt_path PATH, or --ckpt_path last')
            return
        typed = self.config[name]
        try:
            path = self._find(asked, typed)
        except FileNotFoundError:
            if name != 'fit' or asked != 'last':
                raise
            typed.ckpt_path = None
            return
        checkpoint = checkpoints.read(path)
        if name == 'fit' and checkpoints.is_export(checkpoint):
            raise ValueError(f'{path} is an exported model without optimizer state; go on from a training checkpoint')
        saved = saved_settings(checkpoint)
        if any(typed.trainer.get(limit) not in (None, -1) for limit in _LIMITS):
            # A length that is typed is the length: no other one of the saved run cuts it short.
            saved['trainer'] = {key: value for key, value in saved['trainer'].items() if key not in _LIMITS}
        for class_path in settings.class_paths(saved):
            try:
                settings.find_class(class_path)
            except ValueError as error:
                raise ValueError(f'{path}: {error}') from error
        arguments = list(self._arguments)
        where = arguments.index(name) + 1
        self.config = self.parser.parse_args([*arguments[:where], '--config', json.dumps(saved), *arguments[where:]])
        self.config[name].ckpt_path = str(path)
        asked_task, found_task = self.config[name].model.class_path, saved['model']['class_path']
        if asked_task != found_task:
            raise ValueError(f'{path} holds a {found_task}, but model is {asked_task}; a run goes on as the same task')
        self._checkpoint, self._checkpoint_path = checkpoint, path

    def _find(self, asked: str, config: Namespace) -> Path:
        folder = config.checkpoint.folder
        if asked != 'last' or folder is None:
            return checkpoints.find(asked, Path(config.trainer.default_root_dir), config.model.class_path)
        if '://' in folder:
            raise UsageError(f'--ckpt_path last does not look into {folder}; fetch the newest checkpoint and name it')
        return checkpoints.find_newest(Path(folder))

    def _set_seed(self) -> None:
        seed = self._get(self.config, 'seed_everything')
        if seed < 0:
            raise UsageError(f'seed_everything is {seed}; it must be 0 or more')
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Say which precision was chosen, so that it is saved and a resume keeps it."""
        config = self._own_config()
        if config.trainer.precision == 'auto':
            config.trainer.precision = auto_precision(config.trainer.accelerator)
        with usage_errors():
            check_strategy(plain(config))
        if self._autotunes:
            self._autotune(config)

    def _autotune(self, config: Namespace) -> None:
        """Choose data.device_batch_tokens, as if it had been typed. A run that goes on keeps what it was begun with."""
        if self.subcommand != 'fit':
            raise UsageError(f'--autotune goes with fit, not with {self.subcommand}')
        if self._checkpoint is not None:
            self._say(f'going on with data.device_batch_tokens={config.data.device_batch_tokens}: nothing is tuned')
            return
        with usage_errors():
            config.data.device_batch_tokens = autotune.tune(plain(config))
        self._set_seed()  # the run draws what it would without

    # Objects

    def _own_config(self) -> Namespace:
        return self.config[self.subcommand] if self.subcommand else self.config

    def instantiate_classes(self) -> None:
        config = plain(self._own_config())
        self.run_folder: Path | None = None
        self._claimed: Path | None = None
        with usage_errors():
            self.datamodule = XLabDataModule(**settings.build_arguments(XLabDataModule, config['data']))
            self.config_init = self.config.clone()
            rest = self.config_init[self.subcommand] if self.subcommand else self.config_init
            del rest['data'], rest['model']
            if self.subcommand in DATA_COMMANDS:
                return
            task = settings.find_class(config['model']['class_path'])
            self.model = task(**settings.build_arguments(task, config['model'].get('init_args') or {}))
            self.config_init = self.parser.instantiate_classes(self.config_init)
        if self._checkpoint is not None:
            self.model.check_weights(self._checkpoint)
            self.datamodule.use_tokenizer(checkpoints.tokenizer_bytes(self._checkpoint))
        with self._nothing_left_behind(), usage_errors():
            self.trainer = self.instantiate_trainer()
            if self.subcommand == 'fit':
                self.model.check_training(self.trainer.max_steps)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, 'trainer')
        if self.subcommand and not config['fast_dev_run']:
            self.run_folder = self._claim_run_folder(Path(config['default_root_dir']) / 'logs')
            if config['logger'] is True:
                step = self._checkpoint['global_step'] + 1 if self._checkpoint and self.subcommand == 'fit' else None
                config['logger'] = TensorBoardLogger(
                    self.run_folder.parent.parent, self.run_folder.parent.name, self.run_folder.name, purge_step=step
                )
        own: list[L.Callback] = [Stopping(), Predictions(self.run_folder)]
        if self.subcommand == 'fit' and self.run_folder is not None:
            own.append(SavedSettings(self._parser('fit').dump(self._own_config(), skip_none=False), self.run_folder))
        callbacks = config['callbacks'] or []
        config['callbacks'] = [*(callbacks if isinstance(callbacks, list) else [callbacks]), *own]
        if config['enable_checkpointing'] is False:
            raise UsageError(
                'trainer.enable_checkpointing is false, but runs are saved by checkpoint.*; leave it out, and set '
                'checkpoint.monitor to null to keep the newest checkpoint only'
            )
        if config['enable_progress_bar'] is False:
            self._get(self.config_init, 'progress').refresh_seconds = 0
            config['enable_progress_bar'] = None
        trainer = super().instantiate_trainer(**kwargs)
        saver = find_callback(trainer, Checkpoints)
        if saver.folder is None and self.run_folder is not None:
            saver.folder = str(self.run_folder / 'checkpoints')
        find_callback(trainer, Curves).folder = self.run_folder
        return trainer

    def _claim_run_folder(self, logs: Path) -> Path:
        """The folder of the checkpoint's run where this goes on with it, else a new one, made at once."""
        path, checkpoint = self._checkpoint_path, self._checkpoint
        if path is not None and checkpoint is not None:
            run = path.parent.parent if path.parent.name == 'checkpoints' else Path(checkpoint.get('run_folder', ''))
            goes_on = self.subcommand != 'fit' or checkpoints.find_newest(path.parent).samefile(path)
            if goes_on and run.name.startswith('version_') and run.is_dir():
                return run
        taken = [int(folder.name[8:]) for folder in logs.glob('version_*') if folder.name[8:].isdecimal()]
        version = max(taken, default=-1) + 1
        while _is_rank_zero():
            try:
                (logs / f'version_{version}').mkdir(parents=True)
                self._claimed = logs / f'version_{version}'
                break
            except FileExistsError:
                version += 1
        return logs / f'version_{version}'

    @contextlib.contextmanager
    def _nothing_left_behind(self) -> Iterator[None]:
        """Where a command fails before it has made a step, the folder that it had made for itself goes again."""
        try:
            yield
        except BaseException:
            trainer = getattr(self, 'trainer', None)
            n_steps = trainer.global_step if trainer is not None else 0
            if self._claimed is not None and not n_steps and not any(self._claimed.glob('checkpoints/*')):
                shutil.rmtree(self._claimed, ignore_errors=True)
                with contextlib.suppress(OSError):
                    self._claimed.parent.rmdir()  # `logs`, where it is empty
            raise

    # Commands

    def _run_subcommand(self, subcommand: str) -> None:
        with self._nothing_left_behind():
            getattr(self, f'run_{subcommand}', self._run_data_command)()

    def _run_data_command(self) -> None:
        function = getattr(data_commands, str(self.subcommand))
        config = self.config_init[self.subcommand]
        arguments = {name: config[name] for name in self._subcommand_method_arguments[str(self.subcommand)]}
        function(self.datamodule, **arguments)

    def run_fit(self) -> None:
        """Train, or go on, or say that there is nothing left to do."""
        trainer, data, path = self.trainer, self.datamodule, self._checkpoint_path
        with usage_errors():
            attention = attention_lines(trainer, self.model)
        data.prepare_data()
        for rows in (data.train_rows, data.rows('val')):
            assert len(rows)  # an empty split is refused before anything is written
        if self._checkpoint is not None and self._is_finished(self._checkpoint):
            step = self._checkpoint['global_step']
            self._say(f'{path} has finished its {step:,} steps; a larger trainer.max_steps goes on')
            self._say_results()
            return
        if self._checkpoint is not None:
            self._say(f'going on from {path}')
        self._say(f'precision {trainer.precision}, run folder {self.run_folder}')
        for line in attention:
            self._say(line)
        trainer.fit(self.model, datamodule=data, ckpt_path=None if path is None else str(path), weights_only=True)
        self._say_results()
        if number := find_callback(trainer, Stopping).signal:
            self._say('interrupted; the same command with --ckpt_path last goes on')
            raise SystemExit(128 + number)

    def _is_finished(self, checkpoint: dict[str, Any]) -> bool:
        config = self._own_config().trainer
        max_steps = self.datamodule.run_steps(self.trainer.max_steps, config.max_epochs)
        stops = any(isinstance(callback, EarlyStopping) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        stopped = checkpoint['callbacks'].get(Checkpoints.__name__, {}).get('stopped_early', False)
        return (stops and stopped) or 0 <= max_steps <= checkpoint['global_step']

    def _say_results(self) -> None:
        if self.run_folder is None:
            return
        saver = find_callback(self.trainer, Checkpoints)
        if self._checkpoint is not None and not saver.saved:
            saver.load_state_dict(self._checkpoint['callbacks'][saver.state_key])
        best, newest = saver.best, saver.newest
        if best is not None:
            self._say(f'best checkpoint: {best} ({saver.monitor} {saver.saved[best]:.4f})')
        if newest is not None and newest != best:
            self._say(f'newest checkpoint: {newest}')
        if best is None and newest is None:
            self._say('no checkpoint was saved')
        if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
            self._say(f'curves: tensorboard --logdir {self.run_folder.parent.parent}')

    def run_validate(self) -> None:
        """Evaluate on the val split."""
        self._evaluate('validate', 'val')

    def run_test(self) -> None:
        """Evaluate on the test split."""
        self._evaluate('test', 'test')

    def _evaluate(self, command: str, split: str) -> None:
        self.datamodule.prepare_data()
        getattr(self.trainer, command)(
            self.model,
            datamodule=self.datamodule,
            ckpt_path=str(self._checkpoint_path),
            verbose=False,
            weights_only=True,
        )
        figures = find_figures(self.trainer, f'{split}_')
        self._say(f'{split}: {describe_figures(figures)} ({self.model.n_evaluated:,} tokens)')

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
        writer = find_callback(self.trainer, Predictions)
        if writer.path is not None:
            self._say(f'predictions: {writer.path} ({writer.n_documents:,} documents, {writer.n_tokens:,} tokens)')

    @staticmethod
    @rank_zero_only
    def _say(text: str) -> None:
        print(text, flush=True)


def _is_rank_zero() -> bool:
    return getattr(rank_zero_only, 'rank', 0) == 0


class SavedSettings(L.Callback):
    """Keep the run's settings: in its folder, and in its checkpoints, so that a resume without them is the same run.

    Args:
        text: The resolved settings, as YAML.
        folder: The run's.
    """

    def __init__(self, text: str, folder: Path) -> None:
        self.text, self.folder = text, folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the settings; beside those of an earlier start, where they differ."""
        path, n = self.folder / 'config.yaml', 1
        while path.exists() and path.read_text(encoding='utf-8') != self.text:
            n += 1
            path = self.folder / f'config-{n}.yaml'
        if trainer.is_global_zero:
            path.write_text(self.text, encoding='utf-8')

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint['config'] = yaml.safe_load(self.text)
        checkpoint['run_folder'] = str(self.folder.absolute())


def find_callback(trainer: L.Trainer, kind: type[_Callback]) -> _Callback:
    """The trainer's callback of a kind; there is one."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]


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
