"""Freed memory kept for the next step."""

import ctypes
import sys
from typing import Any

import lightning.pytorch as L

from xlabml.engine import Callback

# malloc.h of the GNU C library
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, up to 1 GiB at a time, instead of giving it back to the system.

    A step on a CPU takes and frees tens of megabytes, over and over. By default much of that is given back each time,
    and each of its pages is fetched and cleared anew. The process stays as large as its highest moment made it.

    Returns:
        Whether the C library listened: that of GNU does, others are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is None:
        return False
    # Either one alone turns off what the library has learned so far, and is worse than none. Old releases refuse more
    # than 32 MiB for this one.
    is_set = mallopt(_MMAP_THRESHOLD, _BYTES) or mallopt(_MMAP_THRESHOLD, 32 << 20)
    return bool(is_set and mallopt(_TRIM_THRESHOLD, _BYTES))


class Heap(Callback):
    """Keep freed memory, where the model runs on a CPU, until the process ends."""

    def setup(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if trainer.strategy.root_device.type == 'cpu':
            keep_freed_memory()
