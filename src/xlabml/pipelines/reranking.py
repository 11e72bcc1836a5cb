"""The first texts of a search in the order of a second model: late interaction, or another encoder."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from xlabml.errors import SettingsError
from xlabml.heads import TextEncoder, TokenVectors

from .embedder import TextEmbedder


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


def rerank(embedder: TextEmbedder, query: str, texts: Sequence[str]) -> Float32[np.ndarray, ' n']:
    """The score of each text for a query: of late interaction, or the cosine; with the model's own prompts.

    Raises:
        RequestError: As in `TextEmbedder.encode`.
    """
    prompts = embedder.model.prompts
    asked = embedder.encode([query], 'query' if 'query' in prompts else None, normalize=True, as_tensor=True)
    known = embedder.encode(texts, 'document' if 'document' in prompts else None, normalize=True, as_tensor=True)
    model = embedder.model
    if isinstance(model, TextEncoder) and isinstance(model.pooling, TokenVectors):
        scores = model.pooling.scores(asked, known)[0]
    else:
        scores = (asked @ known.mT)[0]
    return scores.numpy()
