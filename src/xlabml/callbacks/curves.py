"""The curves of a run: rows of figures, for its loggers and as JSON lines in the run's folder."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch.utils.hooks import RemovableHandle

from xlabml import checkpoints, paths
from xlabml.batches import Batch
from xlabml.engine import N_READ, Callback, Run, Task, step_is_over, watch_fetches
from xlabml.telemetry import peaks, records, spectra
from xlabml.telemetry.meter import Meter

from .run_events import describe_end, describe_start, precision_dtype

_SPECTRA_PER_RUN = 10
"""How often a run of known length computes spectra."""


class Curves(Callback):
    """Write the task's figures, learning rates, gradient norm, speed, memory, spectra and shares of sources.

    A training row covers all steps since the last row; figures of an evaluation are written at its step. Between rows
    nothing is read from the device. The last step of each row is timed part by part, with device synchronization.

    Args:
        every_n_steps: Steps between rows; None: `trainer.log_every_n_steps`.
        spectra_every_n_steps: Steps between computations of the weights' singular values, written with the next row;
            None: a tenth of the run, or 1000 where its length is unknown; 0: never.
        peak_tflops: Peak TFLOP/s of a device, the denominator of MFU; None: looked up for the GPU, else measured.

    Attributes:
        is_given_up: Whether writing a row has failed.
        folder: The run's folder, for the error message; None: unknown.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        spectra_every_n_steps: int | None = None,
        peak_tflops: float | None = None,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f'curves.every_n_steps is {every_n_steps}; it must be at least 1')
        if spectra_every_n_steps is not None and spectra_every_n_steps < 0:
            raise ValueError(f'curves.spectra_every_n_steps is {spectra_every_n_steps}; it must be 0 (never) or more')
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(f'curves.peak_tflops is {peak_tflops}; it must be above 0')
        self.every_n_steps = every_n_steps
        self.spectra_every_n_steps = spectra_every_n_steps
        self.peak_tflops = peak_tflops
        self.is_given_up = False
        self.folder: Path | None = None
        self._sums: dict[str, float] = {}
        self._n_tokens = self._n_timed = 0.0
        self._since = self._paused = 0.0
        self._rates: dict[str, float] = {}
        self._meter: Meter | None = None
        self._hooks: list[RemovableHandle] = []

    # The run

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        strategy = trainer.strategy
        peak = self._find_peak(trainer, pl_module)
        self._meter = meter = Meter(
            pl_module,
            pl_module.device,
            peak[0],
            trainer.world_size,
            lambda tensor: strategy.reduce(tensor, reduce_op='sum'),
            lambda tensor: strategy.reduce(tensor, reduce_op='max'),
        )
        watch_fetches(trainer, meter.clock.fetch, meter.clock.fetched)
        for optimizer in trainer.optimizers:
            self._hooks.append(optimizer.register_step_post_hook(lambda *_: meter.clock.enter('other')))
        if (folder := self._run_folder(trainer)) is not None:
            for name in (records.TRAINING, records.EVALUATION):
                with self._or_without():
                    records.drop_after(folder / name, trainer.global_step)
            with self._or_without():
                records.append(folder / records.EVENTS, describe_start(trainer, pl_module, meter.flops, *peak))
        self._n_timed = 0.0
        self._since = time.perf_counter()
        self._begin_step(trainer)

    def _find_peak(self, trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[float, str]:
        """Peak TFLOP/s of a device, and how they are known; rank 0 finds them for all."""
        if self.peak_tflops is not None:
            return self.peak_tflops, 'given'
        found = None
        if trainer.is_global_zero:
            dtype = precision_dtype(str(trainer.precision))
            found = peaks.find_tflops(pl_module.device, dtype, paths.cache_folder())
        shared = trainer.strategy.broadcast(found)
        assert shared is not None
        return shared

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._is_row(trainer, trainer.global_step):
            self._write_row(trainer, pl_module)
        self._end(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._meter is not None:
            self._end(trainer, exception)

    def _end(self, trainer: L.Trainer, error: BaseException | None = None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._meter = None
        if (folder := self._run_folder(trainer)) is not None:
            with self._or_without():
                records.append(folder / records.EVENTS, describe_end(trainer, error))

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        self._collect(pl_module)
        checkpoints.put_callback(checkpoint, self.state_key, sums=dict(self._sums), tokens=self._n_tokens)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        renamed = {'hits': 'correct'}  # the name in earlier checkpoints
        self._sums = {renamed.get(name, name): value for name, value in state_dict['sums'].items()}
        self._n_tokens = state_dict.get('tokens', 0.0)

    # Timing of the parts of a step

    def _begin_step(self, trainer: L.Trainer) -> None:
        if self._meter is not None and self._is_row(trainer, trainer.global_step + 1):
            self._meter.clock.start()

    def _enter(self, part: str) -> None:
        if self._meter is not None:
            self._meter.clock.enter(part)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        assert self._meter is not None
        # Read here, since the scheduler steps before the batch ends.
        if self._is_row(trainer, trainer.global_step + 1):
            groups = trainer.optimizers[0].param_groups
            self._rates = {group.get('name', str(i)): group['lr'] for i, group in enumerate(groups)}
        self._meter.count_batch(batch)
        self._enter('forward')

    def on_before_zero_grad(self, *_: object) -> None:
        self._enter('other')

    def on_before_backward(self, *_: object) -> None:
        self._enter('backward')

    def on_after_backward(self, *_: object) -> None:
        self._enter('other')

    def on_before_optimizer_step(self, *_: object) -> None:
        self._enter('optimizer')

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        assert self._meter is not None
        if not step_is_over(trainer):
            return
        task = Task.of(pl_module)
        limit = task.clip_limit if task.clip_limit is not None else trainer.gradient_clip_val or None
        self._meter.count_step(
            task.grad_norm,
            None if trainer.gradient_clip_algorithm == 'value' else limit,
        )
        if self._is_row(trainer, trainer.global_step):
            self._write_row(trainer, pl_module)
        self._begin_step(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._write_evaluation(trainer, pl_module, 'val')
        self._leave_out(time.perf_counter() - self._paused)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write_evaluation(trainer, pl_module, 'test')

    def _leave_out(self, seconds: float) -> None:
        """Leave time without training out of the speed."""
        self._since += seconds
        if self._meter is not None:
            self._meter.clock.leave_out(seconds)

    # Rows

    def _every(self, trainer: L.Trainer) -> int:
        return self.every_n_steps or Run.of(trainer).log_every_n_steps

    def _is_row(self, trainer: L.Trainer, step: int) -> bool:
        every = self._every(trainer)
        return bool(every) and step % every == 0

    def _collect(self, pl_module: L.LightningModule) -> None:
        fresh = Task.of(pl_module).take_train_sums()
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in fresh.items()}
        self._n_timed += fresh['count']
        self._n_tokens += fresh.get(N_READ, fresh['count'])

    def _write_row(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self._meter is not None
        task = Task.of(pl_module)
        run = Run.of(trainer)
        self._collect(pl_module)
        now = time.perf_counter()
        step = trainer.global_step
        if not self._meter.n_steps:
            return
        speed = self._meter.row(self._n_timed, now - self._since, task.counts_tokens)
        row = {'tokens': self._n_tokens, **speed}
        if self._sums['count']:  # none where all steps were skipped
            row |= {f'train_{name}': value for name, value in task.figures(self._sums).items()}
        row |= {f'learning_rate/{name}': rate for name, rate in self._rates.items()}
        if task.grad_norm is not None:
            row['gradient_norm'] = float(task.grad_norm)
        if task.clip_limit is not None:
            row['clip_limit'] = float(task.clip_limit)
        row['skipped_steps'] = float(task.skipped[1])
        first = max(0, step - 1) // max(1, self._every(trainer)) * self._every(trainer)
        if hasattr(run.data, 'source_shares'):
            shares = run.data.source_shares(first, step)
            row |= {f'share/{name}': share for name, share in shares.items()}
        if hasattr(run.data, 'pass_figures'):
            row |= run.data.pass_figures(step)
        if self._has_spectra(trainer, first, step):
            begin = time.perf_counter()
            row |= {f'spectra/{name}': value for name, value in spectra.summarize(pl_module).items()}
            now += time.perf_counter() - begin
        self._sums = {}
        self._n_timed = 0.0
        self._since = now
        run.newest_row = row
        self._write(trainer, row, step, records.TRAINING, row)

    def _has_spectra(self, trainer: L.Trainer, first: int, step: int) -> bool:
        """Whether a multiple of the spectra's interval is in the row, so that a resume has the same spectra."""
        every = self.spectra_every_n_steps
        if every is None:
            every = max(1, trainer.max_steps // _SPECTRA_PER_RUN) if trainer.max_steps > 0 else 1000
        return bool(every) and step // every > first // every

    def _write_evaluation(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        metrics = trainer.callback_metrics.items()
        figures = {name: float(value) for name, value in metrics if name.startswith(f'{split}_')}
        command = Run.of(trainer).command
        if command == 'fit':
            self._collect(pl_module)  # for the tokens so far
        step = trainer.global_step if command == 'fit' else Task.of(pl_module).checkpoint_step
        line = {'command': command, 'split': split, 'tokens': self._n_tokens if command == 'fit' else None, **figures}
        self._write(trainer, figures, step, records.EVALUATION, line)

    def _write(
        self, trainer: L.Trainer, row: dict[str, float], step: int, name: str, line: Mapping[str, object]
    ) -> None:
        for logger in trainer.loggers:
            with self._or_without():
                logger.log_metrics(row, step=step)
        if (folder := self._run_folder(trainer)) is not None:
            with self._or_without():
                records.append(folder / name, {'step': step, **line})

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        """Continue without curves where the disk refuses them: the weights matter more."""
        try:
            yield
        except OSError as error:
            self.give_up(error)

    def give_up(self, error: OSError) -> None:
        """Report, once, that rows are missing. Later rows are tried again, since the disk may have room by then."""
        if not self.is_given_up:
            self.is_given_up = True
            where = self.folder or 'the folder of the run'
            print(f'curves are not written to {where}: {error.strerror or error}', file=sys.stderr, flush=True)

    def _run_folder(self, trainer: L.Trainer) -> Path | None:
        """The folder that this process writes to; None: it does not write."""
        run = Run.of(trainer)
        if not trainer.is_global_zero or run.is_trial:
            return None
        folder = run.folder
        log_dir = trainer.log_dir if folder is None and trainer.loggers else folder
        return None if log_dir is None or '://' in str(log_dir) else Path(log_dir)
