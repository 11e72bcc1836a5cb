"""Learning rate schedules: pure functions of the optimizer step, so that any step can be resumed.

Step s is the update that is about to be made, counted from 0; a run of `total_steps` makes steps 0 to total_steps - 1.
"""

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

DEFAULT_WARMUP_RATIO = 0.05


class Schedule:
    """A factor of the learning rate for every step: a linear warmup, then what the subclass says.

    Args:
        total_steps: How many steps the run makes; None where its end is not known (`trainer.max_time` alone).
        warmup_steps: The factor grows linearly from 1 / (warmup_steps + 1) at step 0 to 1 at step warmup_steps.
        warmup_ratio: The same as a share of total_steps. Neither given is 0.05 of them.
    """

    def __init__(
        self, total_steps: int | None, warmup_steps: int | None = None, warmup_ratio: float | None = None
    ) -> None:
        if warmup_steps is not None and warmup_ratio is not None:
            raise ValueError(f'warmup_steps is {warmup_steps} and warmup_ratio {warmup_ratio}; give one of them')
        if warmup_steps is not None and warmup_steps < 0:
            raise ValueError(f'warmup_steps is {warmup_steps}, it must be 0 or more')
        if warmup_ratio is not None and not 0 <= warmup_ratio <= 1:
            raise ValueError(f'warmup_ratio is {warmup_ratio}, it must lie in 0..1')
        if warmup_steps is None:
            if total_steps is None:
                raise ValueError('the length of the run is not known: set trainer.max_steps, or warmup_steps')
            warmup_steps = round((DEFAULT_WARMUP_RATIO if warmup_ratio is None else warmup_ratio) * total_steps)
        self.total_steps, self.warmup_steps = total_steps, warmup_steps

    def __call__(self, step: int) -> float:
        """The factor at a step."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """The factor at a step that is not before warmup_steps; 1 there."""
        return 1.0

    def progress(self, step: int) -> float:
        """How much of the way from the end of warmup to the run's last step is done, in 0..1."""
        if self.total_steps is None:
            raise ValueError(f'{type(self).__name__} needs the length of the run: set trainer.max_steps')
        return min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - 1 - self.warmup_steps))


class WarmupConstant(Schedule):
    """Linear warmup, then constant."""


class _Decay(Schedule):
    def __init__(
        self,
        total_steps: int | None,
        warmup_steps: int | None = None,
        warmup_ratio: float | None = None,
        end_ratio: float = 0.0,
    ) -> None:
        super().__init__(total_steps, warmup_steps, warmup_ratio)
        if not 0 <= end_ratio <= 1:
            raise ValueError(f'end_ratio is {end_ratio}, it must lie in 0..1')
        self.end_ratio = end_ratio
        self.progress(0)


class WarmupCosine(_Decay):
    """Linear warmup, then half a cosine down to end_ratio, which the last step reaches exactly.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5, without restarts.

    Args:
        end_ratio: The factor of the last step, in 0..1.
    """

    def after_warmup(self, step: int) -> float:
        return self.end_ratio + (1 - self.end_ratio) * (1 + math.cos(math.pi * self.progress(step))) / 2


class WarmupLinear(_Decay):
    """Linear warmup, then a line down to end_ratio, which the last step reaches exactly.

    Args:
        end_ratio: The factor of the last step, in 0..1.
    """

    def after_warmup(self, step: int) -> float:
        return 1 - (1 - self.end_ratio) * self.progress(step)


class InverseSquareRoot(Schedule):
    """Linear warmup, then the inverse square root of the step.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 5.3, scaled to a peak of 1.
    """

    def after_warmup(self, step: int) -> float:
        return math.sqrt((self.warmup_steps + 1) / (step + 1))


class ScheduledRate(LRScheduler):
    """A schedule at work on an optimizer, one call a step.

    After a resume the rates come from the optimizer's own settings, not from the checkpoint: what the user types now
    is what the optimizer uses.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        self.schedule = schedule
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of every parameter group at the step that comes next."""
        factor = self.schedule(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """How many steps were made; all else is a setting."""
        return {'last_epoch': self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to where the checkpoint stood, on this run's schedule and rates."""
        self.last_epoch = state_dict['last_epoch']
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group['lr'] = rate
        self._last_lr = [group['lr'] for group in self.optimizer.param_groups]
