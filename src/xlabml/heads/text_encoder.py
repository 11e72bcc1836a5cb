"""The trunk with a pooling: texts -> vectors."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout
from xlabml.transformer import Transformer, Trunk

from .pooling import MeanPooling, Pooling
from .text_vectors import TextVectors


class Dense(nn.Module):
    """A layer over pooled vectors, as sentence-transformers has it.

    Args:
        d_in: Width of the pooled vectors.
        d_out: Width of its output.
        bias: Whether it has one.
        activation: Makes the activation of its output.

    Raises:
        ValueError: d_out is below 1.
    """

    def __init__(self, d_in: int, d_out: int, bias: bool = True, activation: Callable[[], nn.Module] = nn.Tanh) -> None:
        super().__init__()
        if d_out < 1:
            raise ValueError(f'dense.d_out is {d_out}; give 1 or more')
        self.d_out = d_out
        self.linear = nn.Linear(d_in, d_out, bias=bias)
        self.activation = activation()

    def forward(self, vectors: Float[Tensor, 's d']) -> Float[Tensor, 's e']:
        """Project each vector."""
        return self.activation(self.linear(vectors.to(self.linear.weight.dtype)))


class TextEncoder(TextVectors):
    """A trunk and a pooling: one vector a text, which does not depend on the other texts of a pass.

    Args:
        trunk: Computes the hidden states, as a decoder or an encoder.
        pooling: Makes a vector of those of a text.
        dense: Layers over the pooled vectors, from the first on.
        normalize: Bring vectors to length 1, after all else; a zero vector stays one.
        prompts: Texts that are put before others, by name (query, document).
        include_prompt: Whether the tokens of a prompt are pooled with those of the text.
        causal: Whether a token attends to no later one when texts are embedded; None: as the trunk does.
    """

    def __init__(
        self,
        trunk: Trunk,
        pooling: Pooling,
        dense: Sequence[Dense] = (),
        normalize: bool = True,
        prompts: Mapping[str, str] | None = None,
        include_prompt: bool = True,
        causal: bool | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.pooling = pooling
        self.dense = nn.ModuleList(dense)
        self.normalize = normalize
        self.prompts = dict(prompts or {})
        self.include_prompt = include_prompt
        self.causal = causal
        self.d_vector = dense[-1].d_out if dense else pooling.d_out

    @classmethod
    def build(
        cls,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Trunk] = Transformer,
        pooling: Callable[[int], Pooling] = MeanPooling,
        dense: list[Callable[[int], Dense]] | None = None,
        normalize: bool = True,
        prompts: dict[str, str] | None = None,
        include_prompt: bool = True,
    ) -> 'TextEncoder':
        """Build a text encoder from settings; the one place where that is done.

        Args:
            n_vocab: Tokens of the vocabulary.
            max_len: The longest text that it is built for, in tokens, with those around it.
            trunk: Makes the trunk from n_vocab, max_len.
            pooling: Makes the pooling from the width of the trunk.
            dense: Each makes a layer over the pooled vectors from the width before it; None: there are none.
            normalize: As in the class, like all that follow.
            prompts: Texts that are put before others, by name.
            include_prompt: Whether the tokens of a prompt are pooled.
        """
        made = trunk(n_vocab, max_len)
        pool = pooling(made.d_model)
        layers = stack_dense(pool.d_out, dense)
        return cls(made, pool, layers, normalize, prompts, include_prompt)

    @property
    def of_vocabulary(self) -> frozenset[str]:
        """The names of the weights that have a row a token: they mean nothing with another tokenizer."""
        return frozenset(f'trunk.{name}' for name in self.trunk.of_vocabulary)

    @property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
        return self.trunk.n_vocab

    @property
    def max_len(self) -> int:
        """The longest text that it is built for, in tokens, with those around it."""
        return self.trunk.max_len

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        n_prompt: Int[Tensor, ' s'] | None = None,
        layers: Sequence[int] = (),
    ) -> Float[Tensor, 's e'] | Float[Tensor, 'l s e']:
        """The vector of each text, in float32 (or float64, where the weights are); zero for padding.

        Args:
            layout: Where texts begin; None: every row is one.
            n_prompt: For each text, how many of its first tokens are its prompt's; they are pooled only where
                include_prompt says so. None: no text has a prompt.
            layers: Numbers of earlier layers, from 1, in rising order: the vectors that a model of these layers alone
                has come before those of the whole along a new first axis. (): no such axis.

        Raises:
            ValueError: As in Transformer.forward.
        """
        vectors = self.vectors(ids, layout, n_prompt, layers)
        return F.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny) if self.normalize else vectors

    def vectors(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        n_prompt: Int[Tensor, ' s'] | None = None,
        layers: Sequence[int] = (),
    ) -> Float[Tensor, 's e'] | Float[Tensor, 'l s e']:
        """The same before they are brought to length 1, whatever `normalize` says."""
        hidden = self.trunk(ids, layout, causal=self.causal, layers=layers)
        where = row_layout(ids) if layout is None else layout
        skipped = self._skipped(n_prompt)
        if not layers:
            return self._pool(hidden, where, skipped)
        return torch.stack([self._pool(one, where, skipped) for one in hidden])

    def _pool(
        self, hidden: Float[Tensor, 'b n d'], layout: Layout, skipped: Int[Tensor, ' s'] | None
    ) -> Float[Tensor, 's e']:
        vectors = self.pooling(hidden, layout, skipped)
        for layer in self.dense:
            vectors = layer(vectors)
        return vectors.to(torch.promote_types(vectors.dtype, torch.float32))

    def list_blocks(self) -> list[nn.Module]:
        """The blocks of the trunk, which a strategy that shards gathers one at a time."""
        return self.trunk.list_blocks()

    def _skipped(self, n_prompt: Tensor | None) -> Tensor | None:
        return None if self.include_prompt else n_prompt


def stack_dense(d_in: int, dense: Sequence[Callable[[int], Dense]] | None) -> list[Dense]:
    """Layers over pooled vectors, each made from the width before it."""
    layers = list[Dense]()
    for make in dense or []:
        layers.append(make(layers[-1].d_out if layers else d_in))
    return layers


def row_layout(ids: Int[Tensor, 'b n']) -> Layout:
    """The layout of rows that are one text each."""
    b, n = ids.shape
    return Layout(torch.arange(0, b * n + 1, max(n, 1), device=ids.device), n)


def pack(texts: Sequence[Sequence[int]], device: torch.device | str = 'cpu') -> tuple[Int[Tensor, '1 t'], Layout]:
    """The ids of several texts as one flat row without padding, and where each begins."""
    lengths = torch.tensor([0, *map(len, texts)])
    ids = torch.tensor([[item for text in texts for item in text]], dtype=torch.long)
    return ids.to(device), Layout(lengths.cumsum(0).to(device), max(map(len, texts), default=0))


def frame(ids: Sequence[int], sos: int, eos: int, max_len: int, prompt: Sequence[int] = ()) -> list[int]:
    """The token sequence of a text: a prompt and the first tokens that fit, between the start and the end of text.

    Args:
        max_len: The longest sequence, in tokens, those two included.
        prompt: Tokens before those of the text; as many as fit.
    """
    return [sos, *[*prompt, *ids][: max_len - 2], eos]
