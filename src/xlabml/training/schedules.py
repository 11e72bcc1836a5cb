"""Learning rate schedules: pure functions of the optimizer step, so that a run resumes at any step.

Step s is the next update, counted from 0; a run of `total_steps` has steps 0 to total_steps - 1. A decay ends at step
total_steps, after the run, so the last step, total_steps - 1, still trains (as in torch's CosineAnnealingLR and in
Hugging Face's schedules). The factor is 1 at step warmup_steps, the end of the warmup.
"""

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_DEFAULT_RATIOS = {'warmup': 0.05, 'cooldown': 0.4, 'peak': 0.05, 'period': 0.1}
"""Ratios of the run's length, where neither steps nor a ratio is set."""


def _length(total_steps: int | None, name: str, steps: int | None, ratio: float | None) -> float:
    """A number of steps, set directly or as a ratio of the run; not rounded yet."""
    if steps is not None and ratio is not None:
        raise ValueError(f'{name}_steps is {steps} and {name}_ratio is {ratio}; give one of them')
    if steps is not None:
        if steps < 0:
            raise ValueError(f'{name}_steps is {steps}; give 0 or more')
        return float(steps)
    share = _DEFAULT_RATIOS[name] if ratio is None else _checked(f'{name}_ratio', ratio)
    if total_steps is None:
        raise ValueError(f'the length of the run is unknown; set trainer.max_steps, or {name}_steps')
    return share * total_steps


def _checked(name: str, ratio: float) -> float:
    """A ratio, checked to lie in 0..1."""
    if not 0 <= ratio <= 1:
        raise ValueError(f'{name} is {ratio}; give a ratio from 0 to 1')
    return ratio


