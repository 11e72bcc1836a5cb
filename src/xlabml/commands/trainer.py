"""Lightning's Trainer with a length and a rhythm counted in optimizer steps."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import fsspec
import lightning.pytorch as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import Callback, Timer, WeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.accelerator_connector import _PRECISION_INPUT
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from xlabml import artifacts, checkpoints
from xlabml.callbacks import Checkpoints, Compiling, Garbage, Heap, Stopping
from xlabml.callbacks.events import Events
from xlabml.callbacks.stopping import ValidationCut
from xlabml.untrusted.building import naming

DEFAULT_STEPS = 1950


class Trainer(L.Trainer):
    """Lightning's Trainer, with validation by steps, checkpoints written beside and renamed, and a precision that fits.

    Args:
        precision: What matrices are multiplied in. `auto` is bf16-mixed where the hardware multiplies bf16 natively
            (AMX or AVX-512-BF16 on a CPU, compute capability 8.0 or later on an NVIDIA GPU), else 32-true.
        max_steps: Optimizer steps of the run; -1 with neither max_epochs nor max_time: 1950.
        max_epochs: Passes over the training data, turned into steps once their number is known.
        max_time: Wall-clock budget of this start's training, DD:HH:MM:SS; a resumed run gets it anew. When it is over
            the run is saved and ends, as after a signal (Stopping).
        val_check_interval: Validate every so many optimizer steps (an int), or after this share of the run (a float in
            0..1), and when the run ends.
        logger: Who writes the curves; True: TensorBoard, in `logs/version_N` below default_root_dir.
        compile: Whether the model is compiled (torch.compile, in place, for batches of one shape); takes a while at the
            start, needs a C++ compiler, and its recompiles are counted and warned about.
        freeze_garbage: Whether Python's garbage is collected at validations and every 1,000 steps only.
        keep_memory: Whether a process that trains on a CPU keeps the memory that it frees for its next step.
        plugins: As Lightning's; one for checkpoints that writes beside and renames is added.
    """

    def __init__(
        self,
        *args: Any,
        precision: _PRECISION_INPUT | Literal['auto'] = 'auto',
        max_steps: int = -1,
        max_epochs: int | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        val_check_interval: int | float = 0.1,
        logger: Logger | Iterable[Logger] | bool = True,
        compile: bool = False,
        freeze_garbage: bool = True,
        keep_memory: bool = True,
        plugins: Any = None,
        **kwargs: Any,
    ) -> None:
        if max_steps < -1 or max_steps == 0:
            raise ValueError(f'trainer.max_steps is {max_steps}; it must be at least 1')
        if max_steps == -1 and max_epochs is None and max_time is None:
            max_steps = DEFAULT_STEPS
        if val_check_interval <= 0 or (isinstance(val_check_interval, float) and val_check_interval > 1):
            raise ValueError(
                f'trainer.val_check_interval is {val_check_interval}; '
                'it must be a number of steps (an int from 1) or a share of the run (a float in 0..1)'
            )
        for name, least in (('gradient_clip_val', 0), ('log_every_n_steps', 0)):
            value = kwargs.get(name)
            if value is not None and value < least:
                raise ValueError(f'trainer.{name} is {value}; it must be {least} or more')
        if logger is True:
            logger = Events(kwargs.get('default_root_dir') or Path.cwd(), name='logs')
        if precision == 'auto':
            precision = auto_precision(kwargs.get('accelerator', 'auto'))
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins] if plugins is not None else []
        if not any(isinstance(plugin, TorchCheckpointIO) for plugin in plugins):
            plugins.append(CheckpointIO())
        callbacks = kwargs.pop('callbacks', None) or []
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        for callback in callbacks:
            if not isinstance(callback, Callback):  # what is written as a bare name stays one
                raise ValueError(
                    f'trainer.callbacks holds {callback!r}, which is no callback; '
                    'write [{class_path: PATH.OF.THE.CLASS, init_args: {…}}]'
                )
        if not any(isinstance(callback, Stopping) for callback in callbacks):
            callbacks.append(Stopping())
        wanted = {Compiling: compile, Garbage: freeze_garbage, Heap: keep_memory}
        own = [callback() for callback, is_wanted in wanted.items() if is_wanted]
        kwargs.update(_started_by_torchrun(kwargs.get('devices', 'auto'), kwargs.get('num_nodes', 1)))
        super().__init__(
            *args,
            precision=precision,
            max_steps=max_steps,
            max_epochs=max_epochs if max_epochs is not None else -1,
            logger=logger,
            callbacks=callbacks,
            plugins=plugins,
            # Validation goes by our steps, and epochs are the data's business: Lightning is told so.
            val_check_interval=1,
            check_val_every_n_epoch=None,
            **kwargs,
        )
        self.callbacks[:0] = own  # type: ignore[attr-defined]  # checkpoints stay last
        self.validate_every = val_check_interval
        self.max_seconds = None if max_time is None else Timer(max_time).time_remaining()
        self._signal_connector = _Signals(self)
        self._checkpoint_connector = _Restoring(self)
        step_loop = _StepLoop(self, self.min_steps, self.max_steps)
        self.fit_loop = _RunLoop(self, self.min_epochs, self.max_epochs)
        self.fit_loop.epoch_loop = step_loop

    def is_validation_step(self, step: int) -> bool:
        """Whether validation follows upon this many optimizer steps."""
        every = self.validate_every
        if isinstance(every, float):
            if self.max_steps < 0:
                raise ValueError(
                    f'trainer.val_check_interval is {every}, a share of the run, but the run has no length in steps; '
                    'set trainer.max_steps, or a number of steps'
                )
            every = max(1, round(self.max_steps * every))
        return step % every == 0 or step == self.max_steps


class _RunLoop(_FitLoop):
    """Begins with the validation that an interrupted run owes; after the last step that is all there is to do."""

    @property
    def _debtor(self) -> Checkpoints | None:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return next((item for item in callbacks if isinstance(item, Checkpoints) and item.owes_validation), None)

    def run(self) -> None:
        if self._debtor is None or not 0 <= self.max_steps <= self.trainer.global_step:
            super().run()
            return
        self.on_run_start()
        self.on_run_end()

    def on_run_start(self) -> None:
        super().on_run_start()
        if (saver := self._debtor) is not None:
            self.epoch_loop.make_up()  # type: ignore[attr-defined]
            if saver.newest is None:  # cut again, in a new folder
                saver.save(self.trainer)


class _StepLoop(_TrainingEpochLoop):
    """Validates by optimizer steps: the same ones whatever the accumulation, and after a resume too.

    Nothing in a step waits for the device.
    """

    def _broadcast_sigterm_tensor(self) -> None:
        """Lightning's ranks tell each other of signals at every step, and wait for it; `Stopping` does that for us."""

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        trainer = self.trainer
        if not trainer.enable_validation or self._should_accumulate() or trainer.should_stop:
            return False
        return trainer.is_validation_step(self.global_step)  # type: ignore[attr-defined]

    def on_advance_end(self, data_fetcher: Any) -> None:
        with self._until_cut():
            super().on_advance_end(data_fetcher)

    def make_up(self) -> None:
        """Validate, before any step."""
        with self._until_cut():
            self.trainer.validating = True
            self.val_loop.run()
            self.trainer.training = True

    @contextlib.contextmanager
    def _until_cut(self) -> Iterator[None]:
        try:
            yield
        except ValidationCut:
            self.trainer.training = True
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):  # it gives the trained weights back when a validation ends
                    callback.on_validation_epoch_end(self.trainer, self.trainer.lightning_module)


