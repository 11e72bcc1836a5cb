"""`xlab fit --autotune`: the fastest data.device_batch_tokens, measured with the run's own settings."""

import gc
import sys
import time

import lightning.pytorch as L
import torch

from xlabml import settings
from xlabml.batches import Batch
from xlabml.callbacks import Stopping
from xlabml.datamodules import XLabDataModule
from xlabml.engine import step_is_over

from .command_line import Parsed, plain
from .errors import UsageError, usage_errors
from .parsing import Settings
from .trainer import Trainer

_MOST_SIZES = 6
_LEAST_CHUNK = 512
"""Slots of the smallest chunk of groups that is tried."""

_WINDOWS = 4
"""Optimizer steps of two micro-batches each; the first warms up, and leaves gradients and the optimizer's state."""

_KEPT = (
    *('accelerator', 'devices', 'num_nodes', 'precision', 'deterministic', 'benchmark', 'compile'),
    *('max_steps', 'max_epochs', 'gradient_clip_val', 'gradient_clip_algorithm', 'use_distributed_sampler'),
)
"""What of the run's trainer a measurement takes over."""


def autotune(settings: Settings) -> Settings:
    """Choose data.device_batch_tokens, as if it had been typed. A resumed run keeps its value.

    Args:
        settings: As `resolve` returns them.

    Raises:
        UsageError: The command is not fit, or nothing can be measured.
    """
    if not settings.is_fit:
        raise UsageError(f'--autotune goes with fit, not with {settings.command}')
    values = plain(settings.values)
    if settings.resumed is not None:
        print(f'resuming with data.device_batch_tokens={values["data"]["device_batch_tokens"]}: nothing is tuned')
        return settings
    with usage_errors():
        return settings.changed({'data.device_batch_tokens': tune(values)})


def tune(config: Parsed) -> int:
    """Train for a few steps at several sizes, print the speed of each, and return the fastest.

    Every measurement has a model, an optimizer and data of its own, built from the run's settings and deleted
    afterwards.

    Args:
        config: The settings of `fit`, as plain values.

    Returns:
        The value of data.device_batch_tokens with the most tokens, or groups, per second.

    Raises:
        UsageError: There is nothing to choose, there are several devices, or no size fits into memory.
    """
    data = config['data']
    check(data['device_batch_tokens'])
    built = XLabDataModule(
        **settings.build_arguments(XLabDataModule, data)
    )  # refuses what cannot be, before it takes time
    if built.examples.sized_by == 'steps':
        raise UsageError(
            f'--autotune measures rows, and {type(built.examples).__name__} has steps of several formats; set '
            'data.device_batch_tokens to what fits into memory'
        )
    are_groups = built.examples.sized_by == 'groups'
    unit = 'groups/s' if are_groups else 'tokens/s'
    print(f'{"device_batch_tokens":>20}{"ms":>10}{unit:>12}{"peak memory":>14}', flush=True)
    rates: dict[int, float] = {}
    candidates = chunk_sizes(data['max_len']) if are_groups else sizes(data['batch_tokens'], data['max_len'])
    for size in candidates:
        try:
            seconds, n_rows = measure(config, size, are_groups)
        except RuntimeError as error:
            if 'memory' not in str(error):
                raise
            seconds = None
            n_rows = 0
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if seconds is None:
            print(f'{size:20,}   out of memory', flush=True)
            break
        rates[size] = (data['batch_groups'] if are_groups else size) / seconds
        peak = f'{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB' if torch.cuda.is_available() else '-'
        print(f'{size:20,}{1000 * seconds:10.1f}{rates[size]:12,.0f}{peak:>14}', flush=True)
        if are_groups and n_rows == 1:
            break  # a larger chunk would hold the same texts
    if not rates:
        raise UsageError(
            f'not even data.device_batch_tokens={size} fits into memory; make the model or max_len smaller'
        )
    best = max(rates, key=rates.__getitem__)
    print(f'data.device_batch_tokens={best} is the fastest, and is saved with the run', flush=True)
    return best


def check(device_batch_tokens: int | None) -> None:
    """Raise UsageError where the value to be chosen is set."""
    if device_batch_tokens is not None:
        raise UsageError(
            f'--autotune chooses data.device_batch_tokens, which is set to {device_batch_tokens}; leave one out'
        )


def sizes(batch_tokens: int, max_len: int) -> list[int]:
    """Slots that one device could hold at a time, ascending: powers of two of rows that divide a step's, and all."""
    rows = batch_tokens // max_len
    powers = (2**i for i in range(rows.bit_length()))
    counts = {power for power in powers if not rows % power} | {rows}
    return [count * max_len for count in sorted(counts)[-_MOST_SIZES:]]


def chunk_sizes(max_len: int) -> list[int]:
    """Slots of a chunk of groups, ascending: all texts of a step are compared, whatever a chunk holds."""
    first = max(max_len, _LEAST_CHUNK)
    return [first * 2**i for i in range(_MOST_SIZES)]


def measure(config: Parsed, size: int, are_groups: bool = False) -> tuple[float, int]:
    """Seconds that a micro-batch of `size` slots takes, the shortest of a few, its data included.

    Args:
        are_groups: Whether the examples are groups: then it is a whole step, in chunks of `size` slots.

    Returns:
        The seconds, and the rows (chunks) of the last batch.

    Raises:
        UsageError: The run is to have several devices.
        RuntimeError: Among others, if memory runs out.
        SystemExit: A signal has ended it.
    """
    own = {'device_batch_tokens': size, 'max_source_epochs': None, 'held_out': None}
    if not are_groups:
        own['batch_tokens'] = 2 * size
    data = XLabDataModule(**settings.build_arguments(XLabDataModule, {**config['data'], **own}))
    task = settings.find_class(config['model']['class_path'])
    model = task(**settings.build_arguments(task, config['model'].get('init_args') or {}))
    values = {name: value for name, value in config['trainer'].items() if name in _KEPT}
    if values['max_steps'] > 0:
        values['max_steps'] = max(values['max_steps'], _WINDOWS + 1)
    stopwatch = _Stopwatch()
    stopping = Stopping()
    trainer = Trainer(
        **values,
        callbacks=[stopwatch, stopping],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=10**9,
    )
    if trainer.world_size > 1:
        raise UsageError(
            f'--autotune measures on one device, and the run has {trainer.world_size}; tune with --trainer.devices=1 '
            'and data.batch_tokens divided by their number, then set data.device_batch_tokens to what it finds'
        )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.fit(model, datamodule=data)
    if stopping.status:
        print('interrupted while it measured; nothing was trained', file=sys.stderr)
        raise SystemExit(stopping.status)
    return min(stopwatch.taken), stopwatch.n_rows


class _Stopwatch(L.Callback):
    """Takes the time of the first micro-batch of each optimizer step, and ends the run after a few.

    Where a step is one batch, that of the whole step, but for the first.
    """

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.n_rows = 0
        self._last = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, *_: object
    ) -> None:
        if pl_module.device.type == 'cuda':
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        is_first = not step_is_over(trainer) and trainer.global_step > 0
        is_whole = trainer.accumulate_grad_batches == 1 and trainer.global_step > 1
        if isinstance(batch, Batch):
            self.n_rows = len(batch.ids)
        if is_first or is_whole:
            self.taken.append(now - self._last)
        self._last = now
        if trainer.global_step >= _WINDOWS:
            trainer.should_stop = True
