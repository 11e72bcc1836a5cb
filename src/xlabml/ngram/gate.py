"""The gate between a language model and n-grams: p = (1 - g) · p_model + g · p_ngram.

g is a logistic function of what is known before the next token: so the mixture sums to one where both do.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Integer

N_NUMBERS = 3
"""Features beside the number of known tokens: logarithms of counts and back-off, and the entropy."""

_MAX_STEPS = 200
_TOLERANCE = 1e-9
"""Nats per token that a step must gain to be followed by another."""

_RIDGE = 1.0
"""How many tokens' worth each weight is held to where it begins, so that one no token has an opinion of stays there."""


class Known(NamedTuple):
    """What is known before each next token.

    Args:
        matched: How many tokens of the context are known to the n-grams, 0 to order - 1.
        total: The sum of the counts that continue them; 0 where none are known.
        backoff: The share of the probability that goes to shorter contexts; 1 where none are known.
        entropy: Of the model's distribution, in nats.
    """

    matched: Integer[np.ndarray, ' t']
    total: Integer[np.ndarray, ' t']
    backoff: Float64[np.ndarray, ' t']
    entropy: Float64[np.ndarray, ' t']

    def features(self, order: int) -> Float64[np.ndarray, 't f']:
        """One column for each number of known tokens, then the logarithms of counts and back-off, and the entropy."""
        is_matched = self.matched[:, None] == np.arange(order)
        numbers = np.log1p(self.total), np.log(np.maximum(self.backoff, 1e-12)), self.entropy
        return np.concatenate([is_matched, np.stack(numbers, 1)], 1).astype(float)


class Gate(NamedTuple):
    """The weights of the gate.

    Args:
        weights: Of the features of `Known`.
        constant: The one best share of the n-grams, whatever the context.
        n_tokens: How many tokens it was fitted on.
    """

    weights: Float64[np.ndarray, ' f']
    constant: float
    n_tokens: int

    @classmethod
    def n_features(cls, order: int) -> int:
        """How many weights the gate of n-grams of an order has."""
        return order + N_NUMBERS

    def share(self, known: Known) -> Float64[np.ndarray, ' t']:
        """The share of the n-grams."""
        return _logistic(known.features(len(self.weights) - N_NUMBERS) @ self.weights)


def mix(
    model: Float64[np.ndarray, ' t'], ngram: Float64[np.ndarray, ' t'], share: Float64[np.ndarray, ' t'] | float
) -> Float64[np.ndarray, ' t']:
    """Probabilities of the mixture."""
    return (1 - share) * model + share * ngram


def fit_gate(model: Float64[np.ndarray, ' t'], ngram: Float64[np.ndarray, ' t'], known: Known, order: int) -> Gate:
    """Fit the gate to the log loss of some texts that neither side was made from.

    Each step is one of Newton's for the expected log-likelihood of which side a token comes from (gradient EM: Lange
    1995, https://doi.org/10.1111/j.2517-6161.1995.tb02037.x), halved until the loss falls. The loss has no single
    valley; it is begun from the best constant share.

    Args:
        model: The model's probability of each token that came.
        ngram: Theirs.
        known: What was known before it.
        order: The longest n-gram.
    """
    one = np.ones((len(model), 1))
    constant = _fit(model, ngram, one, np.zeros(1))
    start = np.concatenate([np.full(order, constant[0]), np.zeros(N_NUMBERS)])
    weights = _fit(model, ngram, known.features(order), start)
    return Gate(weights, float(_logistic(constant)[0]), len(model))


def _fit(
    model: Float64[np.ndarray, ' t'],
    ngram: Float64[np.ndarray, ' t'],
    features: Float64[np.ndarray, 't f'],
    start: Float64[np.ndarray, ' f'],
) -> Float64[np.ndarray, ' f']:
    weights = start
    loss = _loss(model, ngram, features, weights, start)
    for _ in range(_MAX_STEPS):
        share = _logistic(features @ weights)
        from_ngram = share * ngram / mix(model, ngram, share)  # the probability that a token comes from the n-grams
        gradient = features.T @ (from_ngram - share) - _RIDGE * (weights - start)
        curvature = features.T @ (features * (share * (1 - share))[:, None]) + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (new := _loss(model, ngram, features, weights + size * step, start)) > loss and size > 1e-6:
            size /= 2
        if new > loss - _TOLERANCE * len(model):
            return weights + size * step if new < loss else weights
        weights = weights + size * step
        loss = new
    return weights


def _loss(
    model: Float64[np.ndarray, ' t'],
    ngram: Float64[np.ndarray, ' t'],
    features: Float64[np.ndarray, 't f'],
    weights: Float64[np.ndarray, ' f'],
    start: Float64[np.ndarray, ' f'],
) -> float:
    found = mix(model, ngram, _logistic(features @ weights))
    return float(_RIDGE / 2 * ((weights - start) ** 2).sum() - np.log(found).sum())


def _logistic(x: Float64[np.ndarray, '*shape']) -> Float64[np.ndarray, '*shape']:
    return 0.5 * (1 + np.tanh(x / 2))  # never overflows
