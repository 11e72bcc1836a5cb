"""The peak FLOP/s of a device, the denominator of model FLOPs utilization (MFU)."""

import contextlib
import json
import math
import platform
import time
from pathlib import Path

import torch

from xlabml import artifacts

_DENSE_BF16 = (
    # Names as in torch.cuda.get_device_name; the first match counts. TFLOP/s of dense bf16 and fp16 matrices, half of
    # the data sheets' figures for sparse ones.
    ('GB200', 2500.0),  # NVIDIA Blackwell architecture brief: 5,000 sparse, at 1,200 W
    ('B200', 2250.0),  # the same: 4,500 sparse, HGX and DGX at 1,000 W
    ('H200 NVL', 835.5),  # H200 data sheet: 1,671 sparse
    ('H200', 989.4),  # the same, SXM: 1,979 sparse; also the GH200
    ('H100 NVL', 835.5),  # H100 data sheet: 1,671 sparse
    ('H100 PCIE', 756.0),  # the same: 1,513 sparse
    ('H100', 989.4),  # the same, SXM, whose name is "NVIDIA H100 80GB HBM3": 1,979 sparse
    ('A100', 312.0),  # A100 data sheet: 624 sparse, SXM and PCIe
)
_NARROW = (torch.bfloat16, torch.float16)


def known_tflops(name: str, dtype: torch.dtype) -> float | None:
    """The peak of a GPU by its name, for dense matrices in half precision; None: unknown."""
    return next((peak for part, peak in _DENSE_BF16 if part in name.upper()), None) if dtype in _NARROW else None


def find_tflops(device: torch.device, dtype: torch.dtype, cache: Path) -> tuple[float, str]:
    """A device's peak in TFLOP/s, and its origin: 'known' (from the data sheet) or 'measured'.

    Measurements are kept in `peaks.json` in the cache, by CPU, threads, precision and version of torch: delete that
    file if the machine was busy at the time.
    """
    name = device_name(device)
    known = known_tflops(name, dtype) if device.type == 'cuda' else None
    if known is not None:
        return known, 'known'
    path = cache / 'peaks.json'
    peaks = _read_peaks(path)
    threads = f', {torch.get_num_threads()} threads' if device.type == 'cpu' else ''
    key = f'{name}{threads}, {str(dtype).removeprefix("torch.")}, torch {torch.__version__}'
    if key not in peaks:
        peaks[key] = measure_tflops(device, dtype)
        with contextlib.suppress(OSError):  # a full or read-only cache: measured again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            artifacts.write_text(path, json.dumps(peaks, indent=1))
    return peaks[key], 'measured'


def _read_peaks(path: Path) -> dict[str, float]:
    """The stored measurements; {} if the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if type(value) is float and 0 < value < math.inf}


def measure_tflops(device: torch.device, dtype: torch.dtype, seconds: float = 0.1) -> float:
    """The fastest of several matrix products, in TFLOP/s.

    Args:
        seconds: Time to measure, for a few products at least.
    """
    best = 0.0
    for size in (512, 1024) if device.type == 'cpu' else (4096, 8192):
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        begin = time.perf_counter()
        n = 0
        while n < 4 or time.perf_counter() - begin < seconds / 2:
            synchronize(device)
            start = time.perf_counter()
            torch.mm(a, b)
            synchronize(device)
            best = max(best, 2e-12 * size**3 / (time.perf_counter() - start))
            n += 1
    return best


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


def device_name(device: torch.device) -> str:
    """The product name of the device."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    info = Path('/proc/cpuinfo')
    lines = info.read_text(encoding='utf-8').splitlines() if info.exists() else []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.processor() or platform.machine())
