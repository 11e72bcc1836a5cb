"""Embeddings of pairs of neighbouring tokens: local statistics that the layers need not learn."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.anatomy import EMBEDDING

from .shift import Before

_SPREAD = 1_000_003
"""Spreads the pairs over the rows: neighbouring first tokens are far apart."""

_SITE = -1
"""Number of this module among those that read earlier tokens; layers count from 0."""


class PairEmbedding(nn.Module):
    """A vector for each token and the one before it, from a table that pairs share by their hash; it begins at zero.

    Source: the hashed bigrams of modded-nanogpt, https://github.com/KellerJordan/modded-nanogpt; Huang et al. 2025,
    https://arxiv.org/abs/2501.16975 (embeddings of n-grams beside those of tokens).

    Args:
        n_rows: Rows of the table.
        d_model: Width.
    """

    def __init__(self, n_rows: int, d_model: int) -> None:
        super().__init__()
        self.n_rows = n_rows
        self.weight = nn.Parameter(torch.zeros(n_rows, d_model))
        self.matrices = {'weight': EMBEDDING}

    def forward(self, ids: Int[Tensor, 'b n'], before: Before) -> Float[Tensor, 'b n d']:
        """The vector of each token's pair; the first token of a document has a pair with none."""
        (earlier,) = before.read(ids[..., None] + 1, 1, _SITE)  # 0: none
        return F.embedding((earlier[..., 0] * _SPREAD + ids) % self.n_rows, self.weight)
