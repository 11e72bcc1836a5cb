"""Do vectors tell classes: a linear probe, and the nearest neighbours."""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64

from .evaluator import Monitor
from .vectors import Kind, Texts, VectorEvaluator, compare, normalized, require_labels


class LinearProbe(VectorEvaluator):
    """Accuracy and macro F1 of a logistic regression over the vectors, each text predicted by one that has not seen it.

    Texts are parted into folds by their hashes, so that equal texts are in one fold.

    Args:
        n_folds: How many folds.
        strength: The inverse of the regularization, as scikit-learn's C: larger fits closer.
        normalize: Whether vectors are read at length 1.
    """

    def __init__(self, n_folds: int = 5, strength: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        if n_folds < 2 or not strength > 0:
            raise ValueError(f'n_folds is {n_folds} and strength {strength}; give 2 folds or more, and more than 0')
        self.n_folds = n_folds
        self.strength = strength
        self.normalize = normalize

    @property
    def primary(self) -> Monitor:
        return Monitor('val_probe_accuracy', 'max')

    def names(self) -> list[str]:
        return ['probe_accuracy', 'probe_f1']

    def check(self, texts: Texts) -> None:
        require_labels(self, texts)

    def figures(self, texts: Texts) -> Mapping[str, float]:
        texts, labels = _classed(self, texts)
        vectors = normalized(texts.vectors) if self.normalize else texts.vectors
        fold = (texts.text_hash % self.n_folds + self.n_folds) % self.n_folds
        predicted = np.full(len(labels), -1, np.int64)
        for one in range(self.n_folds):
            is_test = fold == one
            known = labels[~is_test]
            if not is_test.any() or len(np.unique(known)) < 2 or not np.isfinite(vectors).all():
                continue
            weight, bias, classes = logistic_regression(vectors[~is_test], known, self.strength)
            predicted[is_test] = classes[(vectors[is_test] @ weight.T + bias).argmax(axis=1)]
        if (predicted < 0).all():  # without texts as well
            return dict.fromkeys(self.names(), math.nan)
        return {'probe_accuracy': float((predicted == labels).mean()), 'probe_f1': macro_f1(labels, predicted)}


class Neighbours(VectorEvaluator):
    """Accuracy and macro F1 of the class that most of the nearest other texts have; texts equal to it do not count.

    Of classes that equally many have, the one whose texts are nearer in sum counts.

    Args:
        k: How many neighbours.
        similarity: How vectors are compared.
    """

    def __init__(self, k: int = 10, similarity: Kind = 'cosine') -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f'k is {k}; give 1 or more')
        self.k = k
        self.similarity: Kind = similarity

    @property
    def primary(self) -> Monitor:
        return Monitor('val_knn_accuracy', 'max')

    def names(self) -> list[str]:
        return ['knn_accuracy', 'knn_f1']

    def check(self, texts: Texts) -> None:
        require_labels(self, texts)

    def figures(self, texts: Texts) -> Mapping[str, float]:
        texts, labels = _classed(self, texts)
        if not len(labels):
            return dict.fromkeys(self.names(), math.nan)
        classes, label = np.unique(labels, return_inverse=True)
        predicted = np.empty(len(labels), np.int64)
        n_each = max(1, _BLOCK_SCORES // len(labels))
        for first in range(0, len(labels), n_each):
            rows = np.arange(first, min(first + n_each, len(labels)))
            scores = compare(texts.vectors[rows], texts.vectors, self.similarity)
            scores = np.where(texts.text_hash[rows][:, None] == texts.text_hash[None, :], -math.inf, scores)
            k = min(self.k, len(labels) - 1)
            nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k else np.zeros((len(rows), 0), np.int64)
            near = np.take_along_axis(scores, nearest, axis=1)
            votes = np.zeros((len(rows), len(classes)))
            sums = np.zeros_like(votes)
            for column in range(nearest.shape[1]):
                is_other = np.isfinite(near[:, column])
                at = np.arange(len(rows))[is_other], label[nearest[is_other, column]]
                votes[at] += 1
                sums[at] += near[is_other, column]
            most = votes == votes.max(axis=1, keepdims=True)
            predicted[rows] = classes[np.where(most, sums, -math.inf).argmax(axis=1)]
        return {'knn_accuracy': float((predicted == labels).mean()), 'knn_f1': macro_f1(labels, predicted)}


_BLOCK_SCORES = 4_194_304


def _classed(evaluator: VectorEvaluator, texts: Texts) -> tuple[Texts, Int64[np.ndarray, ' s']]:
    """The texts that have a class, and their classes."""
    evaluator.check(texts)
    known = texts.classed()
    assert known.label is not None, 'checked'
    return known, known.label[known.example]


def logistic_regression(
    vectors: Float[np.ndarray, 'n d'], labels: Int64[np.ndarray, ' n'], strength: float = 1.0, n_steps: int = 200
) -> tuple[Float[np.ndarray, 'k d'], Float[np.ndarray, ' k'], Int64[np.ndarray, ' k']]:
    """Weights, biases and classes of a multinomial logistic regression, fitted by L-BFGS in float64.

    It lowers strength times the sum of the cross-entropy plus half the squared weights, as scikit-learn does; biases
    are free. It is convex, so that nothing is drawn.
    """
    classes, target = np.unique(labels, return_inverse=True)
    # A validation runs in inference mode, whose tensors have no gradients.
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.from_numpy(np.asarray(vectors, np.float64))
        y = torch.from_numpy(target)
        weight = torch.zeros(len(classes), x.size(1), dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=n_steps, tolerance_grad=1e-9, tolerance_change=1e-16, line_search_fn='strong_wolfe'
        )

        def closure() -> float:
            optimizer.zero_grad()
            loss = F.cross_entropy(x @ weight.T + bias, y, reduction='sum') + weight.square().sum() / (2 * strength)
            loss = loss / len(x)
            loss.backward()
            return loss.item()

        optimizer.step(closure)
    return weight.detach().numpy(), bias.detach().numpy(), classes


def macro_f1(labels: Int64[np.ndarray, ' n'], predicted: Int64[np.ndarray, ' n']) -> float:
    """The mean over the classes of their F1; a class of neither labels nor predictions is none."""
    scores = []
    for one in np.unique(np.concatenate([labels, predicted])):
        true = ((labels == one) & (predicted == one)).sum()
        scores.append(2 * true / ((labels == one).sum() + (predicted == one).sum()))
    return float(np.mean(scores))
