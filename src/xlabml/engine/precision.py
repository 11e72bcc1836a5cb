"""The default precision on this hardware."""

from typing import Literal

import torch

from xlabml.hardware import cpu_kind


def auto_precision(accelerator: object = 'auto') -> Literal['bf16-mixed', '32-true']:
    """bf16 where the hardware multiplies it natively, else fp32."""
    if accelerator in ('auto', 'gpu', 'cuda') and torch.cuda.is_available():
        return 'bf16-mixed' if torch.cuda.get_device_capability()[0] >= 8 else '32-true'
    if accelerator in ('auto', 'mps') and torch.backends.mps.is_available():
        return '32-true'
    return '32-true' if cpu_kind() == 'other' else 'bf16-mixed'
