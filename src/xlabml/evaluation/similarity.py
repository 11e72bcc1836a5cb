"""Figures of pairs and triplets: correlation with scores, labels told by similarity, translations found."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from xlabml.batches import ANCHOR, NEGATIVE, POSITIVE

from .evaluator import Monitor
from .ranks import pearson, spearman
from .vectors import Encode, Kind, Texts, VectorEvaluator, compare, compare_pairs

_KINDS: tuple[Kind, ...] = ('cosine', 'dot', 'euclidean')


class Similarity(VectorEvaluator):
    """Pearson's and Spearman's correlation of the similarity of a pair with its score, over the whole split.

    Figures are `cosine_spearman`, `cosine_pearson` …; NaN where all scores, or all similarities, are equal.

    Args:
        kinds: How vectors are compared; Euclidean: minus the distance.
    """

    of_pairs = True

    def __init__(self, kinds: Sequence[Kind] = _KINDS) -> None:
        super().__init__()
        self.kinds = tuple(kinds)

    @property
    def primary(self) -> Monitor:
        return Monitor(f'val_{self.kinds[0]}_spearman', 'max')

    def names(self) -> list[str]:
        return [f'{kind}_{figure}' for kind in self.kinds for figure in ('spearman', 'pearson')]

    def check(self, texts: Texts) -> None:
        if texts.score is None:
            raise ValueError('Similarity needs scores of pairs; name their column in data.examples.score')

    def figures(self, texts: Texts) -> Mapping[str, float]:
        self.check(texts)
        assert texts.score is not None
        a, b = texts.pairs()
        return correlations(texts.vectors[a], texts.vectors[b], texts.score[b], self.kinds)


def correlations(
    a: Float[np.ndarray, 'p d'],
    b: Float[np.ndarray, 'p d'],
    scores: Float[np.ndarray, ' p'],
    kinds: Sequence[Kind] = _KINDS,
) -> dict[str, float]:
    """The figures of `Similarity` of pairs of vectors."""
    found = {}
    for kind in kinds:
        similarity = torch.from_numpy(compare_pairs(a, b, kind))
        found[f'{kind}_spearman'] = spearman(similarity, torch.from_numpy(scores))
        found[f'{kind}_pearson'] = pearson(similarity, torch.from_numpy(scores))
    return found


def evaluate_similarity(
    encode: Encode, a: Sequence[str], b: Sequence[str], scores: Float[np.ndarray, ' p'], kinds: Sequence[Kind] = _KINDS
) -> dict[str, float]:
    """The figures of `Similarity` for any model: a callable from texts to vectors."""
    return correlations(encode(a), encode(b), scores, kinds)


class TripletAccuracy(VectorEvaluator):
    """The share of triplets whose anchor is nearer to the positive than to the negative; equally near is wrong.

    Groups that have negatives are triplets, one for each. Where there are classes instead, each text is an anchor with
    a drawn text of its class and one of another class; a text that is alone in its class is left out.

    Args:
        similarity: How vectors are compared.
        seed: Of what is drawn.
    """

    def __init__(self, similarity: Kind = 'cosine', seed: int = 0) -> None:
        super().__init__()
        self.similarity: Kind = similarity
        self.seed = seed

    @property
    def primary(self) -> Monitor:
        return Monitor('val_triplet_accuracy', 'max')

    def names(self) -> list[str]:
        return ['triplet_accuracy']

    def check(self, texts: Texts) -> None:
        if texts.label is None and not (texts.role >= NEGATIVE).any():
            raise ValueError(
                'TripletAccuracy needs negatives, or labels; name their columns in data.examples.roles.negatives or '
                'data.examples.label'
            )

    def figures(self, texts: Texts) -> Mapping[str, float]:
        negatives = np.flatnonzero(texts.role >= NEGATIVE)
        if len(negatives):
            anchor = texts.first_of(ANCHOR)[texts.example[negatives]]
            positive = texts.first_of(POSITIVE)[texts.example[negatives]]
            whole = (anchor >= 0) & (positive >= 0)
            triplets = anchor[whole], positive[whole], negatives[whole]
        else:
            self.check(texts)
            texts = texts.classed()
            assert texts.label is not None, 'or there are negatives'
            triplets = draw_triplets(texts.label[texts.example], self.seed)
        if not len(triplets[0]):
            return {'triplet_accuracy': math.nan}
        anchors, positives, others = (texts.vectors[some] for some in triplets)
        nearer = compare_pairs(anchors, positives, self.similarity) > compare_pairs(anchors, others, self.similarity)
        return {'triplet_accuracy': float(nearer.mean())}


def draw_triplets(
    labels: Int64[np.ndarray, ' n'], seed: int = 0
) -> tuple[Int64[np.ndarray, ' t'], Int64[np.ndarray, ' t'], Int64[np.ndarray, ' t']]:
    """For each text, itself, a drawn other text of its class, and one of another class; texts alone are left out."""
    generator = np.random.default_rng(seed)
    order = np.argsort(labels, kind='stable')
    classes, begins, counts = np.unique(labels[order], return_index=True, return_counts=True)
    of = np.searchsorted(classes, labels)
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels))
    anchors = np.flatnonzero((counts[of] > 1) & (counts[of] < len(labels)))
    begin = begins[of[anchors]]
    count = counts[of[anchors]]
    # Another place of the class, and a place outside of it, both counted past what they must not be.
    within = generator.integers(0, count - 1)
    positive = begin + within + (within >= place[anchors] - begin)
    outside = generator.integers(0, len(labels) - count)
    negative = outside + np.where(outside >= begin, count, 0)
    return anchors, order[positive], order[negative]


class PairClassification(VectorEvaluator):
    """How well similarity tells pairs of label 1 from pairs of label 0.

    Figures are `cosine_ap` (average precision), and `cosine_f1` and `cosine_accuracy` at the best threshold of each,
    `cosine_f1_threshold` and `cosine_accuracy_threshold`. A threshold lies halfway between two similarities that
    differ: pairs of equal similarity are never told apart.

    Args:
        kinds: How vectors are compared.
    """

    of_pairs = True

    def __init__(self, kinds: Sequence[Kind] = ('cosine',)) -> None:
        super().__init__()
        self.kinds = tuple(kinds)

    @property
    def primary(self) -> Monitor:
        return Monitor(f'val_{self.kinds[0]}_ap', 'max')

    def names(self) -> list[str]:
        return [f'{kind}_{name}' for kind in self.kinds for name in Separation._fields]

    def check(self, texts: Texts) -> None:
        if texts.label is None:
            raise ValueError('PairClassification needs labels of pairs; name their column in data.examples.label')

    def figures(self, texts: Texts) -> Mapping[str, float]:
        self.check(texts)
        texts = texts.classed()
        assert texts.label is not None
        a, b = texts.pairs()
        is_positive = texts.label[texts.example[a]] == 1
        found: dict[str, float] = {}
        for kind in self.kinds:
            separation = separate(compare_pairs(texts.vectors[a], texts.vectors[b], kind), is_positive)
            found |= {f'{kind}_{name}': value for name, value in separation._asdict().items()}
        return found


class Separation(NamedTuple):
    """How well scores tell two classes apart."""

    ap: float
    f1: float
    f1_threshold: float
    accuracy: float
    accuracy_threshold: float


def separate(scores: Float[np.ndarray, ' n'], is_positive: Bool[np.ndarray, ' n']) -> Separation:
    """Average precision, and the best F1 and accuracy with their thresholds: a score of at least one is positive.

    Of equally good thresholds the highest counts; NaN where there is one class only.
    """
    if not is_positive.any() or is_positive.all():
        return Separation(*[math.nan] * 5)
    order = np.argsort(-scores, kind='stable')
    ordered = scores[order]
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))  # of each run of equal scores
    true = np.cumsum(is_positive[order])[last]
    chosen = last + 1
    n_positive = int(is_positive.sum())
    precision = true / chosen
    f1 = 2 * true / (chosen + n_positive)
    accuracy = (true + (len(scores) - n_positive) - (chosen - true)) / len(scores)
    threshold = np.append((ordered[last[:-1]] + ordered[last[:-1] + 1]) / 2, ordered[-1])
    ap = float((np.diff(true, prepend=0) / n_positive * precision).sum())
    best_f1 = int(f1.argmax())
    best = int(accuracy.argmax())
    none = (len(scores) - n_positive) / len(scores)  # all are called negative
    if none >= accuracy[best]:
        return Separation(ap, float(f1[best_f1]), float(threshold[best_f1]), none, math.inf)
    return Separation(ap, float(f1[best_f1]), float(threshold[best_f1]), float(accuracy[best]), float(threshold[best]))


class Bitext(VectorEvaluator):
    """The share of texts whose nearest text of the other side is their translation, in both directions.

    Equal texts are one; where several are equally near, none is found.

    Args:
        similarity: How vectors are compared.
    """

    of_pairs = True

    def __init__(self, similarity: Kind = 'cosine') -> None:
        super().__init__()
        self.similarity: Kind = similarity

    @property
    def primary(self) -> Monitor:
        return Monitor('val_bitext_accuracy', 'max')

    def names(self) -> list[str]:
        return ['bitext_accuracy', 'bitext_a_to_b', 'bitext_b_to_a']

    def figures(self, texts: Texts) -> Mapping[str, float]:
        a, b = texts.pairs()
        sides = texts.vectors[a], texts.vectors[b]
        hashes = texts.text_hash[a], texts.text_hash[b]
        there = _found(*sides, hashes[1], self.similarity)
        back = _found(*sides[::-1], hashes[0], self.similarity)
        return {'bitext_accuracy': (there + back) / 2, 'bitext_a_to_b': there, 'bitext_b_to_a': back}


def _found(
    queries: Float[np.ndarray, 'p d'],
    texts: Float[np.ndarray, 'p d'],
    text_hash: Int64[np.ndarray, ' p'],
    similarity: Kind,
    n_each: int = 1024,
) -> float:
    n_found = 0
    for first in range(0, len(queries), n_each):
        scores = compare(queries[first : first + n_each], texts, similarity)
        rows = np.arange(len(scores))
        own = scores[rows, first + rows]
        is_other = text_hash[None, :] != text_hash[first + rows][:, None]
        n_found += int((np.where(is_other, scores, -math.inf).max(axis=1) < own).sum())
    return n_found / max(1, len(queries))
