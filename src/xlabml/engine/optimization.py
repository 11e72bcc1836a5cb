"""The optimization of a task: optimizer, schedule, clipping, and steps that are skipped."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import lightning.pytorch as L
import torch
from jaxtyping import Bool
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.amp import GradScaler
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from xlabml.training import AdaptiveClip, Muon, Schedule, ScheduledRate, parameter_groups
from xlabml.training.optimizers import keep_own_options

from .run import Run

_CLIP_EPS = 1e-6
"""What torch adds to the norm before it divides the limit by it."""

_TRIED_STEPS = 1_000_000
"""Length of the schedule under trainer.fast_dev_run, so long that any warmup fits."""


class Optimized(L.LightningModule):
    """A module with an optimizer, a schedule, clipping and guards.

    Attributes:
        optimizer: Makes the optimizer from parameter groups; a subclass sets it.
        schedule: Makes the schedule from the length of the run; a subclass sets it.
        horizon_tokens: Length of the schedule in tokens; None: the run's length.
        grad_norm: Norm of the last step's gradient before clipping; None before the first step.
        clip: Adaptive limit on the gradient's norm; None: `trainer.gradient_clip_val`.
        clip_limit: The last step's limit, if `clip` set it.
        step_is_empty: Whether the current step has no targets. An empty step changes neither weights (no weight decay
            either) nor the optimizer's state.
        skipped: Number of steps skipped because the loss or the gradient was not finite: consecutive ones up to now,
            and all.
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
        """Raise ValueError where the optimizer or the schedule refuses its settings, before a run begins.

        Args:
            max_steps: The run's length; -1: unknown.
        """
        with _named('model.optimizer'):
            self.build_optimizer()
        if self.horizon_tokens is not None and self.horizon_tokens < 1:
            raise ValueError(f'model.horizon_tokens is {self.horizon_tokens}; give 1 or more, or null for the run')
        if max_steps >= 0 and self.horizon_tokens is None:
            self.check_schedule(max_steps)

    def build_optimizer(self) -> Optimizer:
        """The optimizer over our parameter groups."""
        return self.optimizer(parameter_groups(self))

    def check_schedule(self, horizon: int | None) -> None:
        """Raise ValueError where the schedule refuses a length in steps; None: unknown."""
        with _named('model.schedule'):
            self.schedule(horizon)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer of our parameter groups, with a learning rate schedule by steps."""
        with _named('model.optimizer'):
            built = self.build_optimizer()
        keep_own_options(built)
        if Run.of(self.trainer).is_trial:
            horizon: int | None = _TRIED_STEPS
        else:
            horizon = self.find_horizon(self.trainer.max_steps, getattr(self.trainer, 'datamodule', None))
        with _named('model.schedule'):
            rate = ScheduledRate(built, self.schedule(horizon))
        return {'optimizer': built, 'lr_scheduler': {'scheduler': rate, 'interval': 'step'}}

    def find_horizon(self, max_steps: int, data: object) -> int | None:
        """The schedule's length in steps; None where the run's length is unknown and no other is set.

        Args:
            max_steps: The run's length; -1: unknown.
            data: The training data; an XLabDataModule converts tokens to steps.

        Raises:
            ValueError: The length is set in tokens, which the data cannot convert.
        """
        if self.horizon_tokens is None:
            return max_steps if max_steps >= 0 else None
        find_steps = getattr(data, 'steps_of_tokens', None)
        if find_steps is None:
            raise ValueError(
                f'model.horizon_tokens is {self.horizon_tokens}, but the data does not say how many tokens a step has; '
                'train on an XLabDataModule, which has data.batch_tokens, or leave it out'
            )
        return find_steps(self.horizon_tokens)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], object] | None = None,
    ) -> None:
        """Step the optimizer, on gradients that are unscaled right after the backward pass.

        Under 16-mixed the loss is scaled. Lightning lets torch's fused optimizers unscale the gradients in their step,
        but by then the norm has been measured and clipped.
        """
        scaler = self._find_scaler()
        own = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        if scaler is None or optimizer_closure is None or not getattr(own, '_step_supports_amp_scaling', False):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            return

        def unscaled() -> object:
            loss = optimizer_closure()
            if loss is not None:
                scaler.unscale_(own)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, unscaled)

    def _find_scaler(self) -> GradScaler | None:
        """The loss scaler of 16-mixed; None in other precisions."""
        return getattr(self.trainer.precision_plugin, 'scaler', None)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Record the gradient's norm, skip the step if it is not finite, and clip."""
        if self.step_is_empty:
            optimizer.zero_grad(set_to_none=True)
            self.count_step(torch.tensor(False))
            return
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.count_step(self._skip_unless_finite(optimizer))
        limit: float | Tensor | None = gradient_clip_val or None
        if self.clip is not None:
            if gradient_clip_algorithm == 'value':
                raise ValueError('model.clip limits a norm: leave out trainer.gradient_clip_algorithm, or model.clip')
            self.clip_limit = self.clip.limit(gradient_clip_val or None)
            limit = self.clip_limit
            self.clip.add(self.grad_norm)
        if limit is None:
            return
        if isinstance(limit, Tensor):
            # torch converts the limit to a number, which would wait for the device: compare norm / limit with 1.
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), 1.0, self.grad_norm / limit)
        elif gradient_clip_algorithm == 'value':
            torch.nn.utils.clip_grad_value_(self.parameters(), limit)
        elif not _is_asynchronous(self.grad_norm) and self.grad_norm + _CLIP_EPS <= limit:
            return  # torch would multiply all gradients by 1: a pass over memory
        else:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), limit, self.grad_norm)

    def count_step(self, is_skipped: Bool[Tensor, '']) -> None:
        """Add the sums of a whole step to the curves; called once per step, on all ranks.

        Args:
            is_skipped: Whether the step is skipped because its loss or gradient is not finite, on any rank.
        """

    def _skip_unless_finite(self, optimizer: Optimizer) -> Bool[Tensor, '']:
        """Skip the next optimizer step if the gradient, which all ranks share, is not finite.

        Muon and torch's fused optimizers take this as a tensor, `found_inf`, without a device synchronization.
        Otherwise (a scaler sets its own `found_inf`; a CPU needs no synchronization) the gradients are removed.

        Returns:
            Whether the step is skipped.
        """
        assert self.grad_norm is not None
        bad = ~self.grad_norm.isfinite()
        skipped = self.skipped.to(bad.device)
        self.skipped = torch.stack([(skipped[0] + 1) * bad, skipped[1] + bad])
        is_fused = getattr(optimizer, '_step_supports_amp_scaling', False)
        takes_found_inf = isinstance(optimizer, Muon) or (is_fused and self._find_scaler() is None)
        if (
            _is_asynchronous(bad)
            and takes_found_inf
            and not any(isinstance(parameter, DTensor) for parameter in self.parameters())
        ):
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        elif bad:
            optimizer.zero_grad(set_to_none=True)
        return bad


def _is_asynchronous(x: Tensor) -> bool:
    """Whether reading a number synchronizes with its device."""
    return x.device.type != 'cpu'


@contextlib.contextmanager
def _named(setting: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{setting}: {error}') from error
