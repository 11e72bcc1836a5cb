"""Texts that must not be trained on: whether any of them is in the train split, by the hash of its content."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from xlabml.data.sources import Source, utf8
from xlabml.data.store import document_hash, hash_words

from .corpus import Corpus
from .splits import split_names

_BATCH_DOCUMENTS = 1 << 18
_MAX_NAMED = 10


class Overlap(NamedTuple):
    """What a source shares with the train split.

    Args:
        n_documents: How many of the train split's documents are in the source too.
        pairs: The first of them: (row in the source, name of the document in the train split).
    """

    n_documents: int
    pairs: list[tuple[int, str]]


def find_overlap(corpus: Corpus, source: Source) -> Overlap:
    """The documents of the train split that are, byte for byte, documents of a source.

    Memory does not grow with either: the source is read some documents at a time, and the corpus gone through for each.
    """
    n_found = 0
    pairs: list[tuple[int, str]] = []
    for rows, hashes in read_hashes(source):
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        words = hashes[order]
        rows = rows[order]
        for first, there in _train_hashes(corpus):
            near = np.flatnonzero(np.isin(there[:, 0], words[:, 0]))
            for i in near.tolist():
                start, end = (int(np.searchsorted(words[:, 0], there[i, 0], side)) for side in ('left', 'right'))
                same = start + np.flatnonzero(words[start:end, 1] == there[i, 1])
                if len(same):
                    n_found += 1
                    if len(pairs) < _MAX_NAMED:
                        pairs.append((int(rows[same].min()), corpus.name(int(first[i]))))
    return Overlap(n_found, pairs)


def check_held_out(corpus: Corpus, source: Source) -> None:
    """Raise ValueError if a document of the source is in the train split, and say which."""
    overlap = find_overlap(corpus, source)
    if overlap.n_documents:
        named = ', '.join(f'row {row} (there {name})' for row, name in overlap.pairs)
        more = ' …' if overlap.n_documents > len(overlap.pairs) else ''
        raise ValueError(
            f'{overlap.n_documents:,} documents of the train split are in {source}, which data.held_out keeps from '
            f'training: {named}{more}; take them out of the sources, or {source} out of data.held_out'
        )


def read_hashes(source: Source) -> Iterator[tuple[Int64[np.ndarray, ' n'], UInt64[np.ndarray, 'n 2']]]:
    """Rows and content hashes of the valid documents of a source, some at a time."""
    documents = source.documents()
    while some := list(islice(documents, _BATCH_DOCUMENTS)):
        valid = [(document, data) for document in some if isinstance(data := utf8(document.text), bytes)]
        digests = b''.join(document_hash(document, data) for document, data in valid)
        yield np.array([document.row for document, _ in valid], np.int64), hash_words(digests)


def _train_hashes(corpus: Corpus) -> Iterator[tuple[Int64[np.ndarray, ' n'], UInt64[np.ndarray, 'n 2']]]:
    """Numbers and content hashes of the documents of the train split, some at a time."""
    before = 0
    for store in corpus.stores:
        for start in range(0, len(store), _BATCH_DOCUMENTS):
            some = store.hashes[start : start + _BATCH_DOCUMENTS]
            numbers = before + np.arange(start, start + len(some))
            here = corpus.splits(numbers) == split_names.index('train')
            yield numbers[here], some[here]
        before += len(store)
