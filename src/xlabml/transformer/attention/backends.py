"""The attention backends, and what each of them supports.

All compute the same function; they differ in what they support, need and cost. `BACKENDS` is the one table behind the
choice (choice.py) and the error messages.
"""

import importlib.util
import inspect
import os
import shutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
import torch.nn.attention as torch_attention

Name = Literal['auto', 'plain', 'sdpa', 'varlen', 'flash_attn', 'flash', 'flash3', 'flash4', 'flex']
"""The values of trunk.attention."""

_HALF = (torch.bfloat16, torch.float16)
SHORT = {torch.bfloat16: 'bf16', torch.float16: 'fp16', torch.float32: 'fp32', torch.float64: 'fp64'}
"""Short names of dtypes, in messages."""


class Ask(NamedTuple):
    """What a layer needs of a backend in a pass.

    Args:
        causal: As in Rule.
        window: Whether there is a window.
        slopes: Whether scores fall with distance (ALiBi).
        score_cap: Whether scores are capped.
        grouped: Whether heads of queries share keys and values (GQA).
        dropout: Whether there is dropout on the probabilities, in this pass.
        d_head: Channels of a head.
        documents: Whether rows are packed.
        cache: Whether the pass has a cache.
        gradient: Whether a gradient is needed.
        device: Type of the device; None: not known yet, so nothing that depends on the machine is checked.
        dtype: Dtype of queries, keys and values; None: not known yet.
    """

    causal: bool
    window: bool
    slopes: bool
    score_cap: bool
    grouped: bool
    dropout: bool
    d_head: int
    documents: bool = False
    cache: bool = False
    gradient: bool = False
    device: str | None = None
    dtype: torch.dtype | None = None


