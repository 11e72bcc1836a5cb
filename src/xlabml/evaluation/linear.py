"""Fits the linear model of TF-IDF features that classifiers are compared with, by scikit-learn."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from xlabml.errors import NotSupportedError
from xlabml.tfidf import MAX_FEATURES, Tfidf, TfidfModel

from .lexical import has_sklearn

MISSING = "TF-IDF + linear model: not fitted, since scikit-learn is not installed: pip install 'xlabml[baselines]'"

_STRENGTH = 10.0
"""The inverse of the regularisation (C): TF-IDF rows have length 1, for which scikit-learn's own 1 is too strong (on
4,837 text messages a log loss of 0.085 for 0.042; 100 is like 10)."""
_RIDGE = 1.0
_MAX_STEPS = 1000


def fit_linear(
    texts: Sequence[Sequence[str]],
    labels: Int[np.ndarray, ' e'] | Float[np.ndarray, 'e k'],
    task: str,
    n_classes: int,
    max_features: int = MAX_FEATURES,
) -> TfidfModel:
    """Logistic regression of TF-IDF features; ridge regression of a number.

    Args:
        texts: Of each training example, as many of each.
        labels: The class of each; its share of each class, which is trained on as that many examples; with several
            labels an example, which it has; or a number in one column.
        task: As in SequenceClassifier.
        n_classes: How many there are.

    Raises:
        NotSupportedError: scikit-learn is not installed.
    """
    if not has_sklearn():
        raise NotSupportedError(MISSING)
    from scipy.sparse import csr_matrix

    tfidf = Tfidf.of([text for fields in texts for text in fields], max_features)
    found = tfidf.rows(texts)
    rows = csr_matrix((found.values, found.columns, found.starts), (len(texts), found.n_columns))
    if task == 'regression':
        coefficients, intercepts = _ridge(rows, labels.reshape(-1))
    elif task == 'multi-label':
        each = [_logistic(rows, (labels[:, i] >= 0.5).astype(np.int64), None, 2) for i in range(n_classes)]
        coefficients = np.stack([one[0][1] - one[0][0] for one in each])
        intercepts = np.array([one[1][1] - one[1][0] for one in each])
    elif labels.dtype.kind == 'f':
        example, of_class = np.nonzero(labels)
        coefficients, intercepts = _logistic(rows[example], of_class, labels[example, of_class], n_classes)
    else:
        coefficients, intercepts = _logistic(rows, labels, None, n_classes)
    return TfidfModel(tfidf, coefficients.astype(np.float32), intercepts.astype(np.float32))


def _logistic(rows, classes, weights, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (k, f) and intercepts (k,) of all classes; a class without an example has its prior alone."""
    from sklearn.linear_model import LogisticRegression

    there = np.unique(classes)
    coefficients = np.zeros((n_classes, rows.shape[1]))
    # The log odds of half an example against all.
    intercepts = np.full(n_classes, -np.log(2.0 * len(classes)))
    if len(there) < 2:
        intercepts[there] = 0.0
        return coefficients, intercepts
    model = LogisticRegression(C=_STRENGTH, max_iter=_MAX_STEPS, tol=1e-4).fit(rows, classes, sample_weight=weights)
    found = model.coef_
    shifts = model.intercept_
    if len(there) == 2:  # one row, the log odds of the second class
        found = np.concatenate([-found / 2, found / 2])
        shifts = np.concatenate([-shifts / 2, shifts / 2])
    coefficients[there] = found
    intercepts[there] = shifts
    return coefficients, intercepts


def _ridge(rows, numbers) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=_RIDGE, solver='sparse_cg', tol=1e-6).fit(rows, numbers)
    return model.coef_[None], np.array([model.intercept_])
