"""The ways to compute attention: what each can do, which one is taken, and why.

All compute the same function; they differ in what they support, need and cost. `BACKENDS` is the one table from which
both the choice and the refusals come.

What a setting alone forbids is refused when the trunk is built; what a machine lacks, at the first pass, since a
checkpoint from one machine must open on another. A pass with a cache (decoding, no gradient) is short of work for the
kernels made for training: it takes `sdpa`, or `plain` where that is set or scores are capped, whatever is asked for.
"""

import functools
import importlib.util
import inspect
import os
import shutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.attention as torch_attention

Name = Literal['auto', 'plain', 'sdpa', 'varlen', 'flash_attn', 'flash3', 'flash4', 'flex']

_HALF = (torch.bfloat16, torch.float16)
_SHORT = {torch.bfloat16: 'bf16', torch.float16: 'fp16', torch.float32: 'fp32', torch.float64: 'fp64'}


class Ask(NamedTuple):
    """What a layer asks of a pass.

    Args:
        causal: As in Rule.
        window: Whether there is one.
        slopes: Whether scores fall with distance (ALiBi).
        score_cap: Whether scores are capped.
        grouped: Heads of queries share keys and values.
        dropout: Whether probabilities are dropped, in this pass.
        d_head: Channels of a head.
        documents: Rows are packed.
        cache: Keys and values are kept.
        gradient: A gradient is wanted.
        device: Type of the device; None: not known yet, nor is all that depends on the machine.
        dtype: What queries, keys and values are held in; None: not known yet.
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
    """What a way to compute attention can do.

    Args:
        title: What it is.
        cannot: For each field of Ask that it does not support, how to say so.
        together: Two fields of Ask that it supports one at a time.
        devices: Types of devices that it runs on; None: all.
        dtypes: What it computes in; None: everything.
        trains_on: Types of devices on which it has a gradient; None: all of devices.
        heads: The fewest and most channels of a head that it takes on a CUDA device, and what divides them.
        capability: Lowest and highest major compute capability of the CUDA device; None: any.
        missing: Says what it lacks on this machine, given the type of the device; None: it lacks nothing.
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
_NO_SLOPES = {'slopes': 'knows no slopes (trunk.positions ALiBi)'}
_NO_DROPOUT = {'dropout': 'cannot drop from probabilities (trunk.dropout with trunk.attn_drop)'}
_NO_CACHE = {'cache': 'takes no cache'}


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


