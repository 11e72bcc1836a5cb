"""Encoders of the library transformers (extra `hf`) as a trunk: flat rows outside, padded batches inside."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xlabml.anatomy import AttentionPairs
from xlabml.batches import Layout
from xlabml.errors import SettingsError

from .adapters import LoRA
from .families import VOCABULARY, Value, find_family, make_model
from .trunk import Trunk

_SHORTEST = 64
"""Texts of up to this many tokens are padded to one length; longer ones to those that are at most twice as long."""


class HuggingFaceEncoder(Trunk):
    """A pretrained encoder of the library transformers, such as BERT, RoBERTa, ELECTRA, ALBERT or DeBERTa.

    `fit --init_from FOLDER` (or `hf://ORG/NAME`) sets all of it. A flat row is cut into its texts, which are padded in
    groups of similar lengths, so a text's hidden states do not depend on the others. The library computes from plain
    values: it opens no file, executes no code of a model's and fetches nothing.

    Args:
        n_vocab: The number of tokens of the tokenizer.
        max_len: The longest text, in tokens.
        model_type: The family: bert, roberta, xlm-roberta, camembert, electra, albert, distilbert, deberta, deberta-v2.
        config: Values of its config.json: sizes, activation, dropout ratios; what is left out is the family's default.
        separator: The id of the token between two texts: what follows the first one has token type 1. None: all tokens
            have type 0.
        causal: Whether a token attends to no later one; these encoders have it false.
        adapters: Makes the adapters that are trained in place of the weights, as in Transformer.

    Raises:
        SettingsError: The family is unknown, a value is none of its config, or texts are longer than its positions.
        NotSupportedError: The library is not installed.
    """

    def __init__(
        self,
        n_vocab: int,
        max_len: int,
        model_type: str,
        config: dict[str, Value],
        separator: int | None = None,
        causal: bool = False,
        adapters: Callable[[], LoRA] | None = None,
    ) -> None:
        super().__init__()
        if causal:
            raise SettingsError(
                'model.trunk.causal is true, but the encoders of transformers attend both ways; set it to false'
            )
        family = find_family(model_type)
        self.family = family
        self.model = make_model(model_type, family, {**config, 'vocab_size': n_vocab})
        made = self.model.config
        self.n_vocab = n_vocab
        self.max_len = max_len
        self.d_model = getattr(made, family.width)
        self.n_layers = getattr(made, family.n_layers)
        self.causal = False
        self.pad = made.pad_token_id or 0
        # RoBERTa's positions begin behind that of the padding token.
        self.first_position = 0 if family.n_reserved is None else self.pad + family.n_reserved
        self.n_positions = made.max_position_embeddings - self.first_position
        if max_len > self.n_positions:
            raise SettingsError(
                f'data.max_len is {max_len}, but this {model_type} has positions for {self.n_positions} tokens; give '
                'at most that many'
            )
        has_types = family.has_types and made.type_vocab_size > 1
        self.separator = separator if has_types else None
        if adapters is not None:
            adapters().attach(self)

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        *,
        causal: bool | None = None,
        layers: Sequence[int] = (),
    ) -> Float[Tensor, 'b n d'] | Float[Tensor, 'l b n d']:
        """Compute the hidden states, as in Trunk.forward; those of padding are zero.

        With a layout the host reads the lengths of the texts, which waits for a device.
        """
        if causal:
            raise ValueError('causal is true, but the encoders of transformers attend both ways; leave it out')
        b, n = ids.shape
        if layout is None:
            layout = Layout(torch.arange(0, b * n + 1, max(n, 1), device=ids.device), n)
        flat = ids.flatten()
        places: list[Tensor] = []
        found: list[Tensor] = []
        for starts, lengths in _group(layout):
            width = int(lengths.max())
            if width > self.n_positions:
                raise ValueError(
                    f'a document of {width} tokens needs more positions than the {self.n_positions} that the encoder '
                    'has; cut it'
                )
            offset = torch.arange(width, device=ids.device)
            visible = offset < lengths[:, None]  # s w
            place = torch.where(visible, starts[:, None] + offset, 0)
            hidden = self._read(flat[place].masked_fill(~visible, self.pad), visible, layers)  # l s w d
            places.append(place[visible])
            found.append(hidden[:, visible])
        n_kept = len(layers) + 1
        if not found:
            return self._shape(
                self.model.get_input_embeddings().weight.new_zeros(n_kept, b * n, self.d_model), b, n, layers
            )
        hidden = torch.cat(found, dim=1)
        whole = hidden.new_zeros(n_kept, b * n, self.d_model).index_copy(1, torch.cat(places), hidden)
        return self._shape(whole, b, n, layers)

    @staticmethod
    def _shape(hidden: Float[Tensor, 'l t d'], b: int, n: int, layers: Sequence[int]) -> Tensor:
        rows = hidden.unflatten(1, (b, n))
        return rows if layers else rows[0]

    def _read(
        self, ids: Int[Tensor, 's w'], visible: Bool[Tensor, 's w'], layers: Sequence[int]
    ) -> Float[Tensor, 'l s w d']:
        """The hidden states of padded texts, those of earlier layers first."""
        position = torch.arange(ids.size(1), device=ids.device)
        options: dict[str, Any] = {'position_ids': (position + self.first_position).expand_as(ids)}
        if self.family.has_types:
            options['token_type_ids'] = self._types(ids)
        found = self.model(input_ids=ids, attention_mask=visible.long(), output_hidden_states=bool(layers), **options)
        earlier = [found.hidden_states[number] for number in layers]
        return torch.stack([*earlier, found.last_hidden_state])

    def _types(self, ids: Int[Tensor, 's w']) -> Int[Tensor, 's w']:
        """1 behind the first separator of a text, else 0."""
        if self.separator is None:
            return torch.zeros_like(ids)
        is_separator = ids == self.separator
        return (is_separator.cumsum(1) > is_separator.long()).long()

    def list_blocks(self) -> list[nn.Module]:
        """The layers, from the lowest to the highest; of ALBERT, whose layers share weights, the groups."""
        return list(self.model.get_submodule(self.family.blocks).children())

    def list_embeddings(self) -> list[nn.Module]:
        """The embeddings, and what else the layers take their input from, those of relative positions too."""
        found = []
        for name in self.family.below:
            owner, _, attribute = name.rpartition('.')
            part = getattr(self.model.get_submodule(owner), attribute, None)  # some only have it by their config
            if isinstance(part, nn.Module):
                found.append(part)
        return found

    def keep_layers(self, n_layers: int) -> None:
        """Remove all layers but the first ones.

        Raises:
            ValueError: It has not as many.
        """
        if not 1 <= n_layers <= self.n_layers:
            raise ValueError(f'n_layers is {n_layers}; give 1 to {self.n_layers}, the layers of the model')
        owner, _, attribute = self.family.blocks.rpartition('.')
        if self.family.model != 'AlbertModel':
            setattr(self.model.get_submodule(owner), attribute, nn.ModuleList(self.list_blocks()[:n_layers]))
        setattr(self.model.config, self.family.n_layers, n_layers)
        self.n_layers = n_layers

    @property
    def of_vocabulary(self) -> frozenset[str]:
        """The name of the embedding of tokens."""
        return frozenset({f'model.{VOCABULARY}'})

    @property
    def attention_pairs(self) -> AttentionPairs:
        """Those of all layers together."""
        return AttentionPairs(causal=False, window=None, n_channels=self.n_layers * self.d_model)


def _group(layout: Layout) -> list[tuple[Int[Tensor, ' s'], Int[Tensor, ' s']]]:
    """The starts and lengths of the texts, in groups of similar lengths; padding and empty segments are left out."""
    lengths = layout.starts.diff()
    is_text = lengths > 0 if layout.is_text is None else (lengths > 0) & layout.is_text
    numbers = is_text.nonzero()[:, 0]
    kept = lengths[numbers]
    # Half-open ranges of lengths: up to _SHORTEST, then each power of two.
    size = (kept.clamp(min=_SHORTEST) - 1).float().log2().floor()
    found = []
    for one in size.unique().tolist():
        members = numbers[size == one]
        found.append((layout.starts[members].long(), lengths[members].long()))
    return found
