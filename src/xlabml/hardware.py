"""What the processor can do, where that decides how something is computed."""

from typing import Literal

import torch

CpuKind = Literal['amx', 'avx512_bf16', 'other']
"""amx: it has AMX's tiles of bf16. avx512_bf16: it has AVX-512's products of bf16, but no AMX (AMD's EPYC since Genoa).
other: neither."""


def cpu_kind() -> CpuKind:
    """How the processor multiplies bf16; `other` too where this version of torch cannot tell."""
    if getattr(torch.cpu, '_is_amx_tile_supported', bool)():
        return 'amx'
    return 'avx512_bf16' if getattr(torch.cpu, '_is_avx512_bf16_supported', bool)() else 'other'