class Schedule:
    """A factor of the learning rate for every step: a linear warmup, then the subclass's curve.

    Args:
        total_steps: Number of steps of the run; None where it is unknown (`trainer.max_time` alone).
        warmup_steps: The factor grows linearly from 1 / (warmup_steps + 1) at step 0 to 1 at step warmup_steps.
        warmup_ratio: The same as a ratio of total_steps; 0.05 if neither is set.
    """

    def __init__(
        self, total_steps: int | None, warmup_steps: int | None = None, warmup_ratio: float | None = None
    ) -> None:
        self._warmup_length = _length(total_steps, 'warmup', warmup_steps, warmup_ratio)
        self.total_steps = total_steps
        self.warmup_steps = round(self._warmup_length)

    def __call__(self, step: int) -> float:
        """The factor at a step."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """The factor at a step from warmup_steps on; 1 at warmup_steps."""
        return 1.0

    def progress(self, step: int) -> float:
        """Progress from the end of the warmup (0) to the end of the run (1), before a step."""
        if self.total_steps is None:
            raise ValueError(f'{type(self).__name__} needs the length of the run; set trainer.max_steps')
        return _share(step - self.warmup_steps, self.total_steps - self.warmup_steps)


def _share(done: int, whole: int) -> float:
    """Progress through `whole` steps, in 0..1; 1 if there are none."""
    return min(1.0, max(0.0, done / whole)) if whole > 0 else float(done >= 0)


class WarmupConstant(Schedule):
    """Linear warmup, then constant."""


class _Decay(Schedule):
    """A schedule that decays to end_ratio; its phases must fit into the run."""

    def __init__(
        self,
        total_steps: int | None,
        warmup_steps: int | None = None,
        warmup_ratio: float | None = None,
        end_ratio: float = 0.0,
    ) -> None:
        super().__init__(total_steps, warmup_steps, warmup_ratio)
        self.end_ratio = _checked('end_ratio', end_ratio)
        self.progress(0)
        self._fit()

    def _fit(self, name: str = '', length: float = 0.0) -> int:
        """The steps of a phase after the warmup.

        Raises:
            ValueError: Warmup and phase are longer than the run.
        """
        assert self.total_steps is not None
        # Ratios that sum to 1 fit, however they are rounded: two halves of 3 steps are 2 and 1.
        if min(self._warmup_length + length, self.warmup_steps + round(length)) > self.total_steps + 1e-6:
            parts = f'a warmup of {self.warmup_steps} steps' + (f' and a {name} of {round(length)}' if name else '')
            verb, which = ('do', 'one of them') if name else ('does', 'it')
            raise ValueError(
                f'{parts} {verb} not fit into {self.total_steps}; shorten {which}, or make the run longer '
                '(trainer.max_steps)'
            )
        return min(round(length), self.total_steps - self.warmup_steps)


class WarmupCosine(_Decay):
    """Linear warmup, then half a cosine down to end_ratio, which is reached after the last step.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5, without restarts.

    Args:
        end_ratio: The factor after the last step, in 0..1.
    """

    def after_warmup(self, step: int) -> float:
        return self.end_ratio + (1 - self.end_ratio) * (1 + math.cos(math.pi * self.progress(step))) / 2


class WarmupLinear(_Decay):
    """Linear warmup, then a line down to end_ratio, which is reached after the last step.

    Args:
        end_ratio: The factor after the last step, in 0..1.
    """

    def after_warmup(self, step: int) -> float:
        return 1 - (1 - self.end_ratio) * self.progress(step)


class WarmupStableDecay(_Decay):
    """Linear warmup, constant, and a cool-down at the end (WSD); a run can be extended from before the cool-down.

    Source: Hu et al. 2024, https://arxiv.org/abs/2404.06395, section 4; the shape 1 - sqrt(x): Haegele et al. 2024,
    https://arxiv.org/abs/2405.18392, section 3.

    Args:
        end_ratio: The factor after the last step, in 0..1.
        cooldown_steps: Number of steps of the cool-down: the factor is 1 before the first of them, and end_ratio after
            the last. With 0, all steps after the warmup have 1.
        cooldown_ratio: The same as a ratio of total_steps; 0.4 if neither is set.
        cooldown: Its shape, with x from 0 to 1: `sqrt` is 1 - sqrt(x), `linear` 1 - x, `cosine` half a cosine.
    """

    def __init__(
        self,
        total_steps: int | None,
        warmup_steps: int | None = None,
        warmup_ratio: float | None = None,
        end_ratio: float = 0.0,
        cooldown_steps: int | None = None,
        cooldown_ratio: float | None = None,
        cooldown: Literal['sqrt', 'linear', 'cosine'] = 'linear',
    ) -> None:
        super().__init__(total_steps, warmup_steps, warmup_ratio, end_ratio)
        if cooldown not in _SHAPES:
            raise ValueError(f'cooldown is {cooldown!r}; choose {", ".join(_SHAPES)}')
        self.cooldown = cooldown
        self.cooldown_steps = self._fit('cool-down', _length(total_steps, 'cooldown', cooldown_steps, cooldown_ratio))

    def after_warmup(self, step: int) -> float:
        assert self.total_steps is not None
        x = _share(step - (self.total_steps - self.cooldown_steps), self.cooldown_steps)
        return self.end_ratio + (1 - self.end_ratio) * _SHAPES[self.cooldown](x)


_SHAPES: dict[str, Callable[[float], float]] = {
    'sqrt': lambda x: 1 - math.sqrt(x),
    'linear': lambda x: 1 - x,
    'cosine': lambda x: (1 + math.cos(math.pi * x)) / 2,
}


class Trapezoid(_Decay):
    """A line up from start_ratio, a plateau at 1, and a line down to end_ratio at the end of the run.

    Args:
        end_ratio: The factor after the last step, in 0..1.
        start_ratio: The factor of step 0, in 0..1 (with 0 that step has no effect); None: as in a linear warmup.
        peak_steps: Number of steps after the warmup during which the factor stays 1.
        peak_ratio: The same as a ratio of total_steps; 0.05 if neither is set.
    """

    def __init__(
        self,
        total_steps: int | None,
        warmup_steps: int | None = None,
        warmup_ratio: float | None = None,
        end_ratio: float = 0.0,
        start_ratio: float | None = None,
        peak_steps: int | None = None,
        peak_ratio: float | None = None,
    ) -> None:
        super().__init__(total_steps, warmup_steps, warmup_ratio, end_ratio)
        self.start_ratio = None if start_ratio is None else _checked('start_ratio', start_ratio)
        self.peak_steps = self._fit('peak', _length(total_steps, 'peak', peak_steps, peak_ratio))

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps and self.start_ratio is not None:
            return self.start_ratio + (1 - self.start_ratio) * step / self.warmup_steps
        return super().__call__(step)

    def after_warmup(self, step: int) -> float:
        assert self.total_steps is not None
        top = self.warmup_steps + self.peak_steps
        return 1 - (1 - self.end_ratio) * _share(step - top, self.total_steps - top)


class Stepped(Schedule):
    """Linear warmup, then step decay: each period multiplies the factor by `decay`.

    Args:
        end_ratio: Lower bound of the factor, in 0..1.
        decay: Multiplier of the factor after each period, in 0..1.
        period_steps: Length of a period, counted from the end of the warmup.
        period_ratio: The same as a ratio of total_steps; 0.1 if neither is set.
    """

    def __init__(
        self,
        total_steps: int | None,
        warmup_steps: int | None = None,
        warmup_ratio: float | None = None,
        end_ratio: float = 0.0,
        decay: float = 0.5,
        period_steps: int | None = None,
        period_ratio: float | None = None,
    ) -> None:
        super().__init__(total_steps, warmup_steps, warmup_ratio)
        self.end_ratio = _checked('end_ratio', end_ratio)
        self.decay = _checked('decay', decay)
        self.period_steps = max(1, round(_length(total_steps, 'period', period_steps, period_ratio)))

    def after_warmup(self, step: int) -> float:
        return max(self.end_ratio, self.decay ** ((step - self.warmup_steps) // self.period_steps))


class InverseSquareRoot(Schedule):
    """Linear warmup, then the inverse square root of the step.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 5.3, scaled to a peak of 1.
    """

    def after_warmup(self, step: int) -> float:
        return math.sqrt((self.warmup_steps + 1) / (step + 1))


class ScheduledRate(LRScheduler):
    """Applies a schedule to an optimizer, one call per step.

    After a resume the learning rates come from the optimizer's settings, not from the checkpoint.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        self.schedule = schedule
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of each parameter group at the next step."""
        factor = self.schedule(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, int]:
        """The number of steps; all else is settings."""
        return {'last_epoch': self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the step of a checkpoint, with this run's schedule and learning rates."""
        self.last_epoch = state_dict['last_epoch']
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group['lr'] = rate
        self._last_lr = [group['lr'] for group in self.optimizer.param_groups]
