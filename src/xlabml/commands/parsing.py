"""parse: files and flags become settings that match the signatures."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import yaml
from jsonargparse import ActionConfigFile, Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningCLI

from xlabml import bounds, moved, settings
from xlabml.models import DEFAULT, Task
from xlabml.plain import Plain, PlainDict
from xlabml.untrusted import yaml_text

from . import data as data_commands
from . import ngrams
from .command_line import (
    files_first,
    join_sources,
    plain,
    refuse_linked,
    refuse_long,
)
from .errors import EXIT_STATUS, UsageError, usage_errors
from .finding import Resumed
from .groups import GROUPS, LINKED
from .initial import Initial
from .overview import COMMANDS, DATA_COMMANDS, SHORT
from .parser import SettingsParser
from .run_folder import Choice

_load = get_loader('yaml')


def _bounded(text: str) -> object:
    """The loader that jsonargparse reads every value and every file with."""
    try:
        yaml_text.check(text)
    except ValueError as error:
        raise UsageError(f'settings, typed or in a file that is named there, hold {error}') from error
    return _load(text)


set_loader('yaml', _bounded, (yaml.YAMLError,))

DEFAULTS = Path(__file__).with_name('defaults.yaml')

SEED = 42

EPILOGUES = {
    '': f'--model.help lists the tasks, --model.help {DEFAULT.__name__} explains one. {EXIT_STATUS}.',
    'fit': (
        f'xlab fit --model.help lists the tasks, --model.help {DEFAULT.__name__} explains one. '
        f'{EXIT_STATUS}; 3 a loss spike ended the run (spikes.action=stop); 124 '
        'trainer.max_time was over; 130, 138 and 143 Ctrl-C, SIGUSR1 and SIGTERM. After 124 and those above it there '
        'is a checkpoint, and the same command with --ckpt_path last resumes it. A run is resumed where its newest '
        'checkpoint lies; --ckpt_path PATH with another --trainer.default_root_dir branches it into a run of its own '
        'there.'
    ),
}
"""What stands below the help of a command; '': of those that have nothing of their own."""

_CKPT_PATH = {
    'fit': 'Resume a run: a checkpoint, the folder of a run, or last: the newest run below this folder (a new run '
    'starts where there is none). Its settings count below what is typed.',
    '': 'The trained model: a checkpoint, an exported file, the folder of a run (its best checkpoint, else its '
    'newest), last or best: of the newest run below this folder.',
}
"""What --ckpt_path means to fit, and to the other commands."""

_INIT_FROM = (
    'Start a new run with the weights of another one: a checkpoint, an exported file, the folder of a run, last or '
    'best; or with a pretrained encoder: a folder as transformers saves it, or hf://ORG/NAME of the hub. Its trunk '
    'settings, longest row and tokenizer are taken over, below what is typed. With --ckpt_path last only where there '
    'is no run to resume.'
)


class Parsers(NamedTuple):
    """The parser of a command line.

    Args:
        main: Reads the whole line.
        commands: Those of the commands; {}: there are none, as in Python with `run=False`.
    """

    main: SettingsParser
    commands: Mapping[str, SettingsParser]


class Settings(NamedTuple):
    """The settings of a command, immutable: functions that change some return a copy.

    Args:
        values: By group, with the command's own arguments (`ckpt_path`).
        command: Its name; None: there is none, and objects are built.
        parsers: The parsers that read them.
        arguments: The command line, files first; (): they came as a dictionary.
        autotunes: Whether data.device_batch_tokens is to be measured.
        resumed: The checkpoint whose settings stand below what is typed.
        initial: The file whose weights a new run begins with.
        choice: The run that the command belongs to.
        facts: Values that were found in the data, by name.
    """

    values: Namespace
    command: str | None
    parsers: Parsers
    arguments: tuple[str, ...] = ()
    autotunes: bool = False
    resumed: Resumed | None = None
    initial: Initial | None = None
    choice: Choice = Choice(None)
    facts: Mapping[str, Plain] = {}

    @property
    def parser(self) -> SettingsParser:
        """The one that knows all settings."""
        return self.parsers.main if self.command is None else self.parsers.commands[self.command]

    @property
    def is_fit(self) -> bool:
        return self.command == 'fit'

    def changed(self, values: Mapping[str, object]) -> 'Settings':
        """A copy with other values, by their dotted names."""
        copy = self.values.clone()
        for name, value in values.items():
            copy[name] = value
        return self._replace(values=copy)

    def check(self) -> None:
        """Raise UsageError where a number is out of all bounds."""
        with usage_errors():
            bounds.check(plain(self.values))
        if self.values.seed_everything < 0:
            raise UsageError(f'seed_everything is {self.values.seed_everything}; it must be 0 or more')


def parse(argv: Sequence[str] | PlainDict, parsers: Parsers | None = None) -> Settings:
    """Read a command line, or settings as a dictionary. No checkpoint is opened, and nothing is built.

    Args:
        argv: The command line without the program's name, or settings.
        parsers: The parsers to use; None: that of the command that the line names.

    Raises:
        UsageError: A name is unknown, or a value does not match its signature.
        SystemExit: Help or the settings were printed, as --help and --print_config ask.
    """
    parsers = make_parsers(named_commands(argv)) if parsers is None else parsers
    arguments: list[str] = []
    if isinstance(argv, dict):
        config = parsers.main.parse_object(argv)
    else:
        refuse_long(argv)
        arguments = join_sources(files_first([argument for argument in argv if argument != '--autotune']))
        refuse_linked(arguments)
        config = parsers.main.parse_args(arguments)
    command = config.subcommand if parsers.commands else None
    values = config if command is None else config[command]
    drop_removed(values, command)
    found = Settings(values, command, parsers, tuple(arguments), '--autotune' in argv)
    found.check()
    for path in settings.class_paths(plain(values)):
        with usage_errors():
            settings.trust_class(path)  # what the user types may be built; what only a checkpoint names may not
    return found


def drop_removed(values: Namespace, command: str | None) -> None:
    """Take settings that earlier versions had out of those that were parsed.

    Raises:
        UsageError: A run would be trained without one that is set.
    """
    for group in moved.REMOVED:
        kept, was_set = moved.without_removed(group, vars(values[group]))
        values[group] = Namespace(**kept)
        if was_set and command in (None, 'fit'):
            raise UsageError(f'{moved.why_removed(was_set)}; leave {"them" if len(was_set) > 1 else "it"} out')


def retype(settings: Settings, command: str, changed: Mapping[str, object]) -> Settings:
    """The settings of a command line that was typed with another command, and with flags behind it.

    A run that resumes reads its line once more above the checkpoint's settings: what a flag says is not lost there.

    Args:
        settings: Those of the line, with a command.
        changed: Plain values by their dotted names.
    """
    words = list(settings.arguments)
    words[words.index(str(settings.command))] = command
    flags = [f'--{name}={value if isinstance(value, str) else json.dumps(value)}' for name, value in changed.items()]
    return parse([*words, *flags])


def named_commands(argv: Sequence[str] | PlainDict) -> Sequence[str]:
    """The command that is typed, or all: a parser takes time to build, so only that which is needed is built."""
    return next(([word] for word in argv if word in COMMANDS), COMMANDS)


def make_parsers(commands: Sequence[str]) -> Parsers:
    """Make the parser of a command line with these commands; () makes one of settings alone."""
    if not commands:
        return Parsers(_add_settings(_make_parser(prog='xlab', default_config_files=[str(DEFAULTS)])), {})
    main = _make_parser(prog='xlab')
    made = {}
    added = main.add_subcommands()
    for name in commands:
        made[name] = _make_command(name)
        added.add_subcommand(name, made[name], help=made[name].description)
    return Parsers(main, made)


def _make_parser(**options: Any) -> SettingsParser:
    parser = SettingsParser(dump_header=[f'lightning.pytorch=={lightning.__version__}'], **options)
    parser.add_argument(
        '-c', '--config', action=ActionConfigFile, help='Path to a configuration file in json or yaml format.'
    )
    return parser


def _make_command(name: str) -> SettingsParser:
    """The parser of one command: all settings, so that the same files go with each, and arguments of its own."""
    function = getattr(data_commands, name) if name in DATA_COMMANDS else getattr(GROUPS['trainer'], name)
    parser = _make_parser(description=SHORT[name], default_config_files=[str(DEFAULTS)])
    _add_settings(parser)
    if name not in DATA_COMMANDS:
        parser.add_method_arguments(GROUPS['trainer'], name, skip=LightningCLI.subcommands()[name])
        parser._option_string_actions['--ckpt_path'].help = _CKPT_PATH.get(name, _CKPT_PATH[''])
        if ignored := parser._option_string_actions.get('--weights_only'):  # no checkpoint is opened in another way
            ignored.help = argparse.SUPPRESS
        if name in ('test', 'predict'):
            parser.add_argument('--ngram', type=str | None, default=None, help=ngrams.HELP)
        if name == 'fit':
            parser.add_argument('--init_from', type=str | None, default=None, help=_INIT_FROM)
        return parser
    flags = {name for name, kind in function.__annotations__.items() if kind is bool}
    parser.add_function_arguments(function, skip={'data', *flags})
    for flag in sorted(flags):
        parser.add_argument(f'--{flag}', action='store_true', help=data_commands.FLAGS[flag])
    return parser


def _size_or_least(size: int | str) -> int:
    """A size of the data for the task; the least one for `auto`, which is found before a task is built (sizing.py)."""
    return 1 if isinstance(size, str) else size


def _add_settings(parser: SettingsParser) -> SettingsParser:
    parser.add_argument(
        '--seed_everything', type=int, default=SEED, help='What weights, data order and dropout are drawn from.'
    )
    for name, cls in GROUPS.items():
        parser.add_lightning_class_args(cls, name, subclass_mode=cls is Task)
    for group, removed in moved.REMOVED.items():  # files of settings that earlier versions printed name them all
        for name in removed:
            parser.add_argument(f'--{group}.{name}', type=int | None, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for name in ('sources', 'held_out'):  # a string is a path of texts there, and no file of settings (parser.py)
        vars(parser._option_string_actions[f'--data.{name}'])['_enable_path'] = False
    parser.link_arguments('seed_everything', 'data.seed')
    for name, source in LINKED.items():
        parser.link_arguments(source, f'model.init_args.{name}', compute_fn=_size_or_least)
    return parser
