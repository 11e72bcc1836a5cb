"""The trunk: ids -> hidden states, as a decoder or an encoder."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout

from .activations import ReLU2
from .adapters import LoRA
from .attention import Cache, Chooser, Pass, Place, Rule, place_tokens
from .attention.backends import Name
from .block import Attention, Block, FeedForward
from .checkpointing import run_block
from .init import Initializer, Normal
from .norms import RMSNorm
from .positions import Positions, Rotary
from .shift import SHIFT_PLACES, Before, Shift, ShiftPlace
from .trunk import Trunk

_LEAST_CHANNELS = 8
"""Channels that `narrow_ratio` leaves at the least."""


class Transformer(Trunk):
    """Embeddings, positions and a stack of layers.

    Args:
        n_vocab: Size of the vocabulary.
        max_len: The longest document that it is built for, in tokens.
        d_model: Width of the hidden states.
        n_layers: Number of layers.
        n_heads: Heads of queries; each has d_model / n_heads channels.
        n_kv_heads: Heads of keys and values, a divisor of n_heads; None: as many as heads of queries.
        d_ff: Hidden width of the feed-forward networks; None: 4 d_model, or 8/3 d_model (rounded up to a multiple of
            32) where the activation is gated, for the same number of parameters.
        causal: A token attends to no later one (decoder); else to all of its document (encoder).
        window: A token attends to tokens less than this many positions away, itself included (sliding window); a list
            has one window per layer; None: any distance. Shifts widen it, each by shift_width - 1.
        global_every: With one window for all layers: layers 0, n, 2 n … attend at any distance, n being this number.
            Source: ModernBERT, Warner et al. 2024, https://arxiv.org/abs/2412.13663, section 2.1.2 (n = 3; its window
            of 64 tokens to each side is 65 here). None: no layer does.
        positions: Makes the positions from d_model, n_heads, max_len.
        embedding_norm: Normalise embeddings with positions, before the first layer (BERT's).
        norm: Makes a norm from d_model.
        prenorm: Normalise the input of attention and feed-forward networks (pre-norm); else the sums after them.
        first_norm: Normalise the input of the first layer's attention; false with embedding_norm, as ModernBERT has it.
        final_norm: Normalise the output of the last layer.
        activation: Makes the activation of the feed-forward networks.
        qk_norm: Normalise queries and keys.
        bias: Whether the layers' matrices have a bias.
        score_cap: Soft cap of attention scores: a tanh bounds them to -score_cap..score_cap; None: no cap.
        checkpointing: Which activations are recomputed in the backward pass: none; full, all inside the layers;
            selective, all but the outputs of matrix products and attention. The result is the same.
        attention: The backend of attention; the result is the same: plain, the definition; sdpa, torch's fused
            kernels; varlen, flash_attn, FlashAttention-2 of torch or of the package flash-attn; flash3, flash4,
            FlashAttention-3 or -4 that torch activates in its place, flash the first of them that is supported; flex,
            torch's FlexAttention; auto, the fastest that is supported, flash aside. One that is not supported is
            refused. Passes with a cache take sdpa, or plain.
        scale_embedding: Multiply embeddings by sqrt(d_model).
        init: Makes the initializer of the weights.
        dropout: Dropout ratio in training, at the places that the switches name.
        pos_drop: Dropout on the embeddings with positions.
        attn_drop: Dropout on attention probabilities.
        ff_drop: Dropout inside the feed-forward networks.
        block_drop: Dropout on the output of attention and feed-forward networks.
        narrow_ratio: The ratio of training passes whose token embeddings are zero beyond a drawn number of channels, a
            power of two from 8 on: the `Matryoshka` of ALEA's kl3m. It trains no prefixes of vectors, as the objective
            `Matryoshka` does.
        adapters: Makes the adapters that are trained in place of the weights (LoRA), merged where a checkpoint is
            used or exported; None: the weights are trained.
        shift_width: Tokens, the token itself included, that are mixed at the places of shift_places by a learned
            weight for each channel (a causal convolution inside documents); 1: none.
        shift_places: Where: attention, its input, after the norm; projections, queries, keys and values;
            feed_forward, its input, after the norm; hidden, its hidden units, before the activation. None: projections.

    Raises:
        ValueError: An argument is out of range, or two contradict each other.
    """

    def __init__(
        self,
        n_vocab: int,
        max_len: int,
        d_model: int = 192,
        n_layers: int = 4,
        n_heads: int = 3,
        n_kv_heads: int | None = None,
        d_ff: int | None = None,
        causal: bool = True,
        window: int | list[int | None] | None = None,
        global_every: int | None = None,
        positions: Callable[[int, int, int], Positions] = Rotary,
        embedding_norm: bool = False,
        norm: Callable[[int], nn.Module] = RMSNorm,
        prenorm: bool = True,
        first_norm: bool = True,
        final_norm: bool = True,
        activation: Callable[[], nn.Module] = ReLU2,
        qk_norm: bool = True,
        bias: bool = False,
        score_cap: float | None = None,
        attention: Name = 'auto',
        checkpointing: Literal['none', 'full', 'selective'] = 'none',
        scale_embedding: bool = True,
        init: Callable[[], Initializer] = Normal,
        dropout: float = 0.0,
        pos_drop: bool = True,
        attn_drop: bool = True,
        ff_drop: bool = True,
        block_drop: bool = True,
        narrow_ratio: float = 0.0,
        adapters: Callable[[], LoRA] | None = None,
        shift_width: int = 1,
        shift_places: list[ShiftPlace] | None = None,
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        _check_sizes(
            n_vocab=n_vocab,
            max_len=max_len,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            shift_width=shift_width,
        )
        if d_model % n_heads:
            raise ValueError(
                f'trunk.d_model {d_model} is not a multiple of trunk.n_heads {n_heads}; change one of them'
            )
        if n_heads % n_kv_heads:
            raise ValueError(
                f'trunk.n_heads {n_heads} is not a multiple of trunk.n_kv_heads {n_kv_heads}; change one of them'
            )
        if d_ff is None:
            is_gated = getattr(activation(), 'n_parts', 1) > 1
            d_ff = math.ceil(8 / 3 * d_model / 32) * 32 if is_gated else 4 * d_model
        _check_sizes(d_ff=d_ff)
        if global_every is not None:
            _check_sizes(global_every=global_every)
            if not isinstance(window, int):
                raise ValueError(
                    f'trunk.global_every is {global_every}, but trunk.window is {window}; set trunk.window to the '
                    'number of tokens that the other layers attend to, or leave global_every out'
                )
            window = [None if layer % global_every == 0 else window for layer in range(n_layers)]
        windows = window if isinstance(window, list) else [window] * n_layers
        if len(windows) != n_layers:
            raise ValueError(
                f'trunk.window lists {len(windows)} windows, but trunk.n_layers is {n_layers}; give one for each layer'
            )
        for one in windows:
            if one is not None:
                _check_sizes(window=one)
        if not first_norm and not (prenorm and embedding_norm):
            raise ValueError(
                'trunk.first_norm is false, but the first layer reads what no norm has been over; set '
                'trunk.embedding_norm and trunk.prenorm to true'
            )
        if score_cap is not None and not score_cap > 0:
            raise ValueError(f'trunk.score_cap is {score_cap}; give a positive number, or null for none')
        if checkpointing not in ('none', 'full', 'selective'):
            raise ValueError(f'trunk.checkpointing is {checkpointing!r}; choose none, full or selective')
        if not 0 <= dropout < 1:
            raise ValueError(f'trunk.dropout is {dropout}; give a ratio from 0 to below 1')
        if dropout and not (pos_drop or attn_drop or ff_drop or block_drop):
            raise ValueError(
                f'trunk.dropout is {dropout}, but pos_drop, attn_drop, ff_drop and block_drop are all off; set '
                'trunk.dropout to 0, or switch one on'
            )
        if not 0 <= narrow_ratio <= 1:
            raise ValueError(f'trunk.narrow_ratio is {narrow_ratio}; give a ratio from 0 to 1')
        if narrow_ratio and d_model <= _LEAST_CHANNELS:
            raise ValueError(
                f'trunk.narrow_ratio is {narrow_ratio}, but trunk.d_model is {d_model}; make it more than '
                f'{_LEAST_CHANNELS}, or leave narrow_ratio out'
            )
        places = ['projections'] if shift_places is None else shift_places
        for place in places:
            if place not in SHIFT_PLACES:
                raise ValueError(f'trunk.shift_places holds {place!r}; choose of {", ".join(SHIFT_PLACES)}')
        self.narrow_ratio = narrow_ratio
        self.checkpointing = checkpointing
        self.n_vocab = n_vocab
        self.causal = causal
        self.d_model = d_model
        self.max_len = max_len
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads
        self.d_head = d_model // n_heads
        self.scale = math.sqrt(d_model) if scale_embedding else 1.0
        self.dropout = dropout if pos_drop else 0.0
        self.attention = attention

        self.embedding = nn.Embedding(n_vocab, d_model)
        self.positions = positions(d_model, n_heads, max_len)
        self.embedding_norm = norm(d_model) if embedding_norm else nn.Identity()
        has_slopes = self.positions.slopes is not None
        self.chooser = Chooser(attention, has_slopes, n_kv_heads != n_heads, self.d_head)
        self.blocks = nn.ModuleList()
        n_shifted = (n_heads + 2 * n_kv_heads) * self.d_head
        n_hidden = d_ff * getattr(activation(), 'n_parts', 1)
        sites = itertools.count()

        def make_shift(place: ShiftPlace, n_channels: int) -> Shift | None:
            return Shift(n_channels, shift_width, next(sites)) if shift_width > 1 and place in places else None

        for one in windows:
            rule = Rule(causal, one, score_cap=score_cap, dropout=dropout if attn_drop else 0.0)
            self.chooser.check(rule)
            self.blocks.append(
                Block(
                    Attention(
                        d_model,
                        n_heads,
                        n_kv_heads,
                        rule,
                        qk_norm,
                        bias,
                        make_shift('projections', n_shifted),
                        make_shift('attention', d_model),
                    ),
                    FeedForward(
                        d_model,
                        d_ff,
                        activation,
                        bias,
                        dropout if ff_drop else 0.0,
                        make_shift('hidden', n_hidden),
                        make_shift('feed_forward', d_model),
                    ),
                    lambda: norm(d_model),
                    prenorm,
                    dropout if block_drop else 0.0,
                )
            )
        if not first_norm:
            self._layers[0].attention_norm = nn.Identity()
        self.norm = norm(d_model) if final_norm else nn.Identity()
        self.initializer = init()
        self.initializer.embedding(self.embedding.weight)
        self.initializer.blocks(self.blocks)
        if adapters is not None:
            adapters().attach(self)

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        cache: Cache | None = None,
        causal: bool | None = None,
        first: Float[Tensor, 's d'] | None = None,
        layers: Sequence[int] = (),
    ) -> Float[Tensor, 'b n d'] | Float[Tensor, 'l b n d']:
        """Compute the hidden states.

        Args:
            layout: Where documents begin; None: every row is one document.
            cache: Without a layout, the tokens continue the rows of the cache. With a layout, the cache is empty, ids
                are one packed row, and segment i becomes row i of the cache. No gradient flows through a pass with a
                cache.
            causal: Whether a token attends to no later one in this pass; None: as the trunk does.
            first: With a layout, a vector for each segment that takes the place of its first token's embedding, before
                the position is added; None: none does.
            layers: Numbers of earlier layers, from 1, in rising order: their hidden states, each normalized as those of
                the last layer are, come before those of the last layer along a new first axis. (): no such axis.

        A layout on a device is not read by the host, so it is not checked.

        Raises:
            ValueError: The layout or the cache does not fit the ids, there is a cache but the trunk is not causal, or
                the chosen attention backend does not support the call.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and cache is None):
            return self._read(ids, layout, cache, causal, first, layers)

    def _read(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None,
        cache: Cache | None,
        causal: bool | None,
        first: Float[Tensor, 's d'] | None,
        layers: Sequence[int],
    ) -> Float[Tensor, 'b n d'] | Float[Tensor, 'l b n d']:
        place, passes = self._open(ids, layout, cache, causal)
        angles = self.positions.angles(place.position)
        local_angles = angles
        if self.positions.has_local_angles:
            local_angles = self.positions.angles(place.position, is_local=True)
        before = Before(place.position, layout, cache)
        hidden = self.embedding(ids)
        if self.scale != 1:
            hidden = hidden * self.scale
        if self.narrow_ratio and self.training:
            hidden = _narrow(hidden, self.narrow_ratio)
        if first is not None:
            hidden = _put_first(hidden, layout, first)
        hidden = self.embedding_norm(self.positions.embed(hidden, place.position))
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        earlier: list[Tensor] = []
        for number, (block, layer_pass) in enumerate(zip(self._layers, passes), 1):
            block_angles = angles if block.attention.rule.window is None else local_angles
            hidden = run_block(block, hidden, block_angles, layer_pass, before, self.checkpointing)
            if number in layers:
                earlier.append(self.norm(hidden))
        if cache is not None and layout is None:
            cache.advance(ids.size(1))
        elif cache is not None and layout is not None:
            assert place.documents is not None
            segments = place.documents.segments or []
            cache.begin(layout, is_even=all(segment == (layout.max_length, True) for segment in segments))
        hidden = self.norm(hidden)
        return torch.stack([*earlier, hidden]) if layers else hidden

    def _open(
        self, ids: Int[Tensor, 'b n'], layout: Layout | None, cache: Cache | None, causal: bool | None = None
    ) -> tuple[Place, list[Pass]]:
        """Document and position of each token, and how each layer attends."""
        if cache is not None:
            self._check_causal()
        place = place_tokens(ids, layout, cache)
        limit = self.positions.limit
        if limit is not None and place.longest > limit:
            raise ValueError(
                f'a document of {place.longest} tokens needs more positions than the {limit} that '
                f'{type(self.positions).__name__} has; cut it, or build the model with a larger max_len'
            )
        rules = [block.attention.active_rule for block in self._layers]
        if causal is not None:
            rules = [rule._replace(causal=causal) for rule in rules]
        shape = ids.size(0), ids.size(1)
        slopes = self.positions.slopes
        return place, self.chooser.open_passes(rules, slopes, place, cache, shape, self.embedding.weight.dtype)

    def keep_layers(self, n_layers: int) -> None:
        """Remove all layers but the first ones.

        Raises:
            ValueError: It has not as many.
        """
        if not 1 <= n_layers <= self.n_layers:
            raise ValueError(f'n_layers is {n_layers}; give 1 to {self.n_layers}, the layers of the model')
        self.blocks = self.blocks[:n_layers]
        self.n_layers = n_layers

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache, on the device of the weights.

        Args:
            batch: Rows.
            length: Capacity of a row, in tokens.

        Raises:
            ValueError: The trunk is not causal: cached tokens would have to attend to later ones.
        """
        self._check_causal()
        weight = self.embedding.weight
        return Cache(self.n_layers, batch, self.n_kv_heads, length, self.d_head, weight.device, weight.dtype)

    def list_blocks(self) -> list[nn.Module]:
        """The layers, from the lowest to the highest."""
        return list(self.blocks)

    def list_embeddings(self) -> list[nn.Module]:
        """The embeddings of tokens and of positions, and their norm."""
        return [self.embedding, self.positions, self.embedding_norm]

    @property
    def of_vocabulary(self) -> frozenset[str]:
        """The name of the embedding of tokens."""
        return frozenset({'embedding.weight'})

    def describe_attention(
        self, device: str, dtype: torch.dtype, documents: bool = True, is_training: bool = True
    ) -> str:
        """One line: the attention backend of passes without a cache, and the reason.

        Args:
            device: The type of the device.
            dtype: The dtype of queries, keys and values.
            documents: Whether rows are packed.
            is_training: Whether there is dropout and a gradient.

        Raises:
            ValueError: The chosen attention backend is not supported there.
        """
        rules = [block.attention.rule for block in self._layers]
        if not is_training:
            rules = [rule._replace(dropout=0.0) for rule in rules]
        return self.chooser.describe(rules, device, dtype, documents, is_training)

    def describe_documents(self, device: str, dtype: torch.dtype) -> str | None:
        """One line: how training computes attention inside documents on this CPU.

        Args:
            device: The type of the device.
            dtype: The dtype of queries, keys and values.

        Returns:
            None on other devices, with the backend plain, and with dropout on attention probabilities.
        """
        return self.chooser.describe_documents([block.attention.rule for block in self._layers], device, dtype)

    @property
    def _layers(self) -> list[Block]:
        return cast('list[Block]', list(self.blocks))

    def _check_causal(self) -> None:
        if not self.causal:
            raise ValueError('trunk.causal is false, and only a causal trunk can use a cache; call it without one')


def _narrow(hidden: Float[Tensor, 'b n d'], ratio: float) -> Float[Tensor, 'b n d']:
    """Embeddings that are zero beyond a drawn power of two of channels, in this ratio of calls.

    The draw stays on the device.
    """
    d = hidden.size(-1)
    first = _LEAST_CHANNELS.bit_length() - 1
    n_powers = (d - 1).bit_length() - first
    draw, power = torch.rand(2, device=hidden.device)
    width = 2.0 ** (first + (power * n_powers).floor())
    is_kept = (torch.arange(d, device=hidden.device) < width) | (draw >= ratio)
    return hidden * is_kept.to(hidden.dtype)


def _put_first(
    hidden: Float[Tensor, 'b n d'], layout: Layout | None, first: Float[Tensor, 's d']
) -> Float[Tensor, 'b n d']:
    """Hidden states with those of the first token of each segment replaced; of padding nothing is."""
    if layout is None:
        raise ValueError('first replaces the first token of each segment, so it needs a layout')
    slots = torch.arange(hidden.size(0) * hidden.size(1), device=hidden.device)
    segment = torch.searchsorted(layout.starts, slots, right=True) - 1  # of those that begin there, the one not empty
    is_first = slots == layout.starts[segment]
    if layout.is_text is not None:
        is_first = is_first & layout.is_text[segment]
    flat = torch.where(is_first[:, None], first[segment].to(hidden.dtype), hidden.flatten(0, 1))
    return flat.view_as(hidden)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f'{name} is {size}; give 1 or more')