class Backend(NamedTuple):
    """What a backend supports.

    Args:
        title: Its description.
        cannot: For each field of Ask that it does not support, the reason for messages.
        together: Two fields of Ask that it supports only separately.
        devices: Types of devices that it runs on; None: all.
        dtypes: Dtypes that it computes in; None: all.
        trains_on: Types of devices on which it has a backward pass; None: all of `devices`.
        heads: Minimum and maximum channels of a head on a CUDA device, and the divisor of their number.
        capability: Lowest and highest major compute capability of the CUDA device; None: any.
        missing: Returns what it lacks on this machine, given the type of the device; None: nothing.
    """

    title: str
    cannot: Mapping[str, str] = MappingProxyType({})
    together: tuple[str, str] | None = None
    devices: tuple[str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    trains_on: tuple[str, ...] | None = None
    heads: tuple[int, int, int] = (1, 1 << 30, 1)
    capability: tuple[int, int] | None = None
    missing: Callable[[str], str | None] = lambda device: None


_NO_CAP = {'score_cap': 'cannot cap scores (trunk.score_cap)'}
_NO_SLOPES = {'slopes': 'does not support slopes (trunk.positions ALiBi)'}
_NO_DROPOUT = {'dropout': 'has no dropout on probabilities (trunk.dropout with trunk.attn_drop)'}
_NO_CACHE = {'cache': 'does not support a cache'}


def _lacks_varlen(device: str) -> str | None:
    return (
        'this torch has no torch.nn.attention.varlen.varlen_attn with a window_size' if find_varlen() is None else None
    )


def _lacks_flash_attn(device: str) -> str | None:
    if importlib.util.find_spec('flash_attn') is None:
        return 'the package flash-attn is not installed (pip install xlabml[flash])'
    try:
        import flash_attn
    except (ImportError, OSError) as error:  # built for another torch
        return f'the package flash-attn does not load: {error}'
    return None if hasattr(flash_attn, 'flash_attn_varlen_func') else 'flash_attn has no flash_attn_varlen_func'


def _lacks_flash(impl: str, module: str) -> Callable[[str], str | None]:
    def lacks(device: str) -> str | None:
        known: list[str] = getattr(torch_attention, 'list_flash_attention_impls', list)()
        if impl not in known or not hasattr(torch_attention, 'activate_flash_attention_impl'):
            return f'this torch cannot activate {impl}'
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        return _lacks_varlen(device) if found else f'the module {module} of {impl} is not installed'

    return lacks


def _lacks_compiler(device: str) -> str | None:
    if device == 'cuda':
        return None if importlib.util.find_spec('triton') else 'the package triton is not installed'
    compiler = os.environ.get('CXX', 'g++')
    return None if shutil.which(compiler) else f'there is no C++ compiler: {compiler} is not found'


_FLASH = Backend('FlashAttention', devices=('cuda',), dtypes=_HALF, heads=(8, 256, 8))
BACKENDS: dict[str, Backend] = {
    'plain': Backend('the definition'),
    'sdpa': Backend("torch's scaled_dot_product_attention", _NO_CAP),
    'varlen': _FLASH._replace(
        title="torch's FlashAttention-2",
        cannot=_NO_CAP | _NO_SLOPES | _NO_DROPOUT | _NO_CACHE,
        capability=(8, 99),
        missing=_lacks_varlen,
    ),
    'flash_attn': _FLASH._replace(
        title='FlashAttention-2 of the package flash-attn',
        cannot=_NO_CACHE,
        together=('score_cap', 'dropout'),
        capability=(8, 99),
        missing=_lacks_flash_attn,
    ),
    'flash': _FLASH._replace(
        title='FlashAttention-3 or -4, activated in torch',
        cannot=_NO_CAP | _NO_SLOPES | _NO_DROPOUT | _NO_CACHE,
    ),
    'flex': Backend(
        "torch's FlexAttention",
        _NO_DROPOUT | _NO_CACHE,
        devices=('cpu', 'cuda'),
        dtypes=(*_HALF, torch.float32),
        trains_on=('cuda',),
        heads=(16, 256, 1),
        missing=_lacks_compiler,
    ),
}
VERSIONS: dict[str, Backend] = {
    'flash3': BACKENDS['flash']._replace(
        title='FlashAttention-3, activated in torch',
        capability=(9, 9),
        missing=_lacks_flash('FA3', 'flash_attn_interface'),
    ),
    'flash4': BACKENDS['flash']._replace(
        title='FlashAttention-4, activated in torch',
        capability=(9, 10),
        missing=_lacks_flash('FA4', 'flash_attn.cute'),
    ),
}
"""The versions of `flash`, which takes the first that is supported; each can be set by name as well.

They replace torch's own kernels for the whole process, so auto never takes them.
"""


def find_backend(name: str) -> Backend:
    """The entry of a backend, or of a version of one."""
    return VERSIONS.get(name) or BACKENDS[name]


def objection(name: str, ask: Ask) -> str | None:
    """Why a backend, or a version of one, does not support what a layer needs; None: it does, as far as is known."""
    if name == 'flash':
        reasons = {version: objection(version, ask) for version in VERSIONS}
        distinct = set(reasons.values())
        if None in distinct or len(distinct) == 1:
            return None if None in distinct else distinct.pop()
        return 'has no version that supports this: ' + ', '.join(
            f'{version} {reason}' for version, reason in reasons.items()
        )
    backend = find_backend(name)
    for field, reason in backend.cannot.items():
        if getattr(ask, field):
            return reason
    if backend.together and all(getattr(ask, field) for field in backend.together):
        return 'cannot cap scores and have dropout on probabilities at once (trunk.score_cap, trunk.dropout)'
    if ask.device is None:
        return None
    if backend.devices and ask.device not in backend.devices:
        return f'runs on {" and ".join(backend.devices)} only, not on {ask.device}'
    if backend.dtypes and ask.dtype is not None and ask.dtype not in backend.dtypes:
        wanted = ' or '.join(SHORT[dtype] for dtype in backend.dtypes)
        return f'computes in {wanted}, not in {SHORT.get(ask.dtype, ask.dtype)} (trainer.precision)'
    if ask.gradient and backend.trains_on and ask.device not in backend.trains_on:
        return f'has no gradient on {ask.device}'
    lacks = backend.missing(ask.device)
    if lacks is not None:
        return lacks
    if ask.device == 'cuda':
        low, high, divisor = backend.heads
        if not low <= ask.d_head <= high or ask.d_head % divisor:
            return (
                f'takes heads of {low} to {high} channels, multiples of {divisor}, not of {ask.d_head} '
                '(trunk.d_model over trunk.n_heads)'
            )
        if backend.capability:
            major, minor = _capability()
            if not backend.capability[0] <= major <= backend.capability[1]:
                wanted = ' to '.join(f'{one}.x' for one in sorted(set(backend.capability)) if one < 99)
                return f'needs a GPU of compute capability {wanted}, not {major}.{minor}'
    return None


def _capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability()


class Varlen(NamedTuple):
    """torch's varlen_attn, and what this release of it supports.

    Args:
        function: The function itself.
        has_groups: Whether heads of queries can share keys and values (GQA; torch 2.12 and later).
    """

    function: Callable
    has_groups: bool


def find_varlen() -> Varlen | None:
    """Find varlen_attn, whose arguments changed in every release; None: this torch has none with a window."""
    if not _varlen:  # not functools.cache, which torch.compile ignores: it would trace the inspection
        _varlen.append(_look_for_varlen())
    return _varlen[0]


_varlen: list[Varlen | None] = []


def _look_for_varlen() -> Varlen | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return Varlen(varlen_attn, 'enable_gqa' in known) if 'window_size' in known else None
