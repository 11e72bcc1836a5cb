"""The base class of trunks: what heads and tasks ask of one, whatever computes its hidden states."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout


class Trunk(nn.Module, ABC):
    """Maps token ids to hidden states, and attends inside documents only.

    Attributes:
        n_vocab: Size of the vocabulary.
        max_len: The longest document that it is built for, in tokens.
        d_model: Width of the hidden states.
        n_layers: Number of blocks.
        causal: Whether a token attends to no later one.
    """

    n_vocab: int
    max_len: int
    d_model: int
    n_layers: int
    causal: bool

    @abstractmethod
    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        *,
        causal: bool | None = None,
        layers: Sequence[int] = (),
    ) -> Float[Tensor, 'b n d'] | Float[Tensor, 'l b n d']:
        """Compute the hidden states.

        Args:
            layout: Where documents begin; None: every row is one document.
            causal: Whether a token attends to no later one in this pass; None: as the trunk does.
            layers: Numbers of earlier layers, from 1, in rising order, whose hidden states come before those of the
                last layer along a new first axis; (): no such axis.

        Raises:
            ValueError: The layout does not fit the ids, or the trunk cannot do what is asked.
        """

    @abstractmethod
    def list_blocks(self) -> list[nn.Module]:
        """The layers, from the lowest to the highest."""

    @abstractmethod
    def list_embeddings(self) -> list[nn.Module]:
        """The modules below the lowest block."""

    @abstractmethod
    def keep_layers(self, n_layers: int) -> None:
        """Remove all layers but the first ones.

        Raises:
            ValueError: It has not as many.
        """

    @property
    @abstractmethod
    def of_vocabulary(self) -> frozenset[str]:
        """Names of the weights with a row per token, which are useless with another tokenizer."""
