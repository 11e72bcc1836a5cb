"""A window of a stream: the examples of some shards, whose documents are numbered over all shards."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt64

from xlabml.batches import Batch
from xlabml.data.rows import Examples

DOCUMENT_BITS = 32
"""Of a document's number: its number in its shard; the bits above are the shard's number and one."""


def is_global(document: int) -> bool:
    """Whether this is the number of a document in a window, not one in a corpus of its own."""
    return document >> DOCUMENT_BITS > 0


class Window(Examples):
    """The examples of a window, whose documents are numbered by their shards.

    Args:
        examples: Those of the shards, which number documents over all of them.
        shards: The shards of the window.
        first_documents: The number of each shard's first document, and of all.
    """

    def __init__(
        self, examples: Examples, shards: Sequence[int], first_documents: Int64[np.ndarray, ' starts']
    ) -> None:
        self.examples = examples
        self.shards = np.array(shards)
        self.first_documents = first_documents

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def fingerprint(self) -> str:
        return self.examples.fingerprint

    @property
    def source_starts(self) -> list[int]:
        return self.examples.source_starts

    @property
    def source_counted(self) -> list[int]:
        return self.examples.source_counted

    def counts(
        self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']
    ) -> Float64[np.ndarray, ' e'] | Int64[np.ndarray, ' e']:
        return self.examples.counts(numbers, keys)

    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        batch = self.examples.batch(numbers, keys, n_counted, seed)
        documents = batch.documents.numpy()
        index = np.maximum(np.searchsorted(self.first_documents, documents, 'right') - 1, 0)
        named = (1 + self.shards[index] << DOCUMENT_BITS) + documents - self.first_documents[index]
        return batch._replace(documents=torch.from_numpy(np.where(documents < 0, -1, named)))

    def name(self, document: int) -> str:
        return self.examples.name(document)

    def render(self, number: int) -> list[tuple[str, str]]:
        return self.examples.render(number)
