"""A table of token vectors: the vector of a text is the mean of those of its tokens. No trunk."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xlabml.anatomy import EMBEDDING
from xlabml.batches import Layout

from .text_encoder import row_layout
from .text_vectors import TextVectors


class StaticEncoder(TextVectors):
    """A vector for each token; that of a text is their mean, in any order.

    A token that counts for nothing has a zero vector, and one that says much a long vector: weights are part of the
    table. Texts have no tokens around them, and no prompts.

    Source: Model2Vec, Tulkens & van Dongen 2024, https://github.com/MinishLab/model2vec.

    Args:
        n_vocab: Tokens of the vocabulary.
        max_len: How many tokens of a text are read.
        d_vector: Width of the vectors.
        normalize: Bring vectors of texts to length 1; a zero vector stays one.
    """

    def __init__(self, n_vocab: int, max_len: int, d_vector: int, normalize: bool = True) -> None:
        super().__init__()
        for name, value in (('n_vocab', n_vocab), ('max_len', max_len), ('d_vector', d_vector)):
            if value < 1:
                raise ValueError(f'{name} is {value}; give 1 or more')
        self.table = nn.Parameter(torch.zeros(n_vocab, d_vector))
        self.matrices = {'table': EMBEDDING}
        self.d_vector = d_vector
        self.normalize = normalize
        self.prompts = {}
        self._max_len = max_len

    @property
    def of_vocabulary(self) -> frozenset[str]:
        """The names of the weights that have a row a token: they mean nothing with another tokenizer."""
        return frozenset({'table'})

    @property
    def n_vocab(self) -> int:
        return self.table.size(0)

    @property
    def max_len(self) -> int:
        return self._max_len

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        n_prompt: Int[Tensor, ' s'] | None = None,
        counts: Bool[Tensor, ' t'] | None = None,
    ) -> Float[Tensor, 's e']:
        """The vector of each text; arguments as of `vectors`."""
        vectors = self.vectors(ids, layout, n_prompt, counts)
        return F.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny) if self.normalize else vectors

    def vectors(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        n_prompt: Int[Tensor, ' s'] | None = None,
        counts: Bool[Tensor, ' t'] | None = None,
    ) -> Float[Tensor, 's e']:
        """The mean of the token vectors of each text; arguments as in the base class and in `means`."""
        layout = row_layout(ids) if layout is None else layout
        vectors = self.means(ids.flatten(), layout.starts.long(), counts)
        return vectors if layout.is_text is None else vectors.masked_fill(~layout.is_text[:, None], 0)

    def means(
        self,
        ids: Int[Tensor, ' t'],
        starts: Int[Tensor, ' begins'],
        counts: Bool[Tensor, ' t'] | None = None,
    ) -> Float[Tensor, 's e']:
        """The same of flat ids.

        Args:
            starts: Where each text begins, and where the last one ends; an empty one is a zero vector.
            counts: Which tokens count; None: all. A text of which none does is a zero vector.
        """
        if counts is None:
            return F.embedding_bag(ids, self.table, starts, mode='mean', include_last_offset=True)
        weight = counts.to(self.table.dtype)
        sums = F.embedding_bag(ids, self.table, starts, mode='sum', per_sample_weights=weight, include_last_offset=True)
        return sums / count_in(counts, starts).clamp(min=1)[:, None]


def count_in(counts: Bool[Tensor, ' t'], starts: Int[Tensor, ' begins']) -> Int[Tensor, ' s']:
    """How many tokens of each text count."""
    before = F.pad(counts.long().cumsum(0), (1, 0))
    return before[starts[1:]] - before[starts[:-1]]
