"""From what is typed to checked settings: files and flags, and below them what a checkpoint says of its run."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from xlabml import artifacts, bounds, checkpoints, settings
from xlabml.datamodules import XLabDataModule
from xlabml.engine import auto_precision, check_strategy
from xlabml.models import Task
from xlabml.untrusted import yaml_text
from xlabml.untrusted.building import REMEDY, naming

from . import autotune
from . import data as data_commands
from .command_line import (
    DATA_COMMANDS,
    LINKED,
    RUN_COMMANDS,
    files_first,
    plain,
    refuse_linked,
    refuse_long,
)
from .errors import EXIT_STATUS, UsageError, typed_paths, usage_errors
from .finding import Found, find_checkpoint, reading, refuse_used
from .initial import Initial, initial_settings, open_initial
from .parser import Parser
from .run_folder import Choice, choose_run
from .saved import CALLBACKS, Seals, saved_settings
from .trainer import Trainer

_load = get_loader('yaml')


def _bounded(text: str) -> Any:
    """What jsonargparse reads every value and every file with."""
    try:
        yaml_text.check(text)
    except ValueError as error:
        raise UsageError(f'settings, typed or in a file that is named there, hold {error}') from error
    return _load(text)


set_loader('yaml', _bounded, (yaml.YAMLError,))

DEFAULTS = Path(__file__).with_name('defaults.yaml')

_MAX_LOOKS = 5
_LIMITS = ('max_steps', 'max_epochs', 'max_time')

_EPILOGUE = (
    'xlab COMMAND --help lists the settings of the trainer and the data; --model.help XLabModel those of a model; '
    '-c FILE reads settings from a file, --print_config prints them all. Everywhere: --import MODULE lets checkpoints '
    'name classes of a module of yours, --debug shows where an error comes from. '
    f'{EXIT_STATUS}.'
)
_FIT_EPILOGUE = (
    '--smoke tries these settings on a batch of everything in a folder that goes again. --autotune measures which '
    'data.device_batch_tokens is the fastest, and uses and saves it. '
    f'{EXIT_STATUS}; 3 a loss spike ended the run (spikes.action=stop); 124 '
    'trainer.max_time was over; 130, 138 and 143 Ctrl-C, SIGUSR1 and SIGTERM. After 124 and those above it there is a '
    'checkpoint, and the same command with --ckpt_path last goes on. A run is resumed where its newest checkpoint '
    'lies; --ckpt_path PATH with another --trainer.default_root_dir branches it into a run of its own there.'
)

_INIT_FROM = (
    'Start a new run with the weights of another one: a checkpoint, an exported file, the folder of a run, last or '
    'best. Its trunk settings, longest row and tokenizer are taken over, below what is typed. With --ckpt_path last '
    'only where there is no run to resume.'
)


class ParsingCLI(LightningCLI):
    """The settings of the command that is typed.

    Args:
        args: Command-line arguments, or settings as a dictionary.
        run: Whether to run the subcommand that the arguments name; else there is none, and the objects are built.
    """

    def __init__(self, args: Sequence[str] | dict[str, Any], run: bool = True) -> None:
        self._autotunes = '--autotune' in args
        if not isinstance(args, dict):
            args = [argument for argument in args if argument != '--autotune']
        self._arguments = args
        self._checkpoint: checkpoints.Contents | None = None
        self._checkpoint_path: Path | None = None
        self._checkpoint_name = ''
        self._initial: Initial | None = None
        self._names_sources, self._types_nothing = False, False
        self._choice = Choice(None)
        options = {'default_config_files': [str(DEFAULTS)], 'allow_abbrev': False}
        main = {'allow_abbrev': False, 'prog': 'xlab', 'description': 'Train and evaluate models.', 'epilog': _EPILOGUE}
        # Each command's parser takes time to build: only that of the command which is typed is needed.
        typed = next((word for word in args if word in (*RUN_COMMANDS, *DATA_COMMANDS)), None)
        names = (*RUN_COMMANDS, *DATA_COMMANDS) if typed is None else (typed,)
        own = {name: {**options, 'epilog': _FIT_EPILOGUE} if name == 'fit' else dict(options) for name in names}
        skips = LightningCLI.subcommands()
        self.subcommands = lambda: {name: skips[name] for name in names if name in skips}  # type: ignore[method-assign]
        self._data_commands = [name for name in DATA_COMMANDS if name in names]
        with contextlib.ExitStack() as self._open:  # what lives as long as the command
            super().__init__(
                Task,
                XLabDataModule,
                save_config_callback=None,
                trainer_class=Trainer,
                seed_everything_default=42,
                parser_kwargs={**main, **own} if run else {**main, **options},
                parser_class=Parser,
                subclass_mode_model=True,
                args=args,
                run=run,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            '--seed_everything',
            type=int,
            default=self.seed_everything_default,
            help='What weights, data order and dropout are drawn from.',
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments('seed_everything', 'data.seed')
        for name, source in LINKED.items():
            parser.link_arguments(source, f'model.init_args.{name}')

    def _setup_parser_kwargs(self, parser_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        names = (*RUN_COMMANDS, *DATA_COMMANDS)
        own = {name: parser_kwargs[name] for name in names if name in parser_kwargs}
        return {name: value for name, value in parser_kwargs.items() if name not in names}, own

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == 'fit':
            parser.add_argument('--init_from', type=str | None, default=None, help=_INIT_FROM)
        return parser

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
            refuse_long(args)
            arguments = files_first(list(args))
            refuse_linked(arguments)
            self._arguments = arguments
            self.config = parser.parse_args(arguments)
        self._check_bounds()
        for path in settings.class_paths(plain(self.config)):
            with usage_errors():
                settings.trust_class(path)  # what the user types may be built; what only a checkpoint names may not

    def _check_bounds(self) -> None:
        with usage_errors():
            bounds.check(plain(self.config.get(self.config.get('subcommand'), self.config)))

    def _parse_ckpt_path(self) -> None:
        """Let a checkpoint's settings stand below what the user typed, and above the defaults."""
        name = self.config.get('subcommand')
        asked = self.config[name].get('ckpt_path') if name in RUN_COMMANDS else None
        if asked is None:
            if name in ('validate', 'test', 'predict'):
                raise UsageError(f'xlab {name} needs a trained model: give --ckpt_path PATH, last or best')
            self._parse_initial(name)
            return
        typed = self.config[name]
        if typed.get('init_from') is not None and asked != 'last':
            raise UsageError(
                f'--init_from starts a new run and --ckpt_path {asked} resumes one; give one of them, or --ckpt_path '
                'last, which starts a run where there is none to resume'
            )
        with typed_paths():
            try:
                found = self._find(asked, typed)
            except FileNotFoundError:
                if name != 'fit' or asked != 'last':
                    raise
                typed.ckpt_path = None
                self._parse_initial(name)
                return
        for _ in range(_MAX_LOOKS):
            with reading(asked, found), contextlib.suppress(FileNotFoundError):
                checkpoint = checkpoints.load(found.path)
                break
            found = self._find(asked, typed)  # a run that trains on has just deleted it, for a newer one
        else:
            checkpoint = checkpoints.load(found.path)
        path = found.path
        if name == 'fit' and checkpoint.is_export:
            raise UsageError(f'{path} is an exported model without optimizer state; go on from a training checkpoint')
        checkpoints.require_whole(checkpoint, path, training=name == 'fit')
        seals = Seals()
        with naming(path, remedy=REMEDY):
            saved = saved_settings(checkpoint, seals)
        if any(typed.trainer.get(limit) not in (None, -1) for limit in _LIMITS):
            # A length that is typed is the length: no other one of the saved run cuts it short.
            saved['trainer'] = {key: value for key, value in saved['trainer'].items() if key not in _LIMITS}
        arguments = list(self._arguments)
        n_of_checkpoint = 1 if any(argument.startswith('--ckpt_path=') for argument in arguments) else 2
        self._types_nothing = len(arguments) == 1 + n_of_checkpoint
        self._parse_above(saved, seals, name, path)
        for group in ('sources', 'held_out'):
            now = plain(self.config[name].data[group])
            self._names_sources |= now is not None and now != plain(typed.data[group])
        self.config[name].ckpt_path = found.name
        asked_task, found_task = self.config[name].model.class_path, saved['model']['class_path']
        if asked_task != found_task:
            raise UsageError(f'{path} holds a {found_task}, but model is {asked_task}; a run goes on as the same task')
        self._checkpoint, self._checkpoint_path, self._checkpoint_name = checkpoint, path, found.name

    def _parse_initial(self, name: str) -> None:
        """Let the settings that a new run takes over from another one stand below what the user typed."""
        asked = self.config[name].get('init_from') if name in RUN_COMMANDS else None
        if asked is None:
            return
        typed, seals = self.config[name], Seals()
        self._initial = open_initial(asked, Path(typed.trainer.default_root_dir))
        has_tokenizer = typed.data.tokenizer_path is not None
        with usage_errors():
            saved = initial_settings(self._initial, typed.model.class_path, has_tokenizer, seals)
        self._parse_above(saved, seals, name, self._initial.path)

    def _parse_above(self, saved: dict[str, Any], seals: Seals, name: str, path: Path) -> None:
        """Parse what was typed once more, over settings from a file."""
        arguments = list(self._arguments)
        where = arguments.index(name) + 1
        text = yaml.safe_dump(saved)
        try:
            self.config = self.parser.parse_args([*arguments[:where], '--config', text, *arguments[where:]])
        except UsageError as error:  # what was typed has been parsed already
            raise ValueError(f'{path} has settings that do not go with what is typed: {error}') from error
        seals.open(self.config)
        self._check_bounds()

    def _find(self, asked: str, config: Namespace) -> Found:
        root, folder = Path(config.trainer.default_root_dir), config.checkpoint.folder
        is_remote = '://' in asked or '://' in (folder or '')
        into = self._open.enter_context(artifacts.scratch()) if is_remote else Path()
        return find_checkpoint(asked, root, config.model.class_path, folder, into)

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
        path = self._checkpoint_path
        found = None if path is None else Found(self._checkpoint_name, path)
        if found is not None and self._checkpoint is not None:
            root, folder = Path(config.trainer.default_root_dir), config.checkpoint.folder
            flags = self._arguments if isinstance(self._arguments, list) else []
            is_typed = str(root) != '.' or any(flag.startswith('--trainer.default_root_dir') for flag in flags)
            self._choice = choose_run(found, self._checkpoint, str(self.subcommand), root, is_typed, folder)
            if self._choice.folder is not None:
                config.checkpoint.folder = self._choice.folder
        with usage_errors():
            if self.subcommand == 'fit' and config.checkpoint.folder is not None and not config.trainer.fast_dev_run:
                refuse_used(config.checkpoint.folder, found)
        if self._autotunes:
            self._autotune(config)

    def _autotune(self, config: Namespace) -> None:
        """Choose data.device_batch_tokens, as if it had been typed. A run that goes on keeps what it was begun with."""
        if self.subcommand != 'fit':
            raise UsageError(f'--autotune goes with fit, not with {self.subcommand}')
        if self._checkpoint is not None:
            print(f'going on with data.device_batch_tokens={config.data.device_batch_tokens}: nothing is tuned')
            return
        with usage_errors():
            config.data.device_batch_tokens = autotune.tune(plain(config))
        self._set_seed()  # the run draws what it would without

    def _own_config(self) -> Namespace:
        return self.config[self.subcommand] if self.subcommand else self.config
