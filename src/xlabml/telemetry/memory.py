"""How much memory a process takes."""

import resource
import sys
from pathlib import Path

import torch

MIB = 1 << 20


def memory_bytes(device: torch.device) -> tuple[int, int]:
    """What is taken now, and the most that was so far: by tensors on a GPU; on a CPU by the whole process."""
    if device.type == 'cuda':
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    # Linux counts the most in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    pages = Path('/proc/self/statm')
    now = int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else peak
    return now, max(now, peak)
