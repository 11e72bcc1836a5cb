"""From checked settings to objects: data, task, callbacks and trainer."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as L
from lightning.pytorch.loggers import TensorBoardLogger

from xlabml import checkpoints, settings
from xlabml.callbacks import Checkpoints, Curves, NonFinite, Predictions, Spikes
from xlabml.datamodules import XLabDataModule
from xlabml.untrusted.building import building, naming

from .command_line import DATA_COMMANDS, plain
from .errors import UsageError, usage_errors
from .parsing import ParsingCLI
from .run_folder import RunFolder, SavedSettings

_Callback = TypeVar('_Callback', bound=L.Callback)


class BuildingCLI(ParsingCLI):
    """The objects of the command that is typed."""

    def instantiate_classes(self) -> None:
        config = plain(self._own_config())
        self.run_folder: Path | None = None
        self._claimed: RunFolder | None = None
        with usage_errors(), self._from_the_checkpoint():
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
            with naming(str(self._checkpoint_path)):
                self.model.check_weights(self._checkpoint)
                self.datamodule.use_tokenizer(checkpoints.tokenizer_bytes(self._checkpoint))
                if self.subcommand == 'fit':
                    self.datamodule.will_go_on(self._checkpoint[XLabDataModule.__name__])
        with self._nothing_left_behind(), usage_errors():
            self.trainer = self.instantiate_trainer()
            if self.subcommand == 'fit':
                # A few steps of trainer.fast_dev_run are no run that a schedule has to fit into.
                self.model.check_training(-1 if config['trainer']['fast_dev_run'] else self.trainer.max_steps)
                self._check_monitor()

    def _from_the_checkpoint(self) -> contextlib.AbstractContextManager[None]:
        """What is built while this is open may be of a checkpoint's settings."""
        if self._checkpoint is None:
            return contextlib.nullcontext()
        return building(str(self._checkpoint_path), self._checkpoint['state_dict'])

    def _check_monitor(self) -> None:
        """Refuse a metric that no validation will give. A class of the user's may give more than it says."""
        parts = (self.model, *self.trainer.callbacks)  # type: ignore[attr-defined]
        figures = self.model.figures()
        if figures is not None and all(type(part).__module__.startswith(('xlabml.', 'lightning.')) for part in parts):
            find_callback(self.trainer, Checkpoints).check_monitor([f'val_{name}' for name in figures])

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, 'trainer')
        if self.subcommand and not config['fast_dev_run']:
            logs = Path(config['default_root_dir']) / 'logs'
            self._claimed = RunFolder(logs, self.subcommand, self._checkpoint_path, self._checkpoint)
            self.run_folder = self._claimed.path
            if config['logger'] is True:
                step = self._checkpoint['global_step'] + 1 if self._checkpoint and self.subcommand == 'fit' else None
                config['logger'] = TensorBoardLogger(
                    self.run_folder.parent.parent, self.run_folder.parent.name, self.run_folder.name, purge_step=step
                )
        own: list[L.Callback] = [Predictions(self.run_folder)]
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
        find_callback(trainer, NonFinite).documents.folder = self.run_folder
        find_callback(trainer, Spikes).documents.folder = self.run_folder
        return trainer

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


def find_callback(trainer: L.Trainer, kind: type[_Callback]) -> _Callback:
    """The trainer's callback of a kind; there is one."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]
