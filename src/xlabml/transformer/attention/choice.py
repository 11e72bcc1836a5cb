"""The choice of a backend: which one each layer of a trunk takes, why, and the passes that follow from it.

What a setting alone forbids is refused when the trunk is built; what a machine lacks, at the first pass, since a
checkpoint from one machine must open on another. A pass with a cache (decoding, no gradient) is short of work for the
kernels made for training: it takes `sdpa`, or `plain` where that is set or scores are capped, whatever is set.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, get_args

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
"""Their names in torch."""


class Choice(NamedTuple):
    """A backend, and why it was taken."""

    name: str
    reason: str


@torch.compiler.disable  # it reads files
def choose(wanted: str, ask: Ask) -> Choice:
    """Take the backend that is set, or with auto the fastest that can do what a layer needs.

    Raises:
        ValueError: The one that is set cannot.
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
        f'trunk.attention {wanted} {objection(wanted, ask)}; set trunk.attention to auto, which takes what can, or '
        'change the other'
    )


def _candidates(wanted: str, ask: Ask) -> list[str]:
    """From the fastest to the slowest; of auto, the last one always can."""
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
    """Refuse, when a trunk is built, a backend that its other settings forbid on any machine.

    Raises:
        ValueError: It is not known, or the settings forbid it.
    """
    if wanted not in get_args(Name):
        raise ValueError(f'trunk.attention is {wanted!r}; choose one of {", ".join(get_args(Name))}')
    choose(wanted, ask)


@torch.compiler.assume_constant_result
def take(wanted: str, *ask: bool | int | str | torch.dtype) -> str:
    """The name of `choose(wanted, Ask(*ask))`, ready to be called. While compiling it is a constant."""
    name = choose(wanted, Ask(*ask)).name  # type: ignore[arg-type]
    if name in _IMPLS and torch_attention.current_flash_attention_impl() != _IMPLS[name]:
        torch_attention.activate_flash_attention_impl(_IMPLS[name])
    return name


def make_pass(name: str, rule: Rule, documents: Documents | None, shape: tuple[int, int], device: torch.device) -> Pass:
    """The pass of a backend without a cache.

    Args:
        name: Of the backend, or of a version of it.
        documents: Of packed rows; None: every row is one document.
        shape: Rows and tokens a row.
        device: Of the tokens.
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
    if device.type != 'cpu':  # with a cache, a device's layout is read too
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
        """Refuse, when a trunk is built, a setting that the rule of a layer forbids on any machine.

        Raises:
            ValueError: It is not known, or the other settings forbid it.
        """
        check(self.wanted, self._ask(rule))

    def open_passes(
        self,
        rules: Iterable[Rule],
        slopes: Float[Tensor, ' h'] | None,
        place: Place,
        cache: Cache | None,
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> list[Pass]:
        """The pass of each layer for one call of the trunk; layers that attend alike share one.

        Args:
            rules: Of each layer, without slopes; dropout as it is in this call.
            slopes: As in Rule, for all layers.
            place: Where the tokens stand.
            cache: Where keys and values are kept; None: nowhere.
            shape: Rows and tokens a row.
            dtype: Of the weights.

        Raises:
            ValueError: The backend that is set cannot do so here.
        """
        device = place.position.device
        known = {
            'documents': place.documents is not None,
            'cache': cache is not None,
            'gradient': torch.is_grad_enabled(),
            'device': device.type,
            'dtype': _computed_dtype(dtype, device.type),
        }
        shared: dict[tuple[int | None, float], tuple[str, Pass]] = {}
        passes: list[Pass] = []
        for layer, rule in enumerate(rules):
            key = rule.window, rule.dropout  # in all else the layers of a trunk agree
            if key not in shared:
                name = take(self.wanted, *self._ask(rule, **known))
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
        """A line that says how attention is computed in passes without a cache, and why so.

        Args:
            rules: Of each layer.
            device: The type of the device.
            dtype: What queries, keys and values are held in.
            documents: Whether rows are packed.
            needs_gradient: Whether a gradient is needed.

        Raises:
            ValueError: The backend that is set cannot do so there.
        """
        known = {'documents': documents, 'gradient': needs_gradient, 'device': device, 'dtype': dtype}
        choices = [choose(self.wanted, self._ask(rule, **known)) for rule in rules]
        counts = {choice: choices.count(choice) for choice in choices}
        return 'attention: ' + ', '.join(
            f'{name} ({reason})' + (f' in {n_layers} of {len(rules)} layers' if len(counts) > 1 else '')
            for (name, reason), n_layers in counts.items()
        )

    def describe_documents(self, rules: Sequence[Rule], device: str, dtype: torch.dtype) -> str | None:
        """A line that says how training computes attention inside documents, where the processor decides.

        Args:
            rules: Of each layer.
            device: The type of the device.
            dtype: What queries, keys and values are held in.

        Returns:
            None on other devices, and where attention is computed as it is defined, or drops from probabilities.
        """
        known = {'documents': True, 'gradient': True, 'device': device, 'dtype': dtype}
        names = {choose(self.wanted, self._ask(rule, **known)).name for rule in rules}
        if device != 'cpu' or 'sdpa' not in names or any(rule.dropout for rule in rules):
            return None
        return 'documents: ' + describe_way(self.has_slopes)

    def _ask(self, rule: Rule, **known: Any) -> Ask:
        """What a layer needs of a backend, with what is known of the pass."""
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
    """What queries, keys and values are held in: the dtype of the weights, or that of autocast."""
    can_cast = dtype == torch.float32 and torch.amp.is_autocast_available(device)
    return torch.get_autocast_dtype(device) if can_cast and torch.is_autocast_enabled(device) else dtype
