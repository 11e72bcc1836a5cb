"""Several vectors a text, for late interaction: tokens that stand side by side share one."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xlabml.losses.late_interaction import max_similarity

from .pooling import Pooling, Segments


class TokenVectors(Pooling):
    """Vectors of length 1, each of the mean of neighbouring tokens, one after the other in one long row.

    A text of n tokens has ceil(n / factor) of them, at most `n_vectors`; its tokens are divided evenly, in their order.
    Entries behind the last vector are zero. Texts are compared by `scores`, and trained by the objective
    `LateInteraction`.

    Sources: ColBERT, Khattab & Zaharia 2020, https://arxiv.org/abs/2004.12832; fewer vectors by pooling: Clavié et al.
    2024, https://arxiv.org/abs/2409.14683 (sequential pooling).

    Args:
        d_model: Width of the hidden states.
        d_token: Width of a vector, a linear map of the hidden states; None: these as they are.
        n_vectors: The most vectors of a text.
        factor: Tokens that share a vector; 1: none do, where n_vectors has room.

    Raises:
        ValueError: One of them is below 1.
    """

    def __init__(self, d_model: int, d_token: int | None = 64, n_vectors: int = 32, factor: int = 1) -> None:
        super().__init__(d_model)
        for name, value in (
            ('d_token', 1 if d_token is None else d_token),
            ('n_vectors', n_vectors),
            ('factor', factor),
        ):
            if value < 1:
                raise ValueError(f'pooling.{name} is {value}; give 1 or more')
        self.n_vectors = n_vectors
        self.factor = factor
        self.linear = nn.Identity() if d_token is None else nn.Linear(d_model, d_token, bias=False)
        self.d_out = (d_token or d_model) * n_vectors

    def pool(self, hidden: Float[Tensor, 't d'], segments: Segments) -> Float[Tensor, 's w']:
        """Means of neighbours, at length 1, of those tokens that count."""
        weight = next(self.linear.parameters(), hidden)
        vectors = self.linear(hidden.to(weight.dtype)).to(hidden.dtype)
        counts = segments.counts.long()
        total = counts.cumsum(0)
        first = torch.cat([total.new_zeros(1), total])[segments.starts[:-1]]  # s: tokens that count, before a text
        n_tokens = segments.sums(counts.to(hidden.dtype)).long()
        n_groups = (-(-n_tokens // self.factor)).clamp(max=self.n_vectors)
        place = total - 1 - first[segments.segment]  # of a token among those of its text that count
        group = place.clamp(min=0) * n_groups[segments.segment] // n_tokens[segments.segment].clamp(min=1)
        slot = segments.segment * self.n_vectors + group
        n_slots = n_tokens.numel() * self.n_vectors
        kept = vectors.masked_fill(~segments.counts[:, None], 0)
        sums = kept.new_zeros(n_slots, kept.size(1)).index_add(0, slot, kept)  # a mean has the same direction
        unit = F.normalize(sums, dim=-1, eps=torch.finfo(sums.dtype).tiny)
        return unit.view(n_tokens.numel(), -1)

    def scores(self, queries: Float[Tensor, 'q w'], documents: Float[Tensor, 'n w']) -> Float[Tensor, 'q n']:
        """The score of each document for each query, in -1..1; see `max_similarity`."""
        return max_similarity(queries, documents, self.n_vectors)
