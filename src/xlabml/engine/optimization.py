"""How a task is optimized: optimizer, schedule, clipping, and steps that change nothing because they cannot."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning.pytorch as L
import torch
from jaxtyping import Bool
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from xlabml.training import AdaptiveClip, Muon, Schedule, ScheduledRate, parameter_groups
from xlabml.training.optimizers import keep_own_options

from .run import Run

_TRIED_STEPS = 1_000_000
"""The length of the schedule under trainer.fast_dev_run, whose few steps try the code: any warmup fits into it."""


class Optimized(L.LightningModule):
    """A module with an optimizer, a schedule, clipping and guards.

    Attributes:
        optimizer: Makes the optimizer from parameter groups; a subclass sets it.
        schedule: Makes the factor of the learning rate from the length of the run; a subclass sets it.
        horizon_tokens: The length of the schedule in tokens; None: that of the run.
        grad_norm: The norm of the last step's gradient before clipping; None before the first step.
        clip: What limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        clip_limit: The last step's limit, where clip made it.
        step_is_empty: Whether the step under way counts nothing at all. An empty step changes nothing: no weight
            decays, no state of the optimizer moves.
        skipped: How many steps were skipped because the loss or the gradient was not finite: the last ones in a row,
            and all of them.
    """

    optimizer: Callable[[Iterable], Optimizer]
    schedule: Callable[[int | None], Schedule]

    def __init__(self) -> None:
        super().__init__()
        self.grad_norm: Tensor | None = None
        self.horizon_tokens: int | None = None
        self.clip: AdaptiveClip | None = None
        self.clip_limit: Tensor | None = None
        self.skipped = torch.zeros(2, dtype=torch.long)
        self.step_is_empty = False

    def check_training(self, max_steps: int) -> None:
        """Raise ValueError where optimizer or schedule are set to what they refuse, before a run begins.

        Args:
            max_steps: The run's length; -1: not known yet.
        """
        with _named('model.optimizer'):
            self.optimizer(parameter_groups(self))
        if self.horizon_tokens is not None and self.horizon_tokens < 1:
            raise ValueError(f'model.horizon_tokens is {self.horizon_tokens}; give 1 or more, or null for the run')
        if max_steps >= 0 and self.horizon_tokens is None:
            self.check_schedule(max_steps)

    def check_schedule(self, horizon: int | None) -> None:
        """Raise ValueError where the schedule refuses a length in steps; None: it is not known."""
        with _named('model.schedule'):
            self.schedule(horizon)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer over our parameter groups, its rate scheduled by the step."""
        with _named('model.optimizer'):
            built = self.optimizer(parameter_groups(self))
        keep_own_options(built)
        if Run.of(self.trainer).is_trial:
            horizon: int | None = _TRIED_STEPS
        else:
            horizon = self.find_horizon(self.trainer.max_steps, getattr(self.trainer, 'datamodule', None))
        with _named('model.schedule'):
            rate = ScheduledRate(built, self.schedule(horizon))
        return {'optimizer': built, 'lr_scheduler': {'scheduler': rate, 'interval': 'step'}}

    def find_horizon(self, max_steps: int, data: Any) -> int | None:
        """The schedule's length in steps; None where the run's is not known and no other is set.

        Args:
            max_steps: The run's length; -1: not known.
            data: What it trains on: an XLabDataModule knows how many steps some tokens take.

        Raises:
            ValueError: The length is set in tokens, and the data does not know.
        """
        if self.horizon_tokens is None:
            return max_steps if max_steps >= 0 else None
        find_steps = getattr(data, 'steps_of_tokens', None)
        if find_steps is None:
            raise ValueError(
                f'model.horizon_tokens is {self.horizon_tokens}, but the data does not say how many tokens a step has; '
                'train on an XLabDataModule, which knows data.batch_tokens, or leave it out'
            )
        return find_steps(self.horizon_tokens)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Let the optimizer step, on gradients that are true from the end of the backward pass on.

        Under 16-mixed the loss is scaled. Lightning leaves it to optimizers that can do so, torch's fused ones, to take
        the scale out of the gradients while they step, when these have been measured and clipped.
        """
        scaler = self._find_scaler()
        own = getattr(optimizer, 'optimizer', optimizer)
        if scaler is None or optimizer_closure is None or not getattr(own, '_step_supports_amp_scaling', False):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            return

        def unscaled() -> Any:
            loss = optimizer_closure()
            if loss is not None:
                scaler.unscale_(own)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, unscaled)

    def _find_scaler(self) -> Any:
        """What scales the loss under 16-mixed; None where nothing does."""
        return getattr(self.trainer.precision_plugin, 'scaler', None)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, keep the norm that the gradient had before, and let a step be skipped whose gradient is not finite."""
        if self.step_is_empty:
            optimizer.zero_grad(set_to_none=True)
            self.count_step(torch.tensor(False))
            return
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.count_step(self._skip_unless_finite(optimizer))
        limit: Any = gradient_clip_val or None
        if self.clip is not None:
            if gradient_clip_algorithm == 'value':
                raise ValueError('model.clip limits a norm: leave out trainer.gradient_clip_algorithm, or model.clip')
            limit = self.clip_limit = self.clip.limit(limit)
            self.clip.add(self.grad_norm)
        if limit is None:
            return
        if gradient_clip_algorithm == 'value':
            torch.nn.utils.clip_grad_value_(self.parameters(), limit)
        elif isinstance(limit, Tensor):
            # torch makes a number of the limit, which would wait for the device: the ratio to it is held against 1.
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), 1.0, self.grad_norm / limit)
        else:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), limit, self.grad_norm)

    def count_step(self, is_skipped: Bool[Tensor, '']) -> None:
        """Take the step's sums into the curves, all of its micro-batches or none; called once a step, on all ranks.

        Args:
            is_skipped: Whether the step changes nothing because its loss or gradient is not finite, on any rank.
        """

    def _skip_unless_finite(self, optimizer: Optimizer) -> Bool[Tensor, '']:
        """Make the step that follows change nothing if the gradient is not finite: the same on all ranks, who share it.

        Muon, and torch's fused optimizers, take the news as a tensor, so that nothing waits for the device. Where a
        scaler gives fused ones its own in place of ours, or there is nothing to wait for, the gradients go.

        Returns:
            Whether it is not.
        """
        assert self.grad_norm is not None
        bad = ~self.grad_norm.isfinite()
        skipped = self.skipped.to(bad.device)
        self.skipped = torch.stack([(skipped[0] + 1) * bad, skipped[1] + bad])
        is_fused = getattr(optimizer, '_step_supports_amp_scaling', False)
        takes_news = isinstance(optimizer, Muon) or (is_fused and self._find_scaler() is None)
        if (
            _has_to_wait(bad)
            and takes_news
            and not any(isinstance(parameter, DTensor) for parameter in self.parameters())
        ):
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        elif bad:
            optimizer.zero_grad(set_to_none=True)
        return bad


def _has_to_wait(x: Tensor) -> bool:
    """Whether reading a number takes until its device has done all that it was given."""
    return x.device.type != 'cpu'


@contextlib.contextmanager
def _named(setting: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{setting}: {error}') from error
