"""Fits the linear model of TF-IDF features that classifiers are compared with, by scikit-learn; of preferences by
scipy, which that needs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int

from xlabml.errors import NotSupportedError
from xlabml.tfidf import MAX_FEATURES, PREFERENCE, LinearModel, SparseRows, Tfidf, TfidfModel, TfidfPreference

from .lexical import has_sklearn

MISSING = "TF-IDF + linear model: not fitted, since scikit-learn is not installed: pip install 'xlabml[baselines]'"

_STRENGTH = 10.0
"""The inverse of the regularisation (C): TF-IDF rows have length 1, for which scikit-learn's own 1 is too strong (on
4,837 text messages a log loss of 0.085 for 0.042; 100 is like 10)."""
_STRENGTH_OF_PREFERENCES = 1.0
"""Likewise, of the differences of two rows, which are longer (on pairs of 7,467 review snippets, three of each, a log
loss on the validation split of 0.832; 0.3 has 0.843, 3 has 0.844, 10 has 0.886)."""
_RIDGE = 1.0
_MAX_STEPS = 1000


def fit_linear(
    texts: Sequence[Sequence[str]],
    labels: Int[np.ndarray, ' e'] | Float[np.ndarray, 'e k'],
    task: str,
    n_classes: int,
    max_features: int = MAX_FEATURES,
) -> LinearModel:
    """Logistic regression of TF-IDF features; ridge regression of a number; of preferences, Davidson's model of them.

    Args:
        texts: Of each training example, as many of each; of preferences A and B last.
        labels: The class of each; its share of each class, which is trained on as that many examples; with several
            labels an example, which it has; or a number in one column.
        task: As in SequenceClassifier, or preference.
        n_classes: How many there are.

    Raises:
        NotSupportedError: scikit-learn is not installed.
    """
    if not has_sklearn():
        raise NotSupportedError(MISSING)
    if task == PREFERENCE:
        return _fit_preference(texts, labels, max_features)
    tfidf = Tfidf.of([text for fields in texts for text in fields], max_features)
    rows = _as_csr(tfidf.rows(texts))
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


def _fit_preference(
    texts: Sequence[Sequence[str]], labels: Int[np.ndarray, ' e'] | Float[np.ndarray, 'e 3'], max_features: int
) -> TfidfPreference:
    """As `fit_linear`; an answer has features once, however many examples it is in."""
    numbers: dict[str, int] = {}
    pairs = np.array([[numbers.setdefault(text, len(numbers)) for text in fields[-2:]] for fields in texts])
    tfidf = Tfidf.of(list(numbers), max_features)
    rows = _as_csr(tfidf.rows([(text,) for text in numbers]))
    shares = labels if labels.dtype.kind == 'f' else np.eye(3)[labels]
    weights, log_ratio = _davidson(rows[pairs[:, 0]] - rows[pairs[:, 1]], shares.astype(np.float64))
    return TfidfPreference(tfidf, weights.astype(np.float32), np.array([log_ratio], np.float32))


def _davidson(difference, shares: Float64[np.ndarray, 'e 3']) -> tuple[Float64[np.ndarray, ' features'], float]:
    """The weights w and log ν of the smallest Σ cross-entropy + (|w|² + log² ν) / 2 C, a convex problem, where the
    logits of a, tie and b are (u − v) / 2, log ν, (v − u) / 2 and u − v = w · (features of A − features of B).

    Without the second square log ν would have no minimum where no example is a tie.

    Args:
        difference: These features (e, features), a matrix of scipy.
        shares: Of each example that of a, tie and b.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    transposed = difference.T.tocsr()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parameters[:-1]
        half = difference @ weights / 2
        log_probs = log_softmax(np.stack([half, np.full(len(half), parameters[-1]), -half], axis=1), axis=1)
        slope = np.exp(log_probs) * shares.sum(axis=1, keepdims=True) - shares  # of the loss, by the logits
        of_data = np.append(transposed @ (slope[:, 0] - slope[:, 2]) / 2, slope[:, 1].sum())
        value = -(shares * log_probs).sum() + parameters @ parameters / (2 * _STRENGTH_OF_PREFERENCES)
        return float(value), of_data + parameters / _STRENGTH_OF_PREFERENCES

    found = minimize(
        loss, np.zeros(difference.shape[1] + 1), jac=True, method='L-BFGS-B', options={'maxiter': _MAX_STEPS}
    )
    return found.x[:-1], float(found.x[-1])


def _as_csr(rows: SparseRows):
    """A matrix of scipy."""
    from scipy.sparse import csr_matrix

    return csr_matrix((rows.values, rows.columns, rows.starts), (len(rows.starts) - 1, rows.n_columns))


def _ridge(rows, numbers) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=_RIDGE, solver='sparse_cg', tol=1e-6).fit(rows, numbers)
    return model.coef_[None], np.array([model.intercept_])
