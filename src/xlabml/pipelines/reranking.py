"""Pairs of a query and a text by a second model: late interaction, another encoder, or a classifier of two texts."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from jaxtyping import Float32

from xlabml.errors import SettingsError
from xlabml.heads import TextEncoder, TokenVectors

from .classifier import TextClassifier
from .embedder import TextEmbedder

_LEAST = 1e-300
"""A probability of 0 has a logarithm all the same."""


def is_of_tokens(embedder: TextEmbedder) -> bool:
    """Whether it makes several vectors of a text."""
    return isinstance(embedder.model, TextEncoder) and isinstance(embedder.model.pooling, TokenVectors)


def require_one_vector(embedder: TextEmbedder, name: str) -> None:
    """Refuse an embedder whose texts have no cosine.

    Args:
        name: What the user typed for it.

    Raises:
        SettingsError: It makes several vectors of a text.
    """
    if is_of_tokens(embedder):
        raise SettingsError(
            f'{name} makes several vectors of a text (TokenVectors), and these have no cosine; give an embedder of one '
            'vector a text'
        )


def rerank(
    embedder: TextEmbedder,
    query: str,
    texts: Sequence[str],
    counting: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Float32[np.ndarray, ' n']:
    """The score of each text for a query: of late interaction, or the cosine; with the model's own prompts.

    Args:
        embedder: Makes their vectors.
        query: What is sought.
        texts: What was found.
        counting: What surrounds each of its two calls of `encode`, from a name for people.

    Raises:
        RequestError: As in `TextEmbedder.encode`.
    """
    prompts = embedder.model.prompts
    with counting('the query, to rerank'):
        asked = embedder.encode([query], 'query' if 'query' in prompts else None, normalize=True, as_tensor=True)
    with counting('the texts to rerank'):
        known = embedder.encode(texts, 'document' if 'document' in prompts else None, normalize=True, as_tensor=True)
    model = embedder.model
    if isinstance(model, TextEncoder) and isinstance(model.pooling, TokenVectors):
        scores = model.pooling.scores(asked, known)[0]
    else:
        scores = (asked @ known.mT)[0]
    return scores.numpy()


def pair_scores(classifier: TextClassifier, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """How well each text goes with its query, by a classifier of two texts (a cross-encoder).

    Of a regression that is its number; of two classes the log-odds of the second one, such as 1 of 0 and 1, before any
    rounding of probabilities to 0 or 1.

    Raises:
        SettingsError: The classifier reads others than two texts, or has several classes.
        RequestError: As in `TextClassifier.predict`.
    """
    check_scores(classifier)
    found = []
    several: list[tuple[str | Sequence[str], ...]] = [*pairs]
    for said in classifier.predict(several):
        if said.number is not None:
            found.append(said.number)
        else:
            no, yes = (max(said.probabilities[name], _LEAST) for name in classifier.classes)
            found.append(math.log(yes) - math.log(no))
    return found


def check_scores(classifier: TextClassifier) -> None:
    """Raise SettingsError where a classifier has no score of a pair of texts."""
    if classifier.framing.kind not in ('joined', 'apart'):
        raise SettingsError(
            f'a classifier scores pairs where it reads two texts, but this one reads {len(classifier.framing.fields)} '
            f'({", ".join(classifier.framing.fields)}); train one with conf/cross_encoder.yaml'
        )
    if classifier.model.task != 'regression' and (
        classifier.model.task != 'single-label' or len(classifier.classes) != 2
    ):
        raise SettingsError(
            f'a classifier scores pairs by a number, or by the second of two classes, but this one has the '
            f'{len(classifier.classes)} classes {", ".join(classifier.classes[:5])} ({classifier.model.task})'
        )
