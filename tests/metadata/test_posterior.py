"""Bayes' rule over the values of a type: what is fitted is what the scores were made with."""

import numpy as np
import pytest

from xlabml.metadata import Posterior, fit_posterior


def test_temperature_and_prior_are_those_of_the_texts():
    draw = np.random.default_rng(0)
    prior = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    truth = draw.choice(5, 4000, p=prior)
    likelihood = draw.normal(size=(4000, 5))
    likelihood[np.arange(4000), truth] += 1.0  # so that these are log-likelihoods up to a constant
    fitted = fit_posterior('abcde', (prior * 10_000).astype(int), 7 * likelihood - 500, truth)
    assert fitted.temperature == pytest.approx(7, rel=0.05)
    assert fitted.prior_weight == pytest.approx(1, abs=0.05)
    probs = fitted.probabilities(7 * likelihood - 500)
    np.testing.assert_allclose(probs.sum(1), 1)
    np.testing.assert_allclose(probs.mean(0), np.bincount(truth) / 4000, atol=0.01)
    assert Posterior.of(fitted.settings()) == fitted


def test_likelihoods_that_are_wrong_count_for_nothing():
    fitted = fit_posterior('ab', np.array([3, 1]), np.array([[5.0, 1.0], [1.0, 5.0]]), np.array([1, 0]))
    probs = fitted.probabilities(np.array([[500.0, 1.0], [1.0, 500.0]]))
    np.testing.assert_allclose(probs[0], probs[1], rtol=1e-6)


@pytest.mark.parametrize(
    'changed',
    [
        {'values': ['a']},
        {'values': [1, 2]},
        {'temperature': 0.0},
        {'log_prior': [0.0, float('nan')]},
        {'prior_weight': None},
    ],
)
def test_what_is_no_posterior_is_refused(changed):
    right = Posterior(('a', 'b'), (-0.7, -0.7), 2.0, 1.0).settings()
    with pytest.raises(ValueError, match='is no posterior of metadata'):
        Posterior.of({**right, **changed})
