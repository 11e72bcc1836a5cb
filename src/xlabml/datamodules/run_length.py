"""The arithmetic of a run: what a step sees, how it is dealt to devices and micro-batches, and how long a run is."""

from typing import Any, NamedTuple

from xlabml.data import Doubling
from xlabml.engine import set_length
from xlabml.errors import SettingsError


class StepSize(NamedTuple):
    """What one optimizer step sees, and what of it one device holds at a time.

    Args:
        max_len: Slots in a row.
        batch_tokens: Slots that one step sees, over all devices: a multiple of max_len.
        device_batch_tokens: Slots that one device holds at a time, a multiple of max_len; None: its whole share.
        world: How many devices there are.
        first_batch_tokens: Slots that the first step sees, doubled until it is batch_tokens; None: batch_tokens.
        batch_warmup_steps: The first step of batch_tokens.
        first_len: Slots that a document's part of a row has at most in the first step, doubled until it is max_len;
            None: max_len.
        len_warmup_steps: The first step of max_len.
    """

    max_len: int
    batch_tokens: int
    device_batch_tokens: int | None
    world: int
    first_batch_tokens: int | None = None
    batch_warmup_steps: int = 0
    first_len: int | None = None
    len_warmup_steps: int = 0

    @property
    def rows(self) -> int:
        """Rows of one step, over all devices, once the warm-up is over."""
        return self.batch_tokens // self.max_len

    @property
    def rows_per_step(self) -> Doubling:
        """Rows of each step, over all devices."""
        first = self.batch_tokens if self.first_batch_tokens is None else self.first_batch_tokens
        return Doubling(first // self.max_len, self.rows, self.batch_warmup_steps)

    @property
    def longest(self) -> Doubling:
        """The most slots that a document's part of a row has at each step."""
        return Doubling(self.first_len or self.max_len, self.max_len, self.len_warmup_steps)

    @property
    def rows_per_batch(self) -> int:
        """Rows of one micro-batch of one device, once the warm-up is over."""
        slots = self.batch_tokens // self.world if self.device_batch_tokens is None else self.device_batch_tokens
        return max(1, slots // self.max_len)

    @property
    def accumulation(self) -> int:
        """Micro-batches of one step on one device.

        Raises:
            ValueError: The rows of a step cannot be dealt out evenly.
        """
        per_round = self.rows_per_batch * self.world
        if self.rows % per_round:
            raise SettingsError(
                f'data.batch_tokens is {self.batch_tokens}, {self.rows} rows of {self.max_len}, which cannot be dealt '
                f'to {self.world} device(s) in batches of {self.rows_per_batch} rows; make it a multiple of '
                f'{per_round * self.max_len}, or set data.device_batch_tokens to a divisor'
            )
        n_batches = self.rows // per_round * self.world
        if self.rows_per_step.start % n_batches:
            raise SettingsError(
                f'data.first_batch_tokens is {self.first_batch_tokens}, {self.rows_per_step.start} rows of '
                f'{self.max_len}, which cannot be dealt to the {n_batches} batches of a step on {self.world} '
                f'device(s); make it {n_batches * self.max_len} or more, or make data.device_batch_tokens larger'
            )
        return self.rows // per_round

    def steps(self, n_rows: int) -> int:
        """How many steps from the first one on so many rows take, the last one begun and finished."""
        return self.rows_per_step.reach(n_rows)

    def rows_between(self, step: int, end: int) -> int:
        """How many rows the steps from step to end - 1 take."""
        return self.rows_per_step.before(end) - self.rows_per_step.before(step)


class Loading(NamedTuple):
    """How batches are loaded.

    Args:
        num_workers: Processes that make batches; 0: the training process itself.
        pin_memory: Whether batches for a GPU are made in pinned memory.
    """

    num_workers: int
    pin_memory: bool


def set_run_length(trainer: Any, accumulation: int, max_steps: int) -> None:
    """Tell Lightning's trainer its micro-batches a step and its steps; data epochs are the order's business.

    Raises:
        ValueError: The trainer's own settings say something else.
    """
    if trainer.accumulate_grad_batches != 1:
        raise SettingsError(
            f'trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but accumulation follows from '
            'data.batch_tokens and data.device_batch_tokens; leave it out and set those'
        )
    for name, neutral in (('limit_train_batches', (None, 1.0)), ('overfit_batches', (0, 0.0))):
        value = getattr(trainer, name)
        if value not in neutral and not trainer.fast_dev_run:
            raise SettingsError(f'trainer.{name} is {value}; the length of a run is trainer.max_steps, set that')
    set_length(trainer, accumulation, max_steps)