_FLASH = {'devices': ('cuda',), 'dtypes': _HALF, 'heads': (8, 256, 8)}
BACKENDS: dict[str, Backend] = {
    'plain': Backend('as it is defined'),
    'sdpa': Backend("torch's scaled_dot_product_attention", _NO_CAP),
    'varlen': Backend(
        "torch's FlashAttention-2",
        _NO_CAP | _NO_SLOPES | _NO_DROPOUT | _NO_CACHE,
        capability=(8, 99),
        missing=_lacks_varlen,
        **_FLASH,  # type: ignore[arg-type]
    ),
    'flash_attn': Backend(
        'FlashAttention-2 of the package flash-attn',
        _NO_CACHE,
        together=('score_cap', 'dropout'),
        capability=(8, 99),
        missing=_lacks_flash_attn,
        **_FLASH,  # type: ignore[arg-type]
    ),
    'flash3': Backend(
        'FlashAttention-3, activated in torch',
        _NO_CAP | _NO_SLOPES | _NO_DROPOUT | _NO_CACHE,
        capability=(9, 9),
        missing=_lacks_flash('FA3', 'flash_attn_interface'),
        **_FLASH,  # type: ignore[arg-type]
    ),
    'flash4': Backend(
        'FlashAttention-4, activated in torch',
        _NO_CAP | _NO_SLOPES | _NO_DROPOUT | _NO_CACHE,
        capability=(9, 10),
        missing=_lacks_flash('FA4', 'flash_attn.cute'),
        **_FLASH,  # type: ignore[arg-type]
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
"""FlashAttention-3 and -4 replace torch's own kernels for the whole process, so only who asks for them gets them."""


def objection(name: str, ask: Ask) -> str | None:
    """Why a backend cannot do what is asked; None: it can, as far as is known."""
    backend = BACKENDS[name]
    for field, reason in backend.cannot.items():
        if getattr(ask, field):
            return reason
    if backend.together and all(getattr(ask, field) for field in backend.together):
        return 'cannot cap scores and drop from probabilities at once (trunk.score_cap, trunk.dropout)'
    if ask.device is None:
        return None
    if backend.devices and ask.device not in backend.devices:
        return f'runs on {" and ".join(backend.devices)} only, not on {ask.device}'
    if backend.dtypes and ask.dtype is not None and ask.dtype not in backend.dtypes:
        wanted = ' or '.join(_SHORT[dtype] for dtype in backend.dtypes)
        return f'computes in {wanted}, not in {_SHORT.get(ask.dtype, ask.dtype)} (trainer.precision)'
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


class Choice(NamedTuple):
    """A backend, and why it was taken."""

    name: str
    reason: str


@torch.compiler.disable  # it looks at files
def choose(wanted: str, ask: Ask) -> Choice:
    """Take the backend that is wanted, or with auto the fastest that can do what is asked.

    Raises:
        ValueError: The one that is wanted cannot.
    """
    return _choose(wanted, ask)


@functools.lru_cache(maxsize=1024)
def _choose(wanted: str, ask: Ask) -> Choice:
    if ask.cache and wanted != 'auto':
        wanted = 'plain' if wanted == 'plain' or ask.score_cap else 'sdpa'
    passed: list[str] = []
    for name in _order(ask) if wanted == 'auto' else [wanted]:
        reason = objection(name, ask)
        if reason is None:
            kind = 'packed rows' if ask.documents else 'rows'
            said = [kind, _SHORT.get(ask.dtype, str(ask.dtype)) if ask.dtype else '', _title(name)]
            return Choice(name, '; '.join([', '.join(word for word in said if word), *passed]))
        passed.append(f'{name} {reason}')
    raise ValueError(
        f'trunk.attention {wanted} {reason}; set trunk.attention to auto, which takes what can, or change the other'
    )


def check(wanted: str, ask: Ask) -> None:
    """Refuse, when a trunk is built, a backend that its other settings forbid on any machine.

    Raises:
        ValueError: It is not known, or the settings forbid it.
    """
    if wanted not in get_args(Name):
        raise ValueError(f'trunk.attention is {wanted!r}; choose one of {", ".join(get_args(Name))}')
    choose(wanted, ask)


@torch.compiler.assume_constant_result
def take(wanted: str, *ask: bool | int | str | torch.dtype) -> str:
    """The name of `choose(wanted, Ask(*ask))`, ready to be called. While compiling it is asked once, as a constant."""
    name = choose(wanted, Ask(*ask)).name  # type: ignore[arg-type]
    if name in _IMPLS and torch_attention.current_flash_attention_impl() != _IMPLS[name]:
        torch_attention.activate_flash_attention_impl(_IMPLS[name])
    return name


_IMPLS = {'flash3': 'FA3', 'flash4': 'FA4'}


def _order(ask: Ask) -> list[str]:
    """From the fastest to the one that always works."""
    is_bent = ask.documents or ask.window or ask.slopes or ask.score_cap
    if ask.device == 'cuda' and is_bent and not ask.cache:
        return ['varlen', 'flash_attn', 'flex', 'sdpa', 'plain']
    return ['sdpa', 'plain']


def _title(name: str) -> str:
    current = getattr(torch_attention, 'current_flash_attention_impl', lambda: None)()
    if name == 'varlen' and current is not None:
        return f'{current}, activated in torch'
    return BACKENDS[name].title


def _capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability()


class Varlen(NamedTuple):
    """torch's varlen_attn, and how this release wants to be told.

    Args:
        function: The function itself.
        has_groups: It takes heads of queries that share keys and values (torch 2.12 and later).
    """

    function: Callable
    has_groups: bool


def find_varlen() -> Varlen | None:
    """Look for varlen_attn, whose arguments changed in every release; None: this torch has none that will do."""
    if not _varlen:  # no functools.cache, which compilers do not heed: they would look at the signature again
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
