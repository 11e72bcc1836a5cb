"""A script, given a folder to build in: what runs on a GPU, on tensors with a CUDA device and without numbers.

torch's fake tensors raise where a number is read, where devices are mixed, and where an operator does not take what it
is given; the compiler, where a graph breaks. A build of torch for CPUs lacks one piece, which this registers: a device
guard that does nothing. A backward pass needs a device, so that of torch's FlashAttention-2 runs on the meta device.
"""

import functools
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from xlabml import inference
from xlabml.batches import Batch, Layout
from xlabml.engine import Task
from xlabml.evaluation import Sums
from xlabml.heads import LanguageModel, language_model
from xlabml.heads.classifier import CumulativeLink
from xlabml.telemetry import spectra
from xlabml.telemetry.flops import TrainFlops
from xlabml.training import AdamW, Muon, parameter_groups
from xlabml.transformer import ALiBi, Transformer
from xlabml.transformer.attention import Documents, Rule, backends
from xlabml.transformer.attention.choice import make_pass

DEVICE = torch.device('cuda:0')
REFUSED = ('cumsum', 'median', 'histc', 'put_', 'bincount')
"""What torch refuses on a GPU where algorithms have to be deterministic: see use_deterministic_algorithms."""
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl { C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>) }
"""


def register_guard(folder: Path) -> None:
    """Let operators on a CUDA device be called without one."""
    source, library, torch_folder = folder / 'guard.cpp', folder / 'guard.so', Path(torch.__file__).parent
    source.write_text(GUARD, encoding='utf-8')
    flags = ['-std=c++20', '-O0', '-shared', '-fPIC', f'-I{torch_folder}/include']
    subprocess.run(['g++', *flags, source, '-o', library, f'-L{torch_folder}/lib', '-lc10'], check=True)
    torch.ops.load_library(library)


class Refusing(TorchDispatchMode):
    """Raises at what is refused in deterministic runs."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op.name().partition('::')[2].partition('.')[0]
        if name in REFUSED and args[0].device.type == 'cuda' and args[0].dtype.is_floating_point:
            raise RuntimeError(f'{op.name()} on a GPU is refused in a deterministic run')
        return op(*args, **(kwargs or {}))


def move(module: nn.Module, dtype: torch.dtype) -> None:
    """Put fake parameters of a type on the device (the weights of a layer in bf16, as under autocast)."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = nn.Parameter(torch.empty(value.shape, device=DEVICE, dtype=dtype))
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, device=DEVICE, dtype=value.dtype)


def make_model(dtype: torch.dtype, **options) -> LanguageModel:
    model = language_model(512, 64, functools.partial(Transformer, d_model=64, n_layers=2, n_heads=4, **options))
    move(model, dtype)
    return model


def make_batch() -> tuple[torch.Tensor, Layout]:
    ids = torch.zeros(2, 64, dtype=torch.long, device=DEVICE)
    starts = torch.empty(9, dtype=torch.int32, device=DEVICE)
    return ids, Layout(starts, 64, torch.ones(8, dtype=torch.bool, device=DEVICE))


def try_passes() -> None:
    """Every way to compute attention, as it is and compiled, without a break in the graph."""
    asked = {'varlen': {}, 'sdpa': {'positions': ALiBi}, 'plain': {'score_cap': 5.0}}
    for name, options in asked.items():
        for window in (None, 9):
            for n_kv_heads in (4, 2):
                model = make_model(
                    torch.bfloat16, attention=name, window=window, n_kv_heads=n_kv_heads, qk_norm=True, **options
                ).train()
                ids, layout = make_batch()
                calls = [model]
                if window is not None and n_kv_heads == 2:
                    calls.append(torch.compile(model, backend='eager', dynamic=False, fullgraph=True))
                for call in calls:
                    for documents in (layout, None):
                        sums = call(ids, documents, targets=ids)
                        assert sums.objective.device == DEVICE
                        assert sums.objective.dtype == torch.float32
                        assert sums.objective.requires_grad
                torch._dynamo.reset()


def try_backward() -> None:
    """The gradient of torch's varlen_attn, as it is called here."""
    starts = torch.empty(9, dtype=torch.int32, device='meta')
    segment = torch.empty(2, 64, dtype=torch.int32, device='meta')
    for n_kv_heads in (4, 2):
        for rule in (Rule(), Rule(causal=False), Rule(window=9), Rule(causal=False, window=1)):
            for documents in (Documents(starts, 64, None, segment, None), None):
                heads = 4, n_kv_heads, n_kv_heads
                packed = torch.empty(2, 64, sum(heads), 16, dtype=torch.bfloat16, device='meta', requires_grad=True)
                mixed = make_pass('varlen', rule, documents, (2, 64), starts.device).attend(*packed.split(heads, dim=2))
                assert mixed.shape == (2, 64, 4, 16)
                mixed.sum().backward()
                assert packed.grad is not None


