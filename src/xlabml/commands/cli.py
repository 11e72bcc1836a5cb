"""LightningCLI with our trainer, tasks and data: each of its steps is a function that stands in a file of its own."""

import contextlib
from collections.abc import Sequence

from lightning.pytorch.cli import LightningCLI

from xlabml.datamodules import XLabDataModule
from xlabml.models import Task
from xlabml.plain import PlainDict

from . import running
from .building import build
from .overview import DATA_COMMANDS
from .parser import SettingsParser
from .parsing import SEED, make_parsers, named_commands, parse
from .running import prepare, run_data_command
from .trainer import Trainer


class XLabCLI(LightningCLI):
    """All commands of `xlab`: parse, resolve, build, run. From Python also the objects that settings describe.

    Args:
        args: Command-line arguments, or settings as a dictionary.
        run: Whether to run the command that the arguments name; else there is none, and the objects are built.

    Attributes:
        settings: The settings, resolved.
        datamodule: The data.
        model: The task; commands that prepare data have none.
        trainer: The trainer; they have none either.
    """

    def __init__(self, args: Sequence[str] | PlainDict, run: bool = True) -> None:
        self._parsers = make_parsers(named_commands(args) if run else ())
        with contextlib.ExitStack() as self._opened:  # what lives as long as the command
            super().__init__(
                Task,
                XLabDataModule,
                save_config_callback=None,
                trainer_class=Trainer,
                seed_everything_default=SEED,
                parser_class=SettingsParser,
                subclass_mode_model=True,
                args=args,  # type: ignore[arg-type]
                run=False,  # Lightning would call the trainer alone
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )
            self.subcommand = self.settings.command
            if self.subcommand in DATA_COMMANDS:
                run_data_command(self.settings, self.datamodule)
            elif self.subcommand is not None:
                running.run(self._built)

    def setup_parser(self, *_: object) -> None:
        self.parser = self._parsers.main

    def parse_arguments(self, parser: object, args: object) -> None:
        assert isinstance(args, list | tuple | dict)
        self.settings = parse(args, self._parsers)
        self.config = self.settings.values

    def instantiate_classes(self) -> None:
        self.settings, self.datamodule = prepare(self.settings, self._opened)
        self.config = self.settings.values
        if self.settings.command not in DATA_COMMANDS:
            self._built = build(self.settings, self.datamodule, self._opened)
            self.model = self._built.task
            self.trainer = self._built.trainer
