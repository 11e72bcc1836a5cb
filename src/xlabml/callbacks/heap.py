"""Keep freed memory for the next step."""

import ctypes
import sys

import lightning.pytorch as L

from xlabml.engine import Callback

# malloc.h of the GNU C library
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory, in blocks up to 1 GiB, instead of returning it to the system.

    A step on a CPU allocates and frees tens of megabytes repeatedly. By default much of it is returned each time, and
    its pages must be mapped and cleared again. The process stays as large as its peak.

    Returns:
        Whether the C library supports it: GNU's does, others are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is None:
        return False
    # Setting only one of the two disables the library's dynamic thresholds, and is worse than neither. Old releases
    # refuse more than 32 MiB for this one.
    is_set = mallopt(_MMAP_THRESHOLD, _BYTES) or mallopt(_MMAP_THRESHOLD, 32 << 20)
    return bool(is_set and mallopt(_TRIM_THRESHOLD, _BYTES))


class Heap(Callback):
    """Keep freed memory, where the model runs on a CPU, until the process ends."""

    def setup(self, trainer: L.Trainer, *_: object, **__: object) -> None:
        if trainer.strategy.root_device.type == 'cpu':
            keep_freed_memory()
