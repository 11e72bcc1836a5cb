"""The base class of trunks: what heads and tasks ask of one, whatever computes its hidden states."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout


class Trunk(nn.Module, ABC):
    """Maps token ids to hidden states, and attends inside documents only.

    Attributes:
        n_vocab: Size of the vocabulary.
        max_len: The longest document that it is built for, in tokens.
        d_model: Width of the hidden states.
        causal: Whether a token attends to no later one.
    """

    n_vocab: int
    max_len: int
    d_model: int
    causal: bool

    @abstractmethod
    def forward(self, ids: Int[Tensor, 'b n'], layout: Layout | None = None) -> Float[Tensor, 'b n d']:
        """Compute the hidden states; without a layout every row is one document."""

    @abstractmethod
    def list_blocks(self) -> list[nn.Module]:
        """The layers, from the lowest to the highest."""

    @abstractmethod
    def list_embeddings(self) -> list[nn.Module]:
        """The modules below the lowest block."""

    @property
    @abstractmethod
    def of_vocabulary(self) -> frozenset[str]:
        """Names of the weights with a row per token, which are useless with another tokenizer."""
