"""What all tasks share: settings that a checkpoint can hold, the optimizer, clipping, and a place to go on from."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as L
import torch
from jaxtyping import Bool, Float
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from xlabml import checkpoints, settings
from xlabml.errors import SettingsError
from xlabml.finite import describe_nonfinite, find_nonfinite
from xlabml.strategies import shard
from xlabml.training import AdaptiveClip, Muon, Schedule, ScheduledRate, parameter_groups
from xlabml.training.optimizers import keep_own_options
from xlabml.transformer import Block
from xlabml.untrusted.building import building, naming
from xlabml.untrusted.matching import match_part

_TRIED_STEPS = 1_000_000
"""The length of the schedule under trainer.fast_dev_run, whose few steps try the code: any warmup fits into it."""

_Task = TypeVar('_Task', bound='Task')


class Task(L.LightningModule):
    """A model together with how it is trained.

    A subclass calls `super().__init__()` first thing in its constructor.

    Attributes:
        network: The module that is trained: a trunk with its head. `model`, its name in earlier versions, is an alias.
        optimizer: Makes what moves the weights, from parameter groups; a subclass sets it.
        schedule: Makes the factor of the learning rate, from the length of the run; a subclass sets it.
        horizon_tokens: The length that the schedule gets instead, in tokens; None: that of the run.
        grad_norm: The norm of the last step's gradient before clipping; None before the first step.
        clip: What limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        clip_limit: The last step's limit, where clip made it.
        step_is_empty: Whether the step under way asks for no target at all; a subclass sets it. Such a step changes
            nothing: no weight decays, no state of the optimizer moves.
        skipped: How many steps were skipped because the loss or the gradient was not finite: the last ones in a row,
            and all of them.
        checkpoint_step: How many optimizer steps the loaded checkpoint had seen; 0 where none was loaded.
    """

    network: nn.Module
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
        self.checkpoint_step = 0
        self._why_unsaveable = settings.keep_arguments(self)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__('network' if name == 'model' else name, value)

    @property
    def model(self) -> nn.Module:
        """An alias of `network`, for tasks that were written when it was the attribute's name."""
        return self.network

    def configure_model(self) -> None:
        """Cut the model over the ranks, where the strategy is `xlabml.strategies.Sharded`."""
        if self.device_mesh is None:
            return
        dtype = torch.bfloat16 if self.trainer.precision == 'bf16-mixed' else None
        for part in self.children():
            if any(True for _ in part.parameters()):
                shard(part, Block, self.device_mesh['data_parallel'], dtype)

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

    def figures(self) -> list[str] | None:
        """The names of what an evaluation gives, without `val_` and `test_`; None: the first one will show them."""
        return None

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer over our parameter groups, its rate scheduled by the step."""
        with _named('model.optimizer'):
            built = self.optimizer(parameter_groups(self))
        keep_own_options(built)
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
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
        scaler, own = self._find_scaler(), getattr(optimizer, 'optimizer', optimizer)
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

    @staticmethod
    def spoil_unless_finite(loss: Float[Tensor, '']) -> Float[Tensor, '']:
        """A loss that is not finite gets gradients that are NaN everywhere, so that all ranks see it in theirs."""
        return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the progress of Lightning's loops: the step alone says where a run stands.

        Raises:
            ValueError: This task was built from parts that no checkpoint can hold.
        """
        if self._why_unsaveable:
            raise ValueError(f'this {type(self).__name__} cannot be saved: {self._why_unsaveable}')
        guards: dict[str, Any] = {'skipped': self.skipped.tolist()}
        if self.clip is not None:
            guards['clip'] = self.clip.state_dict()
        checkpoints.put_task(checkpoint, self.describe_network(), guards)

    def describe_network(self) -> checkpoints.Part | None:
        """How the network is built without the task, kept in checkpoints; None: only the task can build it."""
        return None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's counters to the checkpoint's step, as a fresh epoch over the rows that are left.

        Nothing of the loops is saved, so that a run may go on with another accumulation or number of devices.

        Raises:
            ValueError: The weights do not fit this model (the settings that differ are named), or it is to be trained
                by another optimizer.
        """
        contents = checkpoints.Contents.of(checkpoint)
        self.check_weights(contents)
        self.checkpoint_step = contents.step
        if self._trainer is not None and self.trainer.state.fn == 'fit':
            self._check_optimizer(contents)
            self.skipped = torch.tensor(contents.guards.get('skipped', [0, 0]))
            if self.clip is not None and 'clip' in contents.guards:
                self.clip.load_state_dict(contents.guards['clip'])
            loop = self.trainer.fit_loop.epoch_loop
            step = loop.automatic_optimization.optim_progress.optimizer.step
            step.total.ready = step.total.completed = self.checkpoint_step
            loop._batches_that_stepped = self.checkpoint_step

    def _check_optimizer(self, checkpoint: checkpoints.Contents) -> None:
        saved, now = (
            (values.get('optimizer') or {}).get('class_path') for values in (checkpoint.task.arguments, self.hparams)
        )
        if saved != now:
            raise SettingsError(
                f'model.optimizer is {now}, but the checkpoint was trained by {saved}, whose state is of no use to it; '
                f'go on with {saved}, or start a new run'
            )

    def check_weights(self, checkpoint: checkpoints.Contents) -> None:
        """Raise ValueError if a checkpoint's weights do not fit, and name the settings that differ."""
        own = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        saved = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
        names = {**own, **saved}
        unfit = [name for name in names if own.get(name) != saved.get(name)]
        if unfit:
            changed = differences(checkpoint.task.settings(), checkpoints.Part.of(self.hparams).settings(), 'model')
            raise SettingsError(
                f'the checkpoint does not fit the model: {unfit[0]} is {saved.get(unfit[0], "not")} there and '
                f'{own.get(unfit[0], "not")} here ({len(unfit)} of {len(names)} weights differ). Settings that differ: '
                f'{"; ".join(changed) or "none that was saved"}. Leave them as they were, or start a new run'
            )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls: type[_Task], checkpoint_path: str | Path, map_location: Any = 'cpu', **overrides: Any
    ) -> _Task:
        """Build the task that a training checkpoint or an exported file holds, weights included.

        Args:
            checkpoint_path: Either kind of file.
            map_location: The device that it comes to.
            overrides: Constructor arguments to use instead of the saved ones.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no checkpoint of ours, or one of another task.
        """
        checkpoint = checkpoints.read(checkpoint_path, map_location)
        contents = checkpoints.Contents.of(checkpoint)
        with building(checkpoint_path, contents.weights):
            values = match_part(contents.task.settings(), Task, 'model')['init_args']
            found = settings.find_class(contents.task.class_path)
            if not issubclass(found, cls):
                raise ValueError(f'{checkpoint_path} holds a {found.__name__}, not a {cls.__name__}')
            model = found(**{**settings.build_arguments(found, values), **overrides})
        with naming(checkpoint_path):
            model.on_load_checkpoint(checkpoint)
            model.load_state_dict(contents.weights)
        if found_nonfinite := find_nonfinite(dict(model.named_parameters())):
            rank_zero_warn(f'{checkpoint_path} has weights that are not finite: {describe_nonfinite(found_nonfinite)}')
        return model.to(map_location)


def _has_to_wait(x: Tensor) -> bool:
    """Whether reading a number takes until its device has done all that it was given."""
    return x.device.type != 'cpu'


@contextlib.contextmanager
def _named(setting: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{setting}: {error}') from error


def differences(saved: Any, now: Any, name: str) -> list[str]:
    """Where two sets of settings differ, for people: `model.trunk.d_model was 16, is 32`."""
    if isinstance(saved, dict) and isinstance(now, dict):
        found = []
        for key in {**saved, **now}:
            path = name if key == 'init_args' else f'{name}.{key}'
            found += differences(saved.get(key), now.get(key), path)
        return found
    return [] if saved == now else [f'{name} was {saved}, is {now}']
