"""How vectors lie in space, and whether they have collapsed."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from .vectors import Texts, VectorEvaluator, normalized

_MOST_TEXTS = 2_048
_MOST_SHOWN = 100_000
"""Values of a histogram."""


class Geometry(VectorEvaluator):
    """Figures of the shape of the vectors, at length 1.

    alignment: the mean squared distance of pairs that belong together (0..4, smaller is better). uniformity: the log of
    the mean of exp(-2 squared distance) over all pairs of different texts (0 where all are one, -4 on a sphere).
    effective_rank: how many directions the vectors take up. mean_cosine: of all pairs of different texts.
    collapse: 1 where vectors have collapsed (`find_collapse`), else 0. Histograms of the cosines of pairs that belong
    together and of texts that do not are kept in `shown`.

    Sources: Wang and Isola 2020, https://arxiv.org/abs/2005.10242, sections 4.1 and 4.2; effective rank: Roy and
    Vetterli 2007, https://ieeexplore.ieee.org/document/7098875.

    Args:
        most_texts: Of more texts, this many are read: those with the smallest hashes.
    """

    def __init__(self, most_texts: int = _MOST_TEXTS) -> None:
        super().__init__()
        self.most_texts = most_texts
        self.collapsed: str | None = None

    def names(self) -> list[str]:
        return ['alignment', 'uniformity', 'effective_rank', 'mean_cosine', 'collapse']

    def figures(self, texts: Texts) -> Mapping[str, float]:
        _, first = np.unique(texts.text_hash, return_index=True)  # each text once, by hash
        vectors = normalized(texts.vectors[first[: self.most_texts]])
        a, b = texts.pairs()
        together = (normalized(texts.vectors[a]) * normalized(texts.vectors[b])).sum(axis=1)
        shape = describe_shape(vectors)
        self.collapsed = find_collapse(shape, vectors.shape[1], len(vectors))
        apart = _off_diagonal(vectors @ vectors.T)
        self.shown = {'cosine_together': together, 'cosine_apart': apart[:: max(1, len(apart) // _MOST_SHOWN)]}
        alignment = float((2 - 2 * together).mean()) if len(together) else math.nan
        return {'alignment': alignment, **shape, 'collapse': float(self.collapsed is not None)}


def describe_shape(vectors: Float[np.ndarray, 'n d']) -> dict[str, float]:
    """Uniformity, effective rank and mean cosine of vectors of length 1; NaN for fewer than two."""
    if len(vectors) < 2 or not np.isfinite(vectors).all():
        return dict.fromkeys(('uniformity', 'effective_rank', 'mean_cosine'), math.nan)
    cosine = _off_diagonal(vectors @ vectors.T).astype(np.float64)
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    share = values[values > 0] / values.sum() if values.sum() else np.ones(1)
    return {
        'uniformity': float(np.log(np.exp(-2 * (2 - 2 * cosine)).mean())),
        'effective_rank': float(np.exp(-(share * np.log(share)).sum())),
        'mean_cosine': float(cosine.mean()),
    }


def _off_diagonal(square: Float[np.ndarray, 'n n']) -> np.ndarray:
    return square[~np.eye(len(square), dtype=bool)]


_HIGH_COSINE = 0.95
_LOW_RANK = 2.0
_LEAST_TEXTS = 8


def find_collapse(shape: Mapping[str, float], d_vector: int, n_texts: int) -> str | None:
    """How vectors have collapsed, for people; None: they have not, or there are too few to tell.

    Args:
        shape: The figures of `describe_shape`.
        d_vector: The width of the vectors.
        n_texts: How many texts there were.
    """
    if n_texts < _LEAST_TEXTS:
        return None
    if any(math.isnan(value) for value in shape.values()):
        return 'vectors are not finite'
    if shape['mean_cosine'] > _HIGH_COSINE:
        return (
            f'all vectors point one way: the mean cosine of {n_texts} different texts is {shape["mean_cosine"]:.3f} '
            f'(above {_HIGH_COSINE}); lower the learning rate, raise the temperature, or give larger batches'
        )
    if shape['effective_rank'] < min(_LOW_RANK, d_vector):
        return (
            f'vectors lie on a line: {n_texts} different texts take up {shape["effective_rank"]:.2f} of {d_vector} '
            f'directions (below {min(_LOW_RANK, d_vector):g}); lower the learning rate, or give larger batches'
        )
    return None
