"""The memory in use by the process."""

import resource
import sys
from pathlib import Path

import torch

MIB = 1 << 20


def memory_bytes(device: torch.device) -> tuple[int, int]:
    """Current and peak memory in bytes: of tensors on a GPU; of the whole process on a CPU."""
    if device.type == 'cuda':
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    # Linux reports the peak in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    pages = Path('/proc/self/statm')
    now = int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else peak
    return now, max(now, peak)
