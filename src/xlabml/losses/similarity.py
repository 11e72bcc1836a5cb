"""Similarities and distances of vectors, without NaN: at zero vectors and at zero distances the gradient is 0."""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Similarity: TypeAlias = Literal['cosine', 'dot']
Distance: TypeAlias = Literal['euclidean', 'cosine', 'manhattan']


def normalize(vectors: Float[Tensor, '... d']) -> Float[Tensor, '... d']:
    """Vectors at length 1; a zero vector stays zero, without gradient.

    The largest entry is divided out first, so that no square overflows or vanishes. As a direction does not depend on
    length, that needs no gradient of its own.
    """
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    is_zero = largest == 0
    scaled = vectors / largest.masked_fill(is_zero, 1.0)
    length = scaled.square().sum(dim=-1, keepdim=True).masked_fill(is_zero, 1.0).sqrt()
    return (scaled / length).masked_fill(is_zero, 0.0)


def similarities(x: Float[Tensor, 'i d'], y: Float[Tensor, 'j d'], kind: Similarity = 'cosine') -> Float[Tensor, 'i j']:
    """The similarity of each x and each y."""
    return x @ y.mT if kind == 'dot' else normalize(x) @ normalize(y).mT


def pair_similarities(
    x: Float[Tensor, '... d'], y: Float[Tensor, '... d'], kind: Similarity = 'cosine'
) -> Float[Tensor, '...']:
    """The similarity of each x and the y in its place."""
    return ((x * y) if kind == 'dot' else normalize(x) * normalize(y)).sum(dim=-1)


def distances(x: Float[Tensor, 'i d'], y: Float[Tensor, 'j d'], kind: Distance = 'euclidean') -> Float[Tensor, 'i j']:
    """The distance of each x and each y; cosine: 1 minus the similarity.

    Differences are taken before squares: |x|² - 2xy + |y|² loses the near ones in float32.
    """
    if kind == 'cosine':
        return 1 - similarities(x, y)
    order = 2.0 if kind == 'euclidean' else 1.0
    return torch.cdist(x, y, p=order, compute_mode='donot_use_mm_for_euclid_dist')


def pair_distances(
    x: Float[Tensor, '... d'], y: Float[Tensor, '... d'], kind: Distance = 'euclidean'
) -> Float[Tensor, '...']:
    """The distance of each x and the y in its place; cosine: 1 minus the similarity."""
    if kind == 'cosine':
        return 1 - pair_similarities(x, y)
    return torch.linalg.vector_norm(x - y, ord=2 if kind == 'euclidean' else 1, dim=-1)