class _Signals(_SignalConnector):
    """Registers no handler: Lightning's starts a collective from within, so that a signal to one rank hangs them all.

    Stopping has handlers of its own; what was there before is put back when the run ends.
    """

    def register_signal_handlers(self) -> None:
        self.received_sigterm = False
        self._original_handlers = self._get_current_signal_handlers()


class _Restoring(_CheckpointConnector):
    """Says which file it is where something in a checkpoint cannot be restored."""

    def _restore_modules_and_callbacks(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        with naming(checkpoint_path, 'cannot be restored') if checkpoint_path else contextlib.nullcontext():
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        with naming(self._ckpt_path, 'cannot be restored') if self._ckpt_path else contextlib.nullcontext():
            super().restore_training_state()


class CheckpointIO(TorchCheckpointIO):
    """Checkpoints as plain values, with checksums: written beside and renamed, or in a remote folder's transaction."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        if '://' not in str(path):
            checkpoints.write(checkpoint, Path(path))
            return
        files, remote = fsspec.core.url_to_fs(str(path))
        files.makedirs(remote.rpartition('/')[0], exist_ok=True)
        with files.transaction, files.open(remote, 'wb') as file:  # streamed: Lightning makes two copies in memory
            checkpoints.dump(checkpoint, file)

    def load_checkpoint(
        self, path: _PATH, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if '://' in str(path):
            with artifacts.scratch() as folder:
                files, remote = fsspec.core.url_to_fs(str(path))
                files.get_file(remote, f'{folder}/fetched.ckpt')
                return checkpoints.read(f'{folder}/fetched.ckpt', map_location)
        return checkpoints.read(Path(path), map_location)

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove a file that a run has written: nothing of another name, no folder, no link."""
        folder, _, name = str(path).rpartition('/')
        if checkpoints.written_step(name) is None:
            raise ValueError(f'{path} is no checkpoint that fit has written, and is not removed')
        if '://' in folder:
            files = get_filesystem(path)
            if files.isfile(str(path)):
                files.rm(str(path), recursive=False)
        elif os.path.isfile(path) and not os.path.islink(path):
            os.unlink(path)


def _started_by_torchrun(devices: Any, num_nodes: int) -> dict[str, int]:
    """How many devices and machines torchrun has started processes for, where the settings leave that open."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return {}
    here, everywhere = int(os.environ['LOCAL_WORLD_SIZE']), int(os.environ['WORLD_SIZE'])
    found = {'devices': here} if devices == 'auto' else {}
    return {**found, 'num_nodes': everywhere // here} if num_nodes == 1 else found


def auto_precision(accelerator: Any = 'auto') -> Literal['bf16-mixed', '32-true']:
    """bf16 where the hardware multiplies it natively, else fp32."""
    if accelerator in ('auto', 'gpu', 'cuda') and torch.cuda.is_available():
        return 'bf16-mixed' if torch.cuda.get_device_capability()[0] >= 8 else '32-true'
    if accelerator in ('auto', 'mps') and torch.backends.mps.is_available():
        return '32-true'
    looks = (getattr(torch.cpu, name, bool) for name in ('_is_amx_tile_supported', '_is_avx512_bf16_supported'))
    return 'bf16-mixed' if any(look() for look in looks) else '32-true'
