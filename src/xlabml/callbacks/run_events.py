"""The events of a run in `run.jsonl`: its start, with a description, and its end."""

import shlex
import sys
from importlib import metadata

import lightning.pytorch as L
import torch

from xlabml.telemetry import peaks
from xlabml.telemetry.flops import TrainFlops


def describe_start(
    trainer: L.Trainer, module: L.LightningModule, flops: TrainFlops, tflops: float, how: str
) -> dict[str, object]:
    """The start of a run: task, sizes, hardware, length.

    Args:
        tflops: Peak TFLOP/s of a device.
        how: How they are known.
    """
    parameters = list(module.parameters())
    return {
        'event': 'start',
        'step': trainer.global_step,
        'max_steps': trainer.max_steps,
        'task': type(module).__name__,
        'units': dict(getattr(module, 'units', {})),
        'monitor': list(getattr(module, 'monitor', ())),
        'parameters': sum(p.numel() for p in parameters),
        'trained_parameters': sum(p.numel() for p in parameters if p.requires_grad),
        'token_flops': flops.per_token + flops.per_target,
        'device': peaks.device_name(module.device),
        'devices': trainer.world_size,
        'threads': torch.get_num_threads() if module.device.type == 'cpu' else None,
        'precision': str(trainer.precision),
        'peak_tflops': tflops,
        'peak_is': how,
        'torch': torch.__version__,
        'xlabml': metadata.version('xlabml'),
        'command_line': shlex.join(sys.argv),
    }


def describe_end(trainer: L.Trainer, error: BaseException | None = None) -> dict[str, object]:
    """The end of a run: finished, stopped before its last step, or an error."""
    step = trainer.global_step
    if error is not None:
        what = 'interrupted' if isinstance(error, KeyboardInterrupt) else f'{type(error).__name__}: {error}'
        return {'event': 'error', 'step': step, 'error': what}
    return {'event': 'finished' if 0 <= trainer.max_steps <= step else 'stopped', 'step': step}


def precision_dtype(precision: str) -> torch.dtype:
    """The dtype of matrix products in one of Lightning's precisions."""
    named = {'bf': torch.bfloat16, 'tr': torch.bfloat16, '16': torch.float16, '64': torch.float64}
    return named.get(precision[:2], torch.float32)
