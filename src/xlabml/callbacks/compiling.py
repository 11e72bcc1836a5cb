"""Compiled models: torch.compile in place, and a watch over what it compiles again."""

import contextlib
import os
import shutil
import sys
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from xlabml.engine import Callback, Task


class Compiling(Callback):
    """Compile a task's model in place, for the shapes that it is given; warn where that has to be done again.

    Names in the state dict stay as they are. The first batch of training and the first of evaluation are compiled for,
    which takes a while; whatever is compiled again after those is a recompile: it is counted, and the first one
    reported with torch's reason. All of it happens before a strategy wraps the model.

    Args:
        backend: What torch.compile hands its graphs to.

    Attributes:
        n_recompiles: How often something was compiled again.
        n_compiled: How many pieces of code were compiled in all.
        seconds: What all of it took.

    Raises:
        ValueError: There is no C++ compiler, which torch's own backend needs.
    """

    def __init__(self, backend: str = 'inductor') -> None:
        if backend == 'inductor':
            check_compiler()
        self.backend = backend
        self.n_compiled = self.n_recompiles = 0
        self.seconds = 0.0
        self._seen: list[Any] = []
        self._warm: set[str] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._model(pl_module).compile(dynamic=False, backend=self.backend)
        self._seen = _measured()
        self._warm = set()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._look(trainer, 'train')

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._look(trainer, 'evaluate')

    def on_test_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._look(trainer, 'evaluate')

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what was compiled."""
        if trainer.is_global_zero:
            again = f'{self.n_recompiles} of them again, for other shapes' if self.n_recompiles else 'none of it again'
            bar = trainer.progress_bar_callback
            say = print if bar is None else bar.print
            say(f'compiled {self.n_compiled} pieces of code in {self.seconds:.1f} s, {again}')

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._model(pl_module)._compiled_call_impl = None

    @staticmethod
    def _model(pl_module: L.LightningModule) -> nn.Module:
        return Task.of(pl_module).network

    def _look(self, trainer: L.Trainer, stage: str) -> None:
        """Count what torch compiled since the last look."""
        now = _measured()
        if not now or (self._seen and now[-1] is self._seen[-1]):
            self._warm.add(stage)
            return
        known = {id(one) for one in self._seen}
        fresh = [one for one in now if id(one) not in known]
        self._seen = now
        self.seconds += sum(one.duration_us or 0 for one in fresh) / 1e6
        forward = [one for one in fresh if one.co_name is not None]  # a backward pass is compiled for its forward pass
        self.n_compiled += len(forward)
        if stage in self._warm and forward:
            if not self.n_recompiles:
                rank_zero_warn(
                    f'the model was compiled again at step {trainer.global_step}: {_reason(forward)}. Each such wait '
                    'costs time; give it batches of one shape, or set trainer.compile to false'
                )
            self.n_recompiles += len(forward)
        self._warm.add(stage)


def check_compiler() -> None:
    """Raise ValueError where there is no C++ compiler."""
    name = os.environ.get('CXX') or ('clang++' if sys.platform == 'darwin' else 'g++')
    if shutil.which(name) is None:
        raise ValueError(
            f'trainer.compile is true, but there is no C++ compiler: {name} is not found; install one, name one in the '
            'environment variable CXX, or set trainer.compile to false'
        )


def eagerly(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Within this, a compiled model runs as it is written: for calls whose shapes change from one to the next."""
    if model._compiled_call_impl is None:
        return contextlib.nullcontext()
    return torch.compiler.set_stance('force_eager')


def _measured() -> list[Any]:
    """What torch noted of the last things that it compiled, oldest first."""
    from torch._dynamo.utils import get_compilation_metrics

    return get_compilation_metrics()


def _reason(compiled: list[Any]) -> str:
    """The first reason that torch gives, in a line."""
    reasons = (one.recompile_reason for one in compiled if one.recompile_reason)
    return next(reasons, f'{compiled[0].co_name} is new').partition('\n')[0].strip()
