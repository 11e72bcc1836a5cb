"""Features of the CPU that decide how something is computed."""

from typing import Literal

import torch

CpuKind = Literal['amx', 'avx512_bf16', 'other']
"""amx: bf16 tiles of AMX. avx512_bf16: bf16 products of AVX-512, without AMX (AMD EPYC since Genoa). other: neither."""


def cpu_kind() -> CpuKind:
    """How the CPU multiplies bf16; `other` also where this version of torch cannot tell."""
    if getattr(torch.cpu, '_is_amx_tile_supported', bool)():
        return 'amx'
    return 'avx512_bf16' if getattr(torch.cpu, '_is_avx512_bf16_supported', bool)() else 'other'
