"""The arithmetic of a run: what a step sees, how it is dealt to devices and micro-batches, and how long a run is."""

import math
from typing import NamedTuple

import lightning.pytorch as L

from xlabml.engine import set_length
from xlabml.errors import SettingsError


class StepSize(NamedTuple):
    """What one optimizer step sees, and what of it one device holds at a time: rows, sized in tokens.

    The rest of the room reads `per_step`, `per_batch`, `accumulation` and `steps` alone, which count examples.

    Args:
        max_len: Slots in a row.
        batch_tokens: Slots that one step sees, over all devices: a multiple of max_len.
        device_batch_tokens: Slots that one device holds at a time, a multiple of max_len; None: its whole share.
        world: How many devices there are.
    """

    max_len: int
    batch_tokens: int
    device_batch_tokens: int | None
    world: int = 1

    @property
    def per_step(self) -> int:
        """Rows of one step, over all devices."""
        return self.batch_tokens // self.max_len

    @property
    def per_batch(self) -> int:
        """Rows of one micro-batch of one device."""
        slots = self.batch_tokens // self.world if self.device_batch_tokens is None else self.device_batch_tokens
        return max(1, slots // self.max_len)

    @property
    def accumulation(self) -> int:
        """Micro-batches of one step on one device.

        Raises:
            SettingsError: The rows of a step cannot be dealt out evenly.
        """
        per_round = self.per_batch * self.world
        if self.per_step % per_round:
            raise SettingsError(
                f'data.batch_tokens is {self.batch_tokens}, {self.per_step} rows of {self.max_len}, which cannot be '
                f'dealt to {self.world} device(s) in batches of {self.per_batch} rows; make it a multiple of '
                f'{per_round * self.max_len}, or set data.device_batch_tokens to a divisor'
            )
        return self.per_step // per_round

    def steps(self, n_examples: int) -> int:
        """The number of steps that read n_examples, the last one whole."""
        return math.ceil(n_examples / self.per_step)

    def steps_of_tokens(self, n_tokens: int) -> int:
        """The number of steps that see n_tokens slots, the last one whole."""
        return math.ceil(n_tokens / self.batch_tokens)


class GroupSize(NamedTuple):
    """What one optimizer step sees where examples are groups: a batch on each device, whatever it holds at a time.

    Args:
        batch_groups: Groups of one step, over all devices.
        world: How many devices there are.
    """

    batch_groups: int
    world: int = 1

    @property
    def per_step(self) -> int:
        """Groups of one step, over all devices."""
        return self.batch_groups

    @property
    def per_batch(self) -> int:
        """Groups of the batch of one device.

        Raises:
            SettingsError: The groups of a step cannot be dealt out evenly.
        """
        if self.batch_groups % self.world:
            raise SettingsError(
                f'data.batch_groups is {self.batch_groups}, which cannot be dealt to {self.world} devices; make it a '
                f'multiple of {self.world}, such as {max(1, round(self.batch_groups / self.world)) * self.world}'
            )
        return self.batch_groups // self.world

    @property
    def accumulation(self) -> int:
        """1: the texts of a step are compared with one another, so that none of them may come later."""
        return self.batch_groups // self.world // self.per_batch

    def steps(self, n_examples: int) -> int:
        """The number of steps that read n_examples, the last one whole."""
        return math.ceil(n_examples / self.batch_groups)

    def steps_of_tokens(self, n_tokens: int) -> int:
        """Not known: groups have texts of any length."""
        raise SettingsError(
            f'{n_tokens:,} tokens are no number of steps here: a step is counted in groups (data.batch_groups); give a '
            'length in steps'
        )


class MixedSize(NamedTuple):
    """What one optimizer step sees where each is of one of several formats: rows or groups, a batch on each device.

    Args:
        max_len: Slots in a row.
        batch_tokens: Slots of a step of rows, over all devices: a multiple of max_len.
        batch_groups: Groups of a step of groups, over all devices.
        uses: Which formats there are: of rows, of groups.
        world: How many devices there are.
    """

    max_len: int
    batch_tokens: int
    batch_groups: int
    uses: tuple[bool, bool]
    world: int = 1

    @property
    def per_step(self) -> int:
        """Places of one step: as many as the larger of its kinds has examples, the others leave some empty."""
        rows, groups = self.uses
        return max(self.batch_tokens // self.max_len * rows, self.batch_groups * groups)

    @property
    def per_batch(self) -> int:
        """Places of the batch of one device.

        Raises:
            SettingsError: The rows or the groups of a step cannot be dealt out evenly.
        """
        sizes = (('batch_tokens', self.batch_tokens, self.max_len), ('batch_groups', self.batch_groups, 1))
        for is_used, (name, size, each) in zip(self.uses, sizes):
            if is_used and size // each % self.world:
                raise SettingsError(
                    f'data.{name} is {size}, which cannot be dealt to {self.world} devices; make it a multiple of '
                    f'{self.world * each}'
                )
        return self.per_step // self.world

    @property
    def accumulation(self) -> int:
        """1: a device has its share of a step in one batch, and computes it chunk by chunk."""
        return self.per_step // self.world // self.per_batch

    def steps(self, n_examples: int) -> int:
        """The number of steps that read n_examples places, the last one whole."""
        return math.ceil(n_examples / self.per_step)

    def steps_of_tokens(self, n_tokens: int) -> int:
        """Not known: steps of several formats see other numbers of tokens."""
        raise SettingsError(
            f'{n_tokens:,} tokens are no number of steps where steps are of several formats (FormatMixture); give a '
            'length in steps'
        )


class Loading(NamedTuple):
    """How batches are loaded.

    Args:
        num_workers: Processes that make batches; 0: the training process itself.
        pin_memory: Whether batches for a GPU are made in pinned memory.
    """

    num_workers: int
    pin_memory: bool


def set_run_length(trainer: L.Trainer, accumulation: int, max_steps: int) -> None:
    """Tell Lightning's trainer its micro-batches a step and its steps; data epochs are the order's business.

    Raises:
        SettingsError: The trainer's own settings say something else.
    """
    if trainer.accumulate_grad_batches != 1:
        raise SettingsError(
            f'trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but accumulation follows from '
            'data.batch_tokens and data.device_batch_tokens; leave it out and set those'
        )
    is_trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # Lightning's property has no annotation
    for name, neutral in (('limit_train_batches', (None, 1.0)), ('overfit_batches', (0, 0.0))):
        value = getattr(trainer, name)
        if value not in neutral and not is_trial:
            raise SettingsError(f'trainer.{name} is {value}; the length of a run is trainer.max_steps, set that')
    set_length(trainer, accumulation, max_steps)
