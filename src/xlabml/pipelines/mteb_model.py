"""A text embedder as the benchmark `mteb` asks for one: `mteb.evaluate(MTEBModel(TextEmbedder.load(ckpt)), tasks)`.

Nothing of mteb is imported: it calls what it is handed.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from .embedder import TextEmbedder
from .reranking import require_one_vector


@runtime_checkable
class PromptType(Protocol):
    """mteb's: `query` or `document`."""

    value: str


class MTEBModel:
    """Encodes what a task hands in, with the model's own prompts of query and document where it has them.

    Args:
        embedder: Makes the vectors.
        batch_tokens: As in `TextEmbedder.encode`.

    Raises:
        SettingsError: It makes several vectors of a text.
    """

    mteb_model_meta = None

    def __init__(self, embedder: TextEmbedder, batch_tokens: int | None = None) -> None:
        require_one_vector(embedder, 'the embedder')
        self.embedder = embedder
        self.batch_tokens = batch_tokens

    def encode(
        self,
        inputs: Iterable[Mapping[str, list[str]]],
        *,
        task_metadata: object,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **_: object,
    ) -> Float32[np.ndarray, 'n d']:
        """The vectors of all texts of the batches that a task hands in, in order."""
        name = None if prompt_type is None else prompt_type.value
        prompt = name if name in self.embedder.model.prompts else None
        texts = [text for batch in inputs for text in batch['text']]
        return self.embedder.encode(texts, prompt=prompt, batch_tokens=self.batch_tokens)

    def similarity(
        self, embeddings1: Float[np.ndarray, 'i d'], embeddings2: Float[np.ndarray, 'j d']
    ) -> Float[np.ndarray, 'i j']:
        """The cosine of each pair."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(
        self, embeddings1: Float[np.ndarray, 'i d'], embeddings2: Float[np.ndarray, 'i d']
    ) -> Float[np.ndarray, ' i']:
        """The cosine of the two of each row."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(axis=-1)


def _unit(vectors: Float[np.ndarray, 'n d']) -> Float[np.ndarray, 'n d']:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
