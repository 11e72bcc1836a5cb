"""Compile models with torch.compile in place, and report recompilations."""

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from xlabml.engine import Callback, Run, Task

if TYPE_CHECKING:
    from torch._dynamo.utils import CompilationMetrics
else:
    CompilationMetrics = object  # importing it takes seconds


_LEAST_FLOPS = 3e14
"""Floating-point operations of training from which `auto` compiles: half an hour at 170 GFLOP/s, as two cores reach.

Compiling for training and evaluation takes about a minute, and saves 6 to 8 % of a step. It is a fixed number,
so that a run that resumes is compiled as it was.
"""


class Compiling(Callback):
    """Compile a task's model in place, for static shapes; warn about recompilations.

    Names in the state dict stay unchanged. The first batch of training and the first of evaluation compile the model,
    which takes a while; each later compilation is a recompilation: it is counted, and the first one is reported with
    torch's reason. The model is compiled before a strategy wraps it.

    Args:
        backend: Backend of torch.compile.
        is_auto: Compile only where that pays (`pays`).

    Attributes:
        is_active: Whether the model is compiled.
        n_recompiles: Number of recompilations.
        n_compiled: Number of code objects compiled, recompilations included.
        seconds: Total time of compilation.

    Raises:
        ValueError: There is no C++ compiler, which torch's default backend needs.
    """

    def __init__(self, backend: str = 'inductor', is_auto: bool = False) -> None:
        if backend == 'inductor' and not is_auto:
            check_compiler()
        self.backend = backend
        self.is_auto = is_auto
        self.is_active = not is_auto
        self.n_compiled = self.n_recompiles = 0
        self.seconds = 0.0
        self._seen: list[CompilationMetrics] = []
        self._warm: set[str] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.is_auto:
            self.is_active = stage == 'fit' and pays(trainer, Task.of(pl_module))
        if not self.is_active:
            return
        self._model(pl_module).compile(dynamic=False, backend=self.backend)
        self._seen = _measured()
        self._warm = set()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._check(trainer, 'train')

    def on_validation_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._check(trainer, 'evaluate')

    def on_test_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._check(trainer, 'evaluate')

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print what was compiled."""
        if self.is_active and trainer.is_global_zero:
            bar = trainer.progress_bar_callback
            say = print if bar is None else bar.print
            say(
                f'compiled {self.n_compiled} code objects in {self.seconds:.1f} s, '
                f'{self.n_recompiles or "none"} of them recompilations'
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.is_active:
            self._model(pl_module)._compiled_call_impl = None

    @staticmethod
    def _model(pl_module: L.LightningModule) -> nn.Module:
        return Task.of(pl_module).network

    def _check(self, trainer: L.Trainer, stage: str) -> None:
        """Count what torch compiled since the last check."""
        if not self.is_active:
            return
        now = _measured()
        if not now or (self._seen and now[-1] is self._seen[-1]):
            self._warm.add(stage)
            return
        known = {id(one) for one in self._seen}
        fresh = [one for one in now if id(one) not in known]
        self._seen = now
        self.seconds += sum(one.duration_us or 0 for one in fresh) / 1e6
        forward = [one for one in fresh if one.co_name is not None]  # backward passes are compiled with these
        self.n_compiled += len(forward)
        if stage in self._warm and forward:
            if not self.n_recompiles:
                rank_zero_warn(
                    f'the model was recompiled at step {trainer.global_step}: {_reason(forward)}. Recompilation costs '
                    'time; use batches of one shape, or set trainer.compile to false'
                )
            self.n_recompiles += len(forward)
        self._warm.add(stage)


def pays(trainer: L.Trainer, task: Task) -> bool:
    """Whether compiling saves more time than it takes: a long run on one CPU process, on batches of one shape, where
    there is a C++ compiler."""
    tokens = getattr(Run.of(trainer).data, 'batch_tokens', None)
    if tokens is None or trainer.max_steps < 0 or Run.of(trainer).is_trial or not task.has_one_shape:
        return False
    if trainer.strategy.root_device.type != 'cpu' or trainer.world_size > 1 or not _has_compiler():
        return False
    n_parameters = sum(parameter.numel() for parameter in task.network.parameters())
    return 6 * n_parameters * tokens * trainer.max_steps >= _LEAST_FLOPS


def _compiler() -> str:
    return os.environ.get('CXX') or ('clang++' if sys.platform == 'darwin' else 'g++')


def _has_compiler() -> bool:
    return shutil.which(_compiler()) is not None


def check_compiler() -> None:
    """Raise ValueError where there is no C++ compiler."""
    if not _has_compiler():
        name = _compiler()
        raise ValueError(
            f'trainer.compile is true, but there is no C++ compiler: {name} is not found; install one, name one in the '
            'environment variable CXX, or set trainer.compile to false'
        )


def eagerly(model: nn.Module) -> contextlib.AbstractContextManager[object]:
    """A context in which a compiled model runs eagerly, for calls whose shapes change each time."""
    if model._compiled_call_impl is None:
        return contextlib.nullcontext()
    return torch.compiler.set_stance('force_eager')


def _measured() -> list[CompilationMetrics]:
    """Torch's records of the last compilations, oldest first."""
    from torch._dynamo.utils import get_compilation_metrics

    return get_compilation_metrics()


def _reason(compiled: list[CompilationMetrics]) -> str:
    """Torch's first reason for a recompilation, one line."""
    reasons = (one.recompile_reason for one in compiled if one.recompile_reason)
    return next(reasons, f'{compiled[0].co_name} is new').partition('\n')[0].strip()
