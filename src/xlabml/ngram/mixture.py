"""A language model and n-grams side by side: the probabilities of each, and of their mixtures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Integer

from .gate import Gate, Known, mix
from .kneser_ney import KneserNey


class Mixed(NamedTuple):
    """Probabilities of tokens.

    Args:
        ngram: Those of the n-grams alone.
        constant: Of the mixture by one weight.
        gated: Of the mixture by the gate.
    """

    ngram: Float64[np.ndarray, ' t']
    constant: Float64[np.ndarray, ' t']
    gated: Float64[np.ndarray, ' t']


class Mixture(NamedTuple):
    """N-grams, and how they are weighed against one language model.

    Args:
        ngrams: The n-grams.
        gate: Their gate, which was fitted with that model.
    """

    ngrams: KneserNey
    gate: Gate

    def score(
        self,
        inputs: Integer[np.ndarray, ' t'],
        targets: Integer[np.ndarray, ' t'],
        starts: Integer[np.ndarray, ' texts'],
        model: Float64[np.ndarray, ' t'],
        entropy: Float64[np.ndarray, ' t'],
    ) -> Mixed:
        """The probability of each target.

        Args:
            inputs: As in `KneserNey.score`, like those that follow.
            targets: The token behind each.
            starts: Where texts begin.
            model: The model's probability of each target.
            entropy: That of its distribution there, in nats.
        """
        scores = self.ngrams.score(inputs, targets, starts)
        share = self.gate.share(Known(scores.matched, scores.total, scores.backoff, entropy))
        ngram = scores.probability
        return Mixed(ngram, mix(model, ngram, self.gate.constant), mix(model, ngram, share))

    def next(
        self, context: Sequence[int], model: Float64[np.ndarray, ' v'], entropy: float
    ) -> Float64[np.ndarray, ' v']:
        """The distribution of the token behind a context.

        Args:
            context: The tokens before it.
            model: The distribution to mix with.
            entropy: That of the model, in nats.
        """
        found = self.ngrams.next(context)
        known = Known(*(np.array([value]) for value in (found.matched, found.total, found.backoff, entropy)))
        return mix(model, found.probabilities, float(self.gate.share(known)[0]))
