"""The trunk: ids -> hidden states, as a decoder or an encoder."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout

from .activations import ReLU2
from .attention import Cache, Documents, Rule, Shared, backends
from .attention.documents import describe_way, read_segments
from .attention.kernels import make_block_mask
from .block import Attention, Block, FeedForward
from .checkpointing import run_block
from .init import Initializer, Normal
from .norms import RMSNorm
from .positions import Positions, Rotary


class Transformer(nn.Module):
    """Embeddings, positions and a stack of layers.

    Args:
        n_vocab: Tokens of the vocabulary.
        max_len: The longest document that it is built for, in tokens.
        d_model: Width of the hidden states.
        n_layers: How many layers.
        n_heads: Heads of queries; each has d_model / n_heads channels.
        n_kv_heads: Heads of keys and values, a divisor of n_heads; None: as many as heads of queries.
        d_ff: Width inside the feed-forward nets; None: 4 d_model, or 8/3 d_model (rounded up to a multiple of 32) where
            the activation is gated, which gives as many parameters.
        causal: A token sees no later one (decoder); else it sees all of its document (encoder).
        window: A token sees those less than so many tokens away, itself included; a list gives one for each layer;
            None: any distance.
        positions: Makes the positions from d_model, n_heads, max_len.
        norm: Makes a norm from d_model.
        prenorm: Normalise what attention and feed-forward nets read; else the sums after them.
        final_norm: Normalise what the last layer gives.
        activation: Makes the activation of the feed-forward nets.
        qk_norm: Bring queries and keys to one length.
        bias: Whether the layers' matrices have one.
        score_cap: Attention scores are bent into -score_cap..score_cap by a tanh; None: left as they are.
        checkpointing: What is not kept for the gradient but computed once more: none; full, all inside the layers;
            selective, all but the products of matrices and attention. Always to the same result.
        attention: How attention is computed, always to the same result: plain, as it is defined; sdpa, by torch's fused
            kernels; varlen, flash_attn, by FlashAttention-2 of torch or of the package flash-attn; flash3, flash4, by
            what torch can put in its place; flex, by torch's FlexAttention; auto, by the fastest that can, flash3 and
            flash4 aside. One that cannot is refused. Passes with a cache take sdpa, or plain.
        scale_embedding: Multiply embeddings by sqrt(d_model).
        init: Makes what sets the weights at the start.
        dropout: The ratio that is dropped in training, at the places that the switches name.
        pos_drop: Drop from embeddings with positions.
        attn_drop: Drop from attention's probabilities.
        ff_drop: Drop inside the feed-forward nets.
        block_drop: Drop from what attention and feed-forward nets add.

    Raises:
        ValueError: An argument is out of range, or some do not go together.
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
        positions: Callable[[int, int, int], Positions] = Rotary,
        norm: Callable[[int], nn.Module] = RMSNorm,
        prenorm: bool = True,
        final_norm: bool = True,
        activation: Callable[[], nn.Module] = ReLU2,
        qk_norm: bool = True,
        bias: bool = False,
        score_cap: float | None = None,
        attention: backends.Name = 'auto',
        checkpointing: Literal['none', 'full', 'selective'] = 'none',
        scale_embedding: bool = True,
        init: Callable[[], Initializer] = Normal,
        dropout: float = 0.0,
        pos_drop: bool = True,
        attn_drop: bool = True,
        ff_drop: bool = True,
        block_drop: bool = True,
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        _check_sizes(
            n_vocab=n_vocab, max_len=max_len, d_model=d_model, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads
        )
        if d_model % n_heads:
            raise ValueError(f'trunk.d_model {d_model} is no multiple of trunk.n_heads {n_heads}; change one of them')
        if n_heads % n_kv_heads:
            raise ValueError(
                f'trunk.n_heads {n_heads} is no multiple of trunk.n_kv_heads {n_kv_heads}; change one of them'
            )
        if d_ff is None:
            is_gated = getattr(activation(), 'n_parts', 1) > 1
            d_ff = math.ceil(8 / 3 * d_model / 32) * 32 if is_gated else 4 * d_model
        _check_sizes(d_ff=d_ff)
        windows = window if isinstance(window, list) else [window] * n_layers
        if len(windows) != n_layers:
            raise ValueError(
                f'trunk.window lists {len(windows)} windows, but trunk.n_layers is {n_layers}; give one for each layer'
            )
        for one in windows:
            if one is not None:
                _check_sizes(window=one)
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
        self.checkpointing = checkpointing
        self.causal, self.d_model, self.max_len = causal, d_model, max_len
        self.n_layers, self.n_heads, self.n_kv_heads, self.d_head = n_layers, n_heads, n_kv_heads, d_model // n_heads
        self.scale = math.sqrt(d_model) if scale_embedding else 1.0
        self.dropout, self.attention = dropout if pos_drop else 0.0, attention

        self.embedding = nn.Embedding(n_vocab, d_model)
        self.positions = positions(d_model, n_heads, max_len)
        self.blocks = nn.ModuleList()
        for one in windows:
            rule = Rule(causal, one, score_cap=score_cap, dropout=dropout if attn_drop else 0.0)
            backends.check(attention, self._ask(rule, is_training=True))
            self.blocks.append(
                Block(
                    Attention(d_model, n_heads, n_kv_heads, rule, qk_norm, bias),
                    FeedForward(d_model, d_ff, activation, bias, dropout if ff_drop else 0.0),
                    lambda: norm(d_model),
                    prenorm,
                    dropout if block_drop else 0.0,
                )
            )
        self.norm = norm(d_model) if final_norm else nn.Identity()
        self.initializer = init()
        self.initializer.embedding(self.embedding.weight)
        self.initializer.blocks(self.blocks)

    def forward(
        self, ids: Int[Tensor, 'b n'], layout: Layout | None = None, cache: Cache | None = None
    ) -> Float[Tensor, 'b n d']:
        """Read the tokens.

        Args:
            layout: Where documents begin; None: every row is one document.
            cache: Without a layout, the tokens go on behind what each row of it holds. With one, it is empty, ids are
                one packed row, and segment i becomes its row i. No gradient flows through a pass with a cache.

        A layout that lives on a device is not read by the host, and so not checked.

        Raises:
            ValueError: The layout or the cache does not fit the ids, the trunk is not causal and has no cache, or the
                way to compute attention that was asked for cannot do so here.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and cache is None):
            return self._read(ids, layout, cache)

    def _read(self, ids: Int[Tensor, 'b n'], layout: Layout | None, cache: Cache | None) -> Float[Tensor, 'b n d']:
        position, shared = self._plan(ids, layout, cache)
        hidden = self.embedding(ids)
        if self.scale != 1:
            hidden = hidden * self.scale
        hidden = self.positions.embed(hidden, position)
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            hidden = run_block(block, hidden, shared, layer, self.checkpointing)
        if cache is not None:
            if layout is None:
                cache.advance(ids.size(1))
            else:
                assert shared.documents is not None
                segments = shared.documents.segments or []
                cache.begin(layout, is_even=all(segment == (layout.max_length, True) for segment in segments))
        return self.norm(hidden)

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache, where the weights are.

        Args:
            batch: Rows.
            length: The most tokens that a row will hold.

        Raises:
            ValueError: The trunk is not causal: an earlier token would have to see the later ones.
        """
        self._check_causal()
        weight = self.embedding.weight
        return Cache(self.n_layers, batch, self.n_kv_heads, length, self.d_head, weight.device, weight.dtype)

    def _plan(
        self, ids: Int[Tensor, 'b n'], layout: Layout | None, cache: Cache | None
    ) -> tuple[Int[Tensor, '#b n'], Shared]:
        """The position of each token, and what the layers share."""
        (b, n), device = ids.shape, ids.device
        place = torch.arange(n, device=device)[None]
        documents, ragged, segment = None, None, None
        if cache is not None:
            self._check_causal()
        if layout is not None:
            starts, is_text, longest = layout.starts.int(), layout.is_text, layout.max_length
            is_read = device.type == 'cpu' and not torch.compiler.is_compiling()
            segments = read_segments(starts, is_text, longest, b * n) if is_read or cache is not None else None
            index = torch.repeat_interleave(starts.diff(), output_size=b * n)
            flat = torch.arange(b * n, device=device) - starts[index]
            position = flat.view(b, n)
            documents = Documents(starts, longest, is_text, index.view(b, n), segments)
            if cache is not None:
                n_segments = starts.numel() - 1
                if cache.longest or cache.batch != n_segments:
                    raise ValueError(
                        f'a packed row of {n_segments} segments needs an empty cache of as many rows; this one has '
                        f'{cache.batch} rows, the longest of {cache.longest} tokens'
                    )
                cache.check_room(longest)
                segment = index, flat
        elif cache is not None:
            if cache.batch != b:
                raise ValueError(f'ids have {b} rows, but the cache {cache.batch}; give each row its own')
            cache.check_room(n)
            longest, position = cache.longest + n, place + cache.longest
            if not cache.is_even:
                position = ragged = place + cache.lengths[:, None]
        else:
            longest, position = n, place
        if self.positions.limit is not None and longest > self.positions.limit:
            raise ValueError(
                f'a document of {longest} tokens needs more positions than the {self.positions.limit} that '
                f'{type(self.positions).__name__} has; cut it, or build the model with a larger max_len'
            )
        taken, made = self._take_backends(documents, cache, (b, n), device)
        angles, slopes = self.positions.angles(position), self.positions.slopes
        return position, Shared(angles, slopes, taken, documents, cache, ragged, segment, made)

    def _take_backends(
        self, documents: Documents | None, cache: Cache | None, shape: tuple[int, int], device: torch.device
    ) -> tuple[list[str], dict]:
        """The name of each layer's, and what the layers can share of it."""
        dtype, names, made = self.embedding.weight.dtype, [], {}
        can_cast = dtype == torch.float32 and torch.amp.is_autocast_available(device.type)
        if can_cast and torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        for block in self.blocks:
            rule = block.attention.rule  # type: ignore[union-attr]
            ask = self._ask(
                rule,  # type: ignore[arg-type]
                self.training,
                documents=documents is not None,
                cache=cache is not None,
                gradient=torch.is_grad_enabled(),
                device=device.type,
                dtype=dtype,
            )
            names.append(backends.take(self.attention, *ask))
            key = 'block mask', rule.window  # type: ignore[union-attr]
            if names[-1] == 'flex' and key not in made:
                made[key] = make_block_mask(shape, device, rule, documents and documents.segment)
        return names, made

    def describe_attention(
        self, device: str, dtype: torch.dtype, documents: bool = True, is_training: bool = True
    ) -> str:
        """A line that says how attention is computed in passes without a cache, and why so.

        Args:
            device: The type of the device.
            dtype: What queries, keys and values are held in.
            documents: Whether rows are packed.
            is_training: Whether parts are dropped and a gradient is wanted.

        Raises:
            ValueError: The way that was asked for cannot do so there.
        """
        known = {'documents': documents, 'gradient': is_training, 'device': device, 'dtype': dtype}
        rules = [block.attention.rule for block in self.blocks]  # type: ignore[union-attr]
        choices = [backends.choose(self.attention, self._ask(rule, is_training, **known)) for rule in rules]  # type: ignore[arg-type]
        counts = {choice: choices.count(choice) for choice in choices}
        return 'attention: ' + ', '.join(
            f'{name} ({reason})' + (f' in {n_layers} of {len(rules)} layers' if len(counts) > 1 else '')
            for (name, reason), n_layers in counts.items()
        )

    def describe_documents(self, device: str, dtype: torch.dtype) -> str | None:
        """A line that says how training computes attention inside documents, where the processor decides.

        Args:
            device: The type of the device.
            dtype: What queries, keys and values are held in.

        Returns:
            None on other devices, and where attention is computed as it is defined, or drops from probabilities.
        """
        rules = [block.attention.rule for block in self.blocks]  # type: ignore[union-attr]
        known = {'documents': True, 'gradient': True, 'device': device, 'dtype': dtype}
        names = {backends.choose(self.attention, self._ask(rule, True, **known)).name for rule in rules}  # type: ignore[arg-type]
        is_dropping = any(rule.dropout for rule in rules)  # type: ignore[union-attr]
        if device != 'cpu' or 'sdpa' not in names or is_dropping:
            return None
        return 'documents: ' + describe_way(self.positions.slopes is not None)

    def _ask(self, rule: Rule, is_training: bool, **known: Any) -> backends.Ask:
        """What a layer asks of a pass, with what is known of the pass."""
        return backends.Ask(
            causal=rule.causal,
            window=rule.window is not None,
            slopes=self.positions.slopes is not None,
            score_cap=rule.score_cap is not None,
            grouped=self.n_kv_heads != self.n_heads,
            dropout=bool(rule.dropout) and is_training,
            d_head=self.d_head,
            **known,
        )

    def _check_causal(self) -> None:
        if not self.causal:
            raise ValueError('trunk.causal is false, and only a causal trunk can use a cache; call it without one')


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f'{name} is {size}; give 1 or more')
