"""The choice of the attention backend of each layer, its reason, and the passes made of it.

What a setting alone forbids is refused when the trunk is built; what the machine lacks, at the first pass, since a
checkpoint from one machine must open on another. A pass with a cache (decoding, no gradient) has too little work for
the training kernels: it takes `sdpa`, or `plain` where that is set or scores are capped, whatever the setting.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict, get_args

import torch
import torch.nn.attention as torch_attention
from jaxtyping import Float
from torch import Tensor

from .backends import SHORT, VERSIONS, Ask, Name, find_backend, objection
from .cache import Cache
from .cached import CachePass, FillPass
from .compiled_documents import OperatorPass
from .definition import Pass, Rule
from .documents import DocumentsPass, describe_way
from .kernels import FlashAttnPass, FlexPass, VarlenPass, find_rows
from .masked import MaskedPass, RowsPass
from .places import Documents, Place

_IMPLS = {'flash3': 'FA3', 'flash4': 'FA4'}
"""Torch's names of the implementations that it can activate."""


class _Known(TypedDict, total=False):
    """What is known of a pass, besides the rule; the fields are those of Ask."""

    documents: bool
    cache: bool
    gradient: bool
    device: str
    dtype: torch.dtype


class Choice(NamedTuple):
    """A backend, and the reason for its choice."""

    name: str
    reason: str


@torch.compiler.disable  # it reads files
def choose(wanted: str, ask: Ask) -> Choice:
    """Choose the backend that is set, or with auto the fastest that supports what a layer needs.

    Raises:
        ValueError: The one that is set does not support it.
    """
    return _choose(wanted, ask)


@functools.lru_cache(maxsize=1024)
def _choose(wanted: str, ask: Ask) -> Choice:
    if ask.cache and wanted != 'auto':
        wanted = 'plain' if wanted == 'plain' or ask.score_cap else 'sdpa'
    passed: list[str] = []
    for name in _candidates(wanted, ask):
        reason = objection(name, ask)
        if reason is None:
            kind = 'packed rows' if ask.documents else 'rows'
            said = [kind, SHORT.get(ask.dtype, str(ask.dtype)) if ask.dtype else '', _title(name)]
            return Choice(name, '; '.join([', '.join(word for word in said if word), *passed]))
        passed.append(f'{name} {reason}')
    raise ValueError(
        f'trunk.attention {wanted} {objection(wanted, ask)}; set trunk.attention to auto, which takes a backend that '
        'can, or change the other setting'
    )


def _candidates(wanted: str, ask: Ask) -> list[str]:
    """Backends from the fastest to the slowest; the last one of auto supports everything."""
    if wanted == 'flash':
        return list(VERSIONS)
    if wanted != 'auto':
        return [wanted]
    is_bent = ask.documents or ask.window or ask.slopes or ask.score_cap
    if ask.device == 'cuda' and is_bent and not ask.cache:
        return ['varlen', 'flash_attn', 'flex', 'sdpa', 'plain']
    return ['sdpa', 'plain']


def _title(name: str) -> str:
    current = getattr(torch_attention, 'current_flash_attention_impl', lambda: None)()
    if name == 'varlen' and current is not None:
        return f'{current}, activated in torch'
    return find_backend(name).title


def check(wanted: str, ask: Ask) -> None:
    """Refuse, when a trunk is built, a backend that does not support its other settings on any machine.

    Raises:
        ValueError: The backend is unknown, or does not support the other settings.
    """
    if wanted not in get_args(Name):
        raise ValueError(f'trunk.attention is {wanted!r}; choose one of {", ".join(get_args(Name))}')
    choose(wanted, ask)


@torch.compiler.assume_constant_result
def take(wanted: str, *ask: bool | int | str | torch.dtype) -> str:
    """The name of `choose(wanted, Ask(*ask))`, activated if it needs that. A constant while compiling."""
    name = choose(wanted, Ask(*ask)).name  # type: ignore[arg-type]
    if name in _IMPLS and torch_attention.current_flash_attention_impl() != _IMPLS[name]:
        torch_attention.activate_flash_attention_impl(_IMPLS[name])
    return name


def make_pass(name: str, rule: Rule, documents: Documents | None, shape: tuple[int, int], device: torch.device) -> Pass:
    """The pass of a backend without a cache.

    Args:
        name: Name of the backend, or of a version of it.
        documents: Documents of packed rows; None: every row is one document.
        shape: Rows, and tokens per row.
        device: Device of the tokens.
    """
    if name == 'flex':
        return FlexPass(rule, documents, shape, device)
    if name == 'flash_attn':
        return FlashAttnPass(rule, find_rows(documents, shape, device))
    if name == 'varlen' or name in VERSIONS:
        return VarlenPass(rule, find_rows(documents, shape, device))
    is_plain = name == 'plain'
    if documents is None:
        return RowsPass(rule, is_plain)
    if device.type != 'cpu':  # before `segments`: with a cache, the host has read the layout of a device too
        return MaskedPass(rule, documents, is_plain)
    if documents.segments is not None:
        return DocumentsPass(rule, documents, is_plain)
    if is_plain or rule.dropout:
        return MaskedPass(rule, documents, is_plain)
    return OperatorPass(rule, documents)


