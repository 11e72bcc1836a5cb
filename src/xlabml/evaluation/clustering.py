"""Do clusters of vectors agree with classes: k-means with as many clusters as classes, and the V-measure."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float64, Int64

from .evaluator import Monitor
from .vectors import Texts, VectorEvaluator, normalized, require_labels


class Clustering(VectorEvaluator):
    """The V-measure of k-means over the texts of classes, and its parts.

    Figures are `v_measure`, `homogeneity` (a cluster has one class) and `completeness` (a class has one cluster).

    Args:
        n_starts: How often k-means starts; the run with the least squared distances counts.
        n_steps: The most steps of a start.
        seed: Of the starts.
        normalize: Whether vectors are clustered at length 1, by their directions.
    """

    def __init__(self, n_starts: int = 4, n_steps: int = 100, seed: int = 0, normalize: bool = True) -> None:
        super().__init__()
        self.n_starts = n_starts
        self.n_steps = n_steps
        self.seed = seed
        self.normalize = normalize

    @property
    def primary(self) -> Monitor:
        return Monitor('val_v_measure', 'max')

    def names(self) -> list[str]:
        return ['v_measure', 'homogeneity', 'completeness']

    def check(self, texts: Texts) -> None:
        require_labels(self, texts)

    def figures(self, texts: Texts) -> Mapping[str, float]:
        self.check(texts)
        texts = texts.classed()
        assert texts.label is not None
        if not len(texts.example):
            return dict.fromkeys(self.names(), math.nan)
        labels = texts.label[texts.example]
        vectors = normalized(texts.vectors) if self.normalize else texts.vectors
        n_clusters = len(np.unique(labels))
        if not np.isfinite(vectors).all():
            return dict.fromkeys(self.names(), math.nan)
        clusters = k_means(vectors, n_clusters, self.n_starts, self.n_steps, self.seed)
        return v_measure(labels, clusters)


def k_means(
    vectors: Float[np.ndarray, 'n d'], n_clusters: int, n_starts: int = 4, n_steps: int = 100, seed: int = 0
) -> Int64[np.ndarray, ' n']:
    """The cluster of each vector.

    Sources: Lloyd 1982, https://doi.org/10.1109/TIT.1982.1056489; starts as Arthur and Vassilvitskii 2007 (k-means++).

    Raises:
        ValueError: There are more clusters than vectors.
    """
    if not 0 < n_clusters <= len(vectors):
        raise ValueError(f'{len(vectors)} vectors cannot make {n_clusters} clusters')
    x = np.asarray(vectors, np.float64)
    squares = np.square(x).sum(axis=1)
    generator = np.random.default_rng(seed)
    best = math.inf
    found = np.zeros(len(x), np.int64)
    for _ in range(n_starts):
        centers = _start(x, squares, n_clusters, generator)
        clusters = np.full(len(x), -1, np.int64)
        for _ in range(n_steps):
            distances = _squared(x, squares, centers)
            nearest = distances.argmin(axis=1)
            if (nearest == clusters).all():
                break
            clusters = nearest
            counts = np.bincount(clusters, minlength=n_clusters)
            sums = np.zeros_like(centers)
            np.add.at(sums, clusters, x)
            centers = sums / np.maximum(1, counts)[:, None]
            # A cluster that lost all its vectors takes the one that is farthest from its center.
            farthest = distances.min(axis=1).argsort()[::-1]
            for place, empty in enumerate(np.flatnonzero(counts == 0)):
                centers[empty] = x[farthest[place]]
        cost = float(_squared(x, squares, centers).min(axis=1).sum())
        if cost < best:
            best = cost
            found = clusters
    return found


def _start(x: np.ndarray, squares: np.ndarray, n_clusters: int, generator: np.random.Generator) -> np.ndarray:
    """Centers, each drawn by its squared distance from those there are."""
    centers = [x[generator.integers(len(x))]]
    nearest = _squared(x, squares, centers[0][None])[:, 0]
    while len(centers) < n_clusters:
        total = nearest.sum()
        chosen = generator.choice(len(x), p=nearest / total) if total > 0 else generator.integers(len(x))
        centers.append(x[chosen])
        nearest = np.minimum(nearest, _squared(x, squares, centers[-1][None])[:, 0])
    return np.stack(centers)


def _squared(x: np.ndarray, squares: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return np.maximum(0, squares[:, None] - 2 * x @ centers.T + np.square(centers).sum(axis=1))


def v_measure(labels: Int64[np.ndarray, ' n'], clusters: Int64[np.ndarray, ' n']) -> dict[str, float]:
    """The harmonic mean of homogeneity and completeness, and both.

    Source: Rosenberg and Hirschberg 2007, https://aclanthology.org/D07-1043.
    """
    _, label = np.unique(labels, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)
    counts = np.zeros((label.max(initial=0) + 1, cluster.max(initial=0) + 1))
    np.add.at(counts, (label, cluster), 1)
    of_labels = _entropy(counts.sum(axis=1))
    of_clusters = _entropy(counts.sum(axis=0))
    shared = of_labels + of_clusters - _entropy(counts.ravel())
    homogeneity = shared / of_labels if of_labels > 0 else 1.0
    completeness = shared / of_clusters if of_clusters > 0 else 1.0
    total = homogeneity + completeness
    return {
        'v_measure': 2 * homogeneity * completeness / total if total > 0 else 0.0,
        'homogeneity': homogeneity,
        'completeness': completeness,
    }


def _entropy(counts: Float64[np.ndarray, ' k']) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
