"""Lightning's Trainer, with length and validation interval in optimizer steps."""

import logging
from datetime import timedelta
from typing import Any, Literal, TypeVar

import lightning.pytorch as L
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.plugins import _PLUGIN_INPUT
from lightning.pytorch.trainer.connectors.accelerator_connector import _PRECISION_INPUT

from .checkpoint_io import CheckpointIO, Restoring
from .launching import started_by_torchrun
from .loops import RunLoop, StepLoop
from .precision import auto_precision
from .run import Run
from .signals import Signals

DEFAULT_STEPS = 2246

_MISLEADING = ('`Trainer(val_check_interval=1)` was configured', '`weights_only` was not set')

_T = TypeVar('_T')

# What Lightning says of arguments that it is given here, and not by the user.
for _name in ('utilities.rank_zero', 'trainer.connectors.checkpoint_connector'):
    logging.getLogger(f'lightning.pytorch.{_name}').addFilter(
        lambda record: not record.getMessage().startswith(_MISLEADING)
    )


class Trainer(L.Trainer):
    """Lightning's Trainer, with validation by steps, atomic checkpoints, and a precision that fits the hardware.

    Args:
        precision: Precision of matrix products. `auto` is bf16-mixed where the hardware multiplies bf16 natively
            (AMX or AVX-512-BF16 on a CPU, compute capability 8.0 or later on an NVIDIA GPU), else 32-true.
        max_steps: Optimizer steps of the run; -1 with neither max_epochs nor max_time: 2246. `auto`: 20 tokens a
            parameter of the model, and at most ten epochs.
        max_epochs: Passes over the training data, converted to steps once their number is known.
        max_time: Wall-clock limit of this start's training, DD:HH:MM:SS; a resumed run starts a new one. When it is
            over the run is saved and ends, as after a signal.
        val_check_interval: Validate every n optimizer steps (an int), or after this share of the run (a float in
            0..1), and when the run ends.
        plugins: As Lightning's; one that writes checkpoints atomically is added.
        callbacks: As Lightning's. (What the constructor touches is named here with its type: jsonargparse takes what is
            looked up in kwargs to be of any type, and would build whatever class a file of settings names.)
        accelerator: As Lightning's.
        devices: As Lightning's; torchrun's number where it started this process.
        num_nodes: As Lightning's, like devices.

    Attributes:
        run: The state that the task and the callbacks share.
    """

    callbacks: list[Callback]  # set by Lightning, which does not declare it

    def __init__(
        self,
        *args: Any,
        precision: _PRECISION_INPUT | Literal['auto'] = 'auto',
        max_steps: int | Literal['auto'] = -1,
        max_epochs: int | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        val_check_interval: int | float = 0.1,
        plugins: _PLUGIN_INPUT | list[_PLUGIN_INPUT] | None = None,
        callbacks: list[Callback] | Callback | None = None,
        accelerator: str | Accelerator = 'auto',
        devices: list[int] | str | int = 'auto',
        num_nodes: int = 1,
        **kwargs: Any,
    ) -> None:
        if isinstance(max_steps, str):
            raise ValueError('trainer.max_steps is auto, which the commands of xlab find from the texts; give a number')
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
        if precision == 'auto':
            precision = auto_precision(accelerator)
        all_plugins: list[_PLUGIN_INPUT] = as_list(plugins)
        if not any(isinstance(plugin, TorchCheckpointIO) for plugin in all_plugins):
            all_plugins.append(CheckpointIO())
        all_callbacks = as_list(callbacks)
        for callback in all_callbacks:
            if not isinstance(callback, Callback):
                raise ValueError(
                    f'trainer.callbacks holds {callback!r}, which is no callback; '
                    'write [{class_path: PATH.OF.THE.CLASS, init_args: {…}}]'
                )
        kwargs.update({'devices': devices, 'num_nodes': num_nodes, **started_by_torchrun(devices, num_nodes)})
        super().__init__(
            *args,
            precision=precision,
            max_steps=max_steps,
            max_epochs=max_epochs if max_epochs is not None else -1,
            callbacks=all_callbacks,
            plugins=all_plugins,
            accelerator=accelerator,
            # Lightning's own intervals are switched off: validation goes by steps, and the data has no epochs.
            val_check_interval=1,
            check_val_every_n_epoch=None,
            **kwargs,
        )
        self.run = Run(self)
        self.validate_every = val_check_interval
        self.max_seconds = None if max_time is None else Timer(max_time).time_remaining()
        self._signal_connector = Signals(self)
        self._checkpoint_connector = Restoring(self)
        step_loop = StepLoop(self, self.min_steps, self.max_steps)
        self.fit_loop = RunLoop(self, self.min_epochs, self.max_epochs)
        self.fit_loop.epoch_loop = step_loop

    def is_validation_step(self, step: int) -> bool:
        """Whether validation follows after this optimizer step, counted from 1."""
        every = self.validate_every
        if isinstance(every, float):
            if self.max_steps < 0:
                raise ValueError(
                    f'trainer.val_check_interval is {every}, a share of the run, but the run has no length in steps; '
                    'set trainer.max_steps, or a number of steps'
                )
            every = max(1, round(self.max_steps * every))
        return step % every == 0 or step == self.max_steps


def as_list(found: _T | list[_T] | None) -> list[_T]:
    """A new list of what may be given as a list, alone, or not at all."""
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]
