"""Late interaction: a text is several vectors, and a query's score is what its vectors find in a document.

Source: ColBERT, Khattab & Zaharia 2020, https://arxiv.org/abs/2004.12832, eq. 3.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .info_nce import InfoNCE
from .similarity import normalize

_TOGETHER = 16
"""Queries that are compared at a time: all at once would be a number for each pair of vectors of the whole step."""


def max_similarity(
    queries: Float[Tensor, 'q width'], documents: Float[Tensor, 'n width'], n_vectors: int
) -> Float[Tensor, 'q n']:
    """The mean, over the vectors of a query, of the largest cosine with a vector of the document.

    ColBERT's score is the sum; the mean orders documents alike, and lies in -1..1 for queries of any length.

    Args:
        queries: The vectors of each query, one after the other; those behind the last one are zero.
        documents: Likewise.
        n_vectors: How many vectors a text has room for, a divisor of the width.

    Raises:
        ValueError: It is no divisor.
    """
    asked, is_asked = _separate(queries, n_vectors)  # q k d
    known, is_known = _separate(documents, n_vectors)  # n k d
    found = []
    for some, is_some in zip(asked.split(_TOGETHER), is_asked.split(_TOGETHER)):
        cosine = torch.einsum('qid,njd->qnij', some, known)
        found.append(_mean_of_best(cosine, is_some[:, None], is_known[None]))
    return torch.cat(found) if found else queries.new_zeros(0, len(documents))


def pair_max_similarity(
    queries: Float[Tensor, 'p width'], documents: Float[Tensor, 'p width'], n_vectors: int
) -> Float[Tensor, ' p']:
    """The same of each query and the document in its place."""
    asked, is_asked = _separate(queries, n_vectors)
    known, is_known = _separate(documents, n_vectors)
    return _mean_of_best(torch.einsum('pid,pjd->pij', asked, known), is_asked, is_known)


def _separate(texts: Float[Tensor, 't width'], n_vectors: int) -> tuple[Float[Tensor, 't k d'], Bool[Tensor, 't k']]:
    """The vectors of each text at length 1, and which are there."""
    if n_vectors < 1 or texts.size(-1) % n_vectors:
        raise ValueError(
            f'n_vectors is {n_vectors}, but texts have {texts.size(-1)} entries; give that of the pooling '
            '(model.pooling.n_vectors)'
        )
    unit = normalize(texts.unflatten(-1, (n_vectors, -1)))
    return unit, (unit != 0).any(dim=-1)


def _mean_of_best(
    cosine: Float[Tensor, '*p i j'], is_asked: Bool[Tensor, '*#p i'], is_known: Bool[Tensor, '*#p j']
) -> Float[Tensor, '*p']:
    """The mean over i of the largest over j; 0 where either has nothing."""
    best = cosine.masked_fill(~is_known[..., None, :], -torch.inf).amax(dim=-1)  # p i
    is_compared = is_asked & is_known.any(dim=-1, keepdim=True)
    return best.masked_fill(~is_compared, 0).sum(dim=-1) / is_asked.sum(dim=-1).clamp(min=1)


class LateInteraction(InfoNCE):
    """InfoNCE of the scores of late interaction; for the pooling `TokenVectors`.

    Duplicates, negatives of a record and texts of other devices are treated as in InfoNCE, with each document scored
    against each anchor (q2d).

    Args:
        n_vectors: How many vectors a text has room for: that of the pooling.
        temperature: Scores, which lie in -1..1, are divided by it.
        learn_temperature: Whether it is a weight that the optimizer moves (its log is); it never falls below 0.01.
        mask_duplicates: Whether equal texts are left out of the negatives.
    """

    def __init__(
        self,
        n_vectors: int = 32,
        temperature: float = 0.05,
        learn_temperature: bool = False,
        mask_duplicates: bool = True,
    ) -> None:
        super().__init__(temperature, learn_temperature, similarity='dot', mask_duplicates=mask_duplicates)
        if n_vectors < 1:
            raise ValueError(f'n_vectors is {n_vectors}; give 1 or more')
        self.n_vectors = n_vectors

    def compare(self, x: Float[Tensor, 'i d'], y: Float[Tensor, 'j d']) -> Float[Tensor, 'i j']:
        return max_similarity(x, y, self.n_vectors)

    def compare_pairs(self, x: Float[Tensor, 'i d'], y: Float[Tensor, 'i d']) -> Float[Tensor, ' i']:
        return pair_max_similarity(x, y, self.n_vectors)