class Chooser(NamedTuple):
    """Chooses how the layers of one trunk compute attention.

    Args:
        wanted: The setting trunk.attention.
        has_slopes: Scores fall with distance (ALiBi).
        is_grouped: Heads of queries share keys and values.
        d_head: Channels of a head.
    """

    wanted: Name
    has_slopes: bool
    is_grouped: bool
    d_head: int

    def check(self, rule: Rule) -> None:
        """Refuse, when a trunk is built, a backend that cannot compute the rule of a layer on any machine.

        Raises:
            ValueError: The backend is unknown, or does not support the other settings.
        """
        check(self.wanted, self._ask(rule, {}))

    def open_passes(
        self,
        rules: Iterable[Rule],
        slopes: Float[Tensor, ' h'] | None,
        place: Place,
        cache: Cache | None,
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> list[Pass]:
        """The pass of each layer for one call of the trunk; layers with the same rule share one.

        Args:
            rules: The rule of each layer, without slopes, with the dropout of this call.
            slopes: As in Rule, for all layers.
            place: Document and position of each token.
            cache: Keys and values of earlier tokens; None: no cache.
            shape: Rows, and tokens per row.
            dtype: Dtype of the weights.

        Raises:
            ValueError: The backend that is set does not support the call.
        """
        device = place.position.device
        known: _Known = {
            'documents': place.documents is not None,
            'cache': cache is not None,
            'gradient': torch.is_grad_enabled(),
            'device': device.type,
            'dtype': _computed_dtype(dtype, device.type),
        }
        shared: dict[tuple[int | None, float], tuple[str, Pass]] = {}
        passes: list[Pass] = []
        for layer, rule in enumerate(rules):
            key = rule.window, rule.dropout  # the layers of a trunk differ in nothing else
            if key not in shared:
                name = take(self.wanted, *self._ask(rule, known))
                shared[key] = name, make_pass(name, rule._replace(slopes=slopes), place.documents, shape, device)
            name, one = shared[key]
            if cache is None:
                passes.append(one)
            elif place.documents is not None:
                passes.append(FillPass(one, cache, layer, place.documents, place.position))
            else:
                position = None if cache.is_even else place.position
                passes.append(CachePass(rule._replace(slopes=slopes), cache, layer, position, name == 'plain'))
        return passes

    def describe(
        self, rules: Sequence[Rule], device: str, dtype: torch.dtype, documents: bool, needs_gradient: bool
    ) -> str:
        """One line: the attention backend of passes without a cache, and the reason.

        Args:
            rules: The rule of each layer.
            device: The type of the device.
            dtype: The dtype of queries, keys and values.
            documents: Whether rows are packed.
            needs_gradient: Whether a gradient is needed.

        Raises:
            ValueError: The backend that is set is not supported there.
        """
        known: _Known = {'documents': documents, 'gradient': needs_gradient, 'device': device, 'dtype': dtype}
        choices = [choose(self.wanted, self._ask(rule, known)) for rule in rules]
        counts = {choice: choices.count(choice) for choice in choices}
        return 'attention: ' + ', '.join(
            f'{name} ({reason})' + (f' in {n_layers} of {len(rules)} layers' if len(counts) > 1 else '')
            for (name, reason), n_layers in counts.items()
        )

    def describe_documents(self, rules: Sequence[Rule], device: str, dtype: torch.dtype) -> str | None:
        """One line: how training computes attention inside documents on this CPU.

        Args:
            rules: The rule of each layer.
            device: The type of the device.
            dtype: The dtype of queries, keys and values.

        Returns:
            None on other devices, with the backend plain, and with dropout on attention probabilities.
        """
        known: _Known = {'documents': True, 'gradient': True, 'device': device, 'dtype': dtype}
        names = {choose(self.wanted, self._ask(rule, known)).name for rule in rules}
        if device != 'cpu' or 'sdpa' not in names or any(rule.dropout for rule in rules):
            return None
        return 'documents: ' + describe_way(self.has_slopes, dtype)

    def _ask(self, rule: Rule, known: _Known) -> Ask:
        """What a layer needs of a backend, with the known properties of the pass."""
        return Ask(
            causal=rule.causal,
            window=rule.window is not None,
            slopes=self.has_slopes,
            score_cap=rule.score_cap is not None,
            grouped=self.is_grouped,
            dropout=bool(rule.dropout),
            d_head=self.d_head,
            **known,
        )


def _computed_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """The dtype of queries, keys and values: that of the weights, or of autocast."""
    can_cast = dtype == torch.float32 and torch.amp.is_autocast_available(device)
    return torch.get_autocast_dtype(device) if can_cast and torch.is_autocast_enabled(device) else dtype
