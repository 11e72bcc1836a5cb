"""What a network is that makes a vector of a text: the trunk with a pooling, or a table of token vectors."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout


class TextVectors(nn.Module, ABC):
    """The base class: token ids of texts to one vector a text, which does not depend on the other texts of a pass.

    Attributes:
        d_vector: Width of the vectors.
        normalize: Whether they are brought to length 1, after all else; a zero vector stays one.
        prompts: Texts that are put before others, by name (query, document).
    """

    d_vector: int
    normalize: bool
    prompts: dict[str, str]

    @property
    @abstractmethod
    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""

    @property
    @abstractmethod
    def max_len(self) -> int:
        """The longest text that it is built for, in tokens, with those around it."""

    @abstractmethod
    def vectors(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        n_prompt: Int[Tensor, ' s'] | None = None,
    ) -> Float[Tensor, 's e']:
        """The vector of each text in float32 or wider, whatever `normalize` says; zero for padding.

        Args:
            layout: Where texts begin; None: every row is one.
            n_prompt: For each text, how many of its first tokens are its prompt's. None: no text has a prompt.
        """
