"""From checked settings to objects: data, task, callbacks and trainer."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml import settings
from xlabml.callbacks import Checkpoints, Curves, Predictions
from xlabml.callbacks.events import Events
from xlabml.checkpoints import Contents
from xlabml.datamodules import XLabDataModule
from xlabml.engine import Run
from xlabml.finite import require_finite
from xlabml.heads.loading import Initialized, initialize
from xlabml.models import XLabModel
from xlabml.untrusted.building import building, naming, try_out

from .command_line import DATA_COMMANDS, plain
from .errors import UsageError, usage_errors
from .finding import Found, is_newest, is_same_folder
from .parsing import ParsingCLI
from .run_folder import RunFolder, SavedSettings
from .run_lock import RunInUse, only_one

_Callback = TypeVar('_Callback', bound=L.Callback)


class BuildingCLI(ParsingCLI):
    """The objects of the command that is typed."""

    def instantiate_classes(self) -> None:
        config = plain(self._own_config())
        self.run_folder: Path | None = None
        self._claimed: RunFolder | None = None
        self.initialized: Initialized | None = None
        with self._blame(), self._within_the_checkpoint():
            self.datamodule = XLabDataModule(**settings.build_arguments(XLabDataModule, config['data']))
            if self._names_sources:
                self.datamodule.named_by = str(self._checkpoint_path)
            self.config_init = self.config.clone()
            rest = self.config_init[self.subcommand] if self.subcommand else self.config_init
            del rest['data'], rest['model']
        if self._initial is not None and config['data']['tokenizer_path'] is None:
            with naming(self._initial.path):
                self.datamodule.use_tokenizer(self._initial.contents.tokenizer_bytes())
        elif self._checkpoint is None and self.subcommand != 'train_tokenizer':
            self.datamodule.check_tokenizer()
        if self.subcommand in DATA_COMMANDS:
            return
        with self._blame(), self._within_the_checkpoint():
            task = settings.find_class(config['model']['class_path'])
            self.model = task(**settings.build_arguments(task, config['model'].get('init_args') or {}))
            self.config_init = self.parser.instantiate_classes(self.config_init)
        if self._initial is not None:
            path, contents = self._initial
            self.initialized = initialize(self.model.network, contents, path, self._has_its_tokenizer(contents))
        if self._checkpoint is not None:
            with naming(str(self._checkpoint_path)):
                self.model.check_weights(self._checkpoint)
                if isinstance(self.model, XLabModel):
                    model = self.model.eval()
                    ids = torch.zeros(1, 1, dtype=torch.long)
                    try_out(str(self._checkpoint_path), config['model'], lambda: model(ids))
                    self.model.train()
                self.datamodule.use_tokenizer(self._checkpoint.tokenizer_bytes())
                if self.subcommand == 'fit':
                    self.datamodule.will_go_on(self._checkpoint.place)
                else:
                    weights = self._checkpoint.weights
                    parameters = {name: weights[name] for name, _ in self.model.named_parameters()}
                    require_finite(parameters, self._checkpoint_name)
        with self._nothing_left_behind(), self._blame():
            self.trainer = self.instantiate_trainer()
            if self.subcommand == 'fit':
                # A few steps of trainer.fast_dev_run are no run that a schedule has to fit into.
                self.model.check_training(-1 if config['trainer']['fast_dev_run'] else self.trainer.max_steps)
                self._check_monitor()

    @contextlib.contextmanager
    def _blame(self) -> Iterator[None]:
        """Errors of constructors are of what was typed, or of the checkpoint where nothing but that was."""
        path = self._checkpoint_path
        with contextlib.ExitStack() as stack:
            if path is None or not self._types_nothing:
                stack.enter_context(usage_errors())
            if path is not None:
                stack.enter_context(naming(path, 'has settings that cannot be used'))
            yield

    def _within_the_checkpoint(self) -> contextlib.AbstractContextManager[None]:
        """What is built while this is open may have the sizes of a checkpoint's settings."""
        if self._initial is not None:
            return building(self._initial.path, self._initial.contents.weights)
        if self._checkpoint is None:
            return contextlib.nullcontext()
        return building(str(self._checkpoint_path), self._checkpoint.weights)

    def _has_its_tokenizer(self, contents: Contents) -> bool:
        """Whether this run has the tokenizer of the file that its weights come from."""
        path = self.datamodule.tokenizer_path
        return path.exists() and self.datamodule.tokenizer.data == contents.tokenizer_bytes()

    def _check_monitor(self) -> None:
        """Refuse a metric that no validation will give. A class of the user's may give more than it says."""
        parts = (self.model, *self.trainer.callbacks)  # type: ignore[attr-defined]
        saver = find_callback(self.trainer, Checkpoints)
        saver.choose_monitor(self.model.monitor)
        figures = self.model.figure_names()
        if figures is not None and all(type(part).__module__.startswith(('xlabml.', 'lightning.')) for part in parts):
            saver.check_monitor([f'val_{name}' for name in figures])

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, 'trainer')
        if self.subcommand and not config['fast_dev_run']:
            self._claimed = self._claim(Path(config['default_root_dir']) / 'logs')
            self.run_folder = None if self._claimed is None else self._claimed.path
            if config['logger'] is True and self.run_folder is None:
                config['logger'] = False
            if config['logger'] is True:
                assert self.run_folder is not None
                step = self._checkpoint.step + 1 if self._checkpoint and self.subcommand == 'fit' else None
                config['logger'] = Events(
                    self.run_folder.parent.parent, self.run_folder.parent.name, self.run_folder.name, purge_step=step
                )
        own: list[L.Callback] = [Predictions()]
        if self.subcommand == 'fit' and self.run_folder is not None:
            saved = self._own_config().clone()
            saved.pop('init_from', None)  # no other command takes it, and the checkpoints have the weights
            own.append(SavedSettings(self._parser('fit').dump(saved, skip_none=False), self.run_folder))
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
        saver, curves = find_callback(trainer, Checkpoints), find_callback(trainer, Curves)
        saver.continues = self._choice.run is not None
        if saver.folder is None and self.run_folder is not None:
            saver.folder = str(self.run_folder / 'checkpoints')
        Run.of(trainer).folder = self.run_folder
        for logger in trainer.loggers:
            if isinstance(logger, Events):
                logger.give_up = curves.give_up
        return trainer

    def _claim(self, logs: Path) -> RunFolder | None:
        """Find or make the run's folder; None where an evaluation can do without, as there is no place for one.

        Raises:
            OSError: It cannot be written to, or another process trains this run.
        """
        try:
            claimed = self._claimed = RunFolder(logs, self._choice.run)
            place = self._place_to_write(claimed.path)
            if place is not None and not os.access(place, os.W_OK):
                raise OSError(errno.EROFS, 'it cannot be written to', str(place))
        except OSError as error:
            if self.subcommand in ('validate', 'test'):
                print(f'curves are not written to {logs}: {error.strerror}', file=sys.stderr, flush=True)
                return None
            raise OSError(
                f'{error.filename or logs}: {error.strerror}; name a folder of yours with --trainer.default_root_dir'
                + (f', and the checkpoint by --ckpt_path {self._checkpoint_name}' if self._checkpoint_name else '')
            ) from error
        if self.subcommand == 'fit' and getattr(rank_zero_only, 'rank', 0) == 0:
            self._hold(claimed)
        return claimed

    def _place_to_write(self, run: Path) -> Path | None:
        """The folder that a command is useless without, where it is there already."""
        if self.subcommand == 'predict':
            return run if run.is_dir() else None  # a new one is made by rank 0 alone
        if self.subcommand != 'fit':
            return None
        asked = self._own_config().checkpoint.folder
        folder = run / 'checkpoints' if asked is None else None if '://' in asked else Path(asked)
        return folder if folder is not None and folder.is_dir() else None

    def _hold(self, claimed: RunFolder) -> None:
        """Be the only process that trains the run, and clean up after one that was killed."""
        folder = self._own_config().checkpoint.folder
        is_apart = folder is not None and '://' not in folder and not is_same_folder(folder, claimed.path)
        other = [Path(str(folder))] if is_apart else []
        for path in (claimed.path, *other):
            if not path.exists():
                path.mkdir(parents=True)
                self._open.callback(_remove_if_empty, path)
            self._open.enter_context(only_one(path))
        found = None if self._checkpoint_path is None else Found(self._checkpoint_name, self._checkpoint_path)
        if self._choice.run is not None and found is not None and not (found.path.exists() and is_newest(found)):
            raise RunInUse(f'{claimed.path} was trained on while {found.name} was read; the same command resumes it')
        claimed.clean(*other)

    @contextlib.contextmanager
    def _nothing_left_behind(self) -> Iterator[None]:
        """Where a command fails before it has made a step, the folder that it had made for itself goes again."""
        try:
            yield
        except BaseException:
            trainer = getattr(self, 'trainer', None)
            if self._claimed is not None and (trainer is None or not trainer.global_step):
                self._claimed.give_up()
            raise


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def find_callback(trainer: L.Trainer, kind: type[_Callback]) -> _Callback:
    """The trainer's callback of a kind; there is one."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]
