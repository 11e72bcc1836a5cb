"""The trainer of the command line: the engine's, with the callbacks and the logger that every run has."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from xlabml import engine
from xlabml.callbacks import Compiling, Garbage, Heap, Stopping
from xlabml.callbacks.events import Events
from xlabml.engine.trainer import as_list

LoggerName = Literal['tensorboard', 'csv', 'wandb', 'mlflow']


class Trainer(engine.Trainer):
    """The engine's Trainer, with the callbacks that its settings name.

    Args:
        logger: Who writes the curves, into the folder of the run: `tensorboard` (True), `csv`, `wandb` (extra `wandb`),
            `mlflow` (extra `mlflow`), or several, `[tensorboard, wandb]`; false: nobody. Or a logger of Lightning's
            with its own settings.
        compile: Whether the network is compiled (torch.compile, in place, for batches of one shape); takes a while at
            the start, needs a C++ compiler, and its recompiles are counted and warned about. `auto`: on a CPU, in
            language models whose run is long enough to save more time than compiling takes (from about half an hour).
        freeze_garbage: Whether Python's garbage is collected at validations and every 1,000 steps only.
        keep_memory: Whether a process that trains on a CPU keeps the memory that it frees for its next step.
        callbacks: More of them.
    """

    def __init__(
        self,
        *args: Any,
        logger: Logger | Iterable[Logger] | bool | LoggerName | list[LoggerName] = True,
        compile: bool | Literal['auto'] = False,
        freeze_garbage: bool = True,
        keep_memory: bool = True,
        callbacks: list[Callback] | Callback | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(logger, str) or (isinstance(logger, list) and any(isinstance(one, str) for one in logger)):
            raise ValueError(
                f'trainer.logger is {logger!r}: names are known to the commands of xlab; give a logger here'
            )
        if logger is True:
            logger = Events(kwargs.get('default_root_dir') or Path.cwd(), name='logs')
        given = as_list(callbacks)
        own: list[Callback] = [Compiling(is_auto=compile == 'auto')] if compile else []
        own += [Garbage()] if freeze_garbage else []
        own += [Heap()] if keep_memory else []
        if not any(isinstance(callback, Stopping) for callback in given):
            given = [*given, Stopping()]
        super().__init__(*args, logger=logger, callbacks=given, **kwargs)
        self.callbacks[:0] = own  # checkpoints stay last
