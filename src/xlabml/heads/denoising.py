"""An encoder whose vector a decoder reconstructs the text from: both are one trunk, read in two ways."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout
from xlabml.losses import CrossEntropy, Loss, LossSums
from xlabml.transformer import Transformer

from .pooling import FirstPooling, Pooling


class DenoisingAutoencoder(nn.Module):
    """A trunk that encodes noisy texts as a whole, and predicts the texts from left to right, each after its vector.

    The vector takes the place of the start of the text in the decoder's input, so that all that the decoder knows of
    the whole text went through it. Source: TSDAE, Wang et al. 2021, https://arxiv.org/abs/2104.06979, with the weights
    of encoder and decoder tied, as there, and without cross-attention.

    Args:
        trunk: An encoder (`causal: false`); the decoder is the same weights, causal.
        pooling: Makes a vector of the hidden states of a noisy text.
        loss: Of the tokens.

    Raises:
        ValueError: The trunk is causal.
    """

    def __init__(self, trunk: Transformer, pooling: Pooling, loss: Loss) -> None:
        super().__init__()
        if trunk.causal:
            raise ValueError('model.trunk.causal is true, but the encoder reads whole texts; set it to false')
        self.trunk = trunk
        self.pooling = pooling
        self.loss = loss

    @classmethod
    def build(
        cls,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Transformer] = Transformer,
        pooling: Callable[[int], Pooling] = FirstPooling,
        loss: Callable[[], Loss] = CrossEntropy,
    ) -> 'DenoisingAutoencoder':
        """Build one from settings; the one place where that is done.

        Args:
            n_vocab: Tokens of the vocabulary.
            max_len: The longest text that it is built for, in tokens, with those around it.
            trunk: Makes the trunk from n_vocab, max_len.
            pooling: Makes the pooling from the width of the trunk.
            loss: Makes the loss of the tokens.
        """
        made = trunk(n_vocab, max_len)
        return cls(made, pooling(made.d_model), loss())

    @property
    def of_vocabulary(self) -> frozenset[str]:
        """The names of the weights that have a row a token: they mean nothing with another tokenizer."""
        return frozenset({'trunk.embedding.weight'})

    @property
    def max_len(self) -> int:
        """The longest text that it is built for, in tokens, with those around it."""
        return self.trunk.max_len

    def forward(
        self, ids: Int[Tensor, '2 n'], layout: Layout, targets: Int[Tensor, '2 n'], each: bool = False
    ) -> LossSums | Float[Tensor, '2 n']:
        """Sums of the loss of the texts' tokens.

        Args:
            ids: A row of noisy texts, and a row of the texts; text i is segment i of its row.
            layout: Of both rows; each has half of the segments.
            targets: The next token of each slot of the second row.
            each: Return the negative log-likelihood of each target instead; 0 where there is none.
        """
        noisy, whole = split_rows(layout, ids.size(1))
        vectors = self.pooling(self.trunk(ids[:1], noisy), noisy)
        hidden = self.trunk(ids[1:], whole, first=vectors, causal=True)[0]  # n d
        flat = hidden, self.trunk.embedding.weight, targets[1]
        if not each:
            return self.loss(*flat)
        nats = self.loss.nats(*flat)
        return torch.stack([torch.zeros_like(nats), nats])

    def list_blocks(self) -> list[nn.Module]:
        """The blocks of the trunk, which a strategy that shards gathers one at a time."""
        return list(self.trunk.blocks)


def split_rows(layout: Layout, n: int) -> tuple[Layout, Layout]:
    """The layouts of two rows of n slots that have as many segments each."""
    half = (len(layout.starts) - 1) // 2
    is_text = layout.is_text
    first = Layout(layout.starts[: half + 1], layout.max_length, None if is_text is None else is_text[:half])
    second = Layout(layout.starts[half:] - n, layout.max_length, None if is_text is None else is_text[half:])
    return first, second
