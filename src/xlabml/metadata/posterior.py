"""Which value of a type a text has, from how probable a language model finds the text with each of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

_MAX_STEPS = 100
_PULL = 0.1
"""The precision of a normal prior on both parameters, about 1 / temperature = 0 and prior_weight = 1, so that a few
documents do not make them infinite."""


class Posterior(NamedTuple):
    """Bayes' rule over the values of a type, calibrated.

    p(value | text) is proportional to p(text | value)^(1 / temperature) p(value)^prior_weight. Words of a text tell the
    same thing several times, so that the likelihood of a long text is far too sure of its value: hence a temperature,
    of Guo et al. 2017, https://arxiv.org/abs/1706.04599.

    Args:
        values: All values.
        log_prior: The logarithm of the share of each in training.
        temperature: What the log-likelihoods are divided by.
        prior_weight: What the logarithms of the shares are multiplied by.
    """

    values: tuple[str, ...]
    log_prior: tuple[float, ...]
    temperature: float
    prior_weight: float

    def probabilities(self, log_likelihood: Float64[np.ndarray, 'd k']) -> Float64[np.ndarray, 'd k']:
        """Of each text the probability of each value."""
        return _softmax(log_likelihood / self.temperature + self.prior_weight * np.array(self.log_prior))

    def settings(self) -> dict[str, object]:
        """It as plain values."""
        return {**self._asdict(), 'values': list(self.values), 'log_prior': list(self.log_prior)}

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> 'Posterior':
        """The one that plain values describe.

        Raises:
            ValueError: They describe none.
        """
        values = settings.get('values')
        log_prior = settings.get('log_prior')
        if isinstance(values, list) and isinstance(log_prior, list) and len(values) == len(log_prior) > 1:
            names = [value for value in values if isinstance(value, str)]
            found = [settings.get('temperature'), settings.get('prior_weight'), *log_prior]
            numbers = [float(one) for one in found if isinstance(one, int | float) and np.isfinite(one)]
            if len(names) == len(values) and len(numbers) == len(found) and numbers[0] > 0:
                return cls(tuple(names), tuple(numbers[2:]), numbers[0], numbers[1])
        raise ValueError(f'{dict(settings)!r:.200} is no posterior of metadata')


def fit_posterior(
    values: Sequence[str],
    counts: Int64[np.ndarray, ' k'],
    log_likelihood: Float64[np.ndarray, 'd k'],
    truth: Int64[np.ndarray, ' d'],
) -> Posterior:
    """Temperature and weight of the prior that make the true values of some texts most probable.

    The log loss is convex in 1 / temperature and the weight, and Newton's method with halved steps finds its minimum.

    Args:
        values: All values.
        counts: How many documents of training have each.
        log_likelihood: Of each text with each value, in nats.
        truth: The number of each text's value.
    """
    log_prior = np.log((counts + 0.5) / (counts + 0.5).sum())
    centred = log_likelihood - log_likelihood.mean(1, keepdims=True)
    scale = max(float(np.abs(centred).mean()), 1e-9)  # so that both parameters are of the size of one
    features = np.stack([centred / scale, np.broadcast_to(log_prior, centred.shape)], 2)  # d k 2
    at_rest = np.array([0.0, 1.0])

    def loss(weights: Float64[np.ndarray, ' 2']) -> float:
        log_prob = np.log(_softmax(features @ weights).clip(1e-300))
        pull = 0.5 * _PULL * ((weights - at_rest) ** 2).sum()
        return float(pull - log_prob[np.arange(len(truth)), truth].sum())

    weights = np.array([1e-3, 1.0])
    for _ in range(_MAX_STEPS):
        probs = _softmax(features @ weights)
        mean = (probs[:, :, None] * features).sum(1)  # d 2
        gradient = (mean - features[np.arange(len(truth)), truth]).sum(0) + _PULL * (weights - at_rest)
        spread = features - mean[:, None]
        curvature = np.einsum('dk,dki,dkj->ij', probs, spread, spread) + _PULL * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if float(np.abs(size * step).max()) < 1e-9:
            break
    # Where texts are not more probable with their own value, the model has learned nothing of it: the prior counts.
    sharpness = max(float(weights[0]) / scale, 1e-12)
    return Posterior(tuple(values), tuple(log_prior.tolist()), 1 / sharpness, float(weights[1]))


def _softmax(logits: Float64[np.ndarray, 'd k']) -> Float64[np.ndarray, 'd k']:
    above = np.exp(logits - logits.max(1, keepdims=True))
    return above / above.sum(1, keepdims=True)