class Stepping(Task):
    """A task whose gradients are made by hand."""

    def loss(self, batch: Batch) -> Sums:
        raise NotImplementedError


def try_step() -> None:
    """Clipping, skipping and the optimizers; what a row of the curves counts."""
    for make in (Muon, AdamW):
        task = Stepping()
        task._step_sums = torch.empty(3, dtype=torch.float64, device=DEVICE)
        task._find_scaler = lambda: None  # type: ignore[method-assign]
        task.network = make_model(torch.float32)
        optimizer = make(parameter_groups(task))
        for _ in range(2):
            for parameter in task.parameters():
                parameter.grad = torch.empty_like(parameter)
            task.configure_gradient_clipping(optimizer, 1.0)
            assert optimizer.found_inf.device == DEVICE
            optimizer.step()
        counts = TrainFlops(task)
        counts.add(*make_batch())
        assert counts.take(DEVICE).device == DEVICE


def try_generating() -> None:
    """A step of decoding, sampling from it, and the spectra, where algorithms have to be deterministic."""
    torch.use_deterministic_algorithms(True)
    try:
        with torch.no_grad(), Refusing():
            for dtype in (torch.float32, torch.bfloat16):
                model = make_model(dtype).eval()
                cache = model.new_cache(2, 16)
                model(torch.zeros(2, 8, dtype=torch.long, device=DEVICE), cache=cache)
                logits = model(torch.zeros(2, 1, dtype=torch.long, device=DEVICE), cache=cache)[:, -1]
                for options in ({}, {'top_p': 0.9}, {'top_k': 5, 'top_p': 0.9}):
                    uniform = torch.empty(2, dtype=torch.float64, device=DEVICE)
                    probabilities, ids = inference.sampling.truncate(logits, options.get('top_k'), options.get('top_p'))
                    drawn = inference.sampling.draw(probabilities, ids, uniform)
                    assert drawn.device == DEVICE
            values = torch.empty(3, 16, dtype=torch.float64, device=DEVICE)
            assert spectra.figures(values).device == DEVICE
    finally:
        torch.use_deterministic_algorithms(False)


def try_thresholds() -> None:
    """The thresholds of an ordinal classifier, where algorithms have to be deterministic."""
    torch.use_deterministic_algorithms(True)
    try:
        with Refusing():
            head = CumulativeLink(4)
            move(head, torch.float32)
            assert head(torch.empty(3, 1, device=DEVICE)).device == DEVICE
    finally:
        torch.use_deterministic_algorithms(False)


def main() -> None:
    register_guard(Path(sys.argv[1]))
    lacks_nothing = {'missing': lambda device: None}
    backends._capability = lambda: (9, 0)
    backends.BACKENDS['varlen'] = backends.BACKENDS['varlen']._replace(**lacks_nothing)
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    warnings.simplefilter('error')
    warnings.filterwarnings('ignore', '.*should not be instantiated', DeprecationWarning)  # torch 2.13 warns of itself
    with FakeTensorMode(allow_non_fake_inputs=False):
        for call in (try_passes, try_backward, try_step, try_generating, try_thresholds):
            print(call.__name__, file=sys.stderr)
            call()


if __name__ == '__main__':
    main()
