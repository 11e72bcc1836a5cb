"""The documents of several stores as one numbering, the split of each, and the texts that a tokenizer learns from."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64, UInt8, UInt64

from xlabml.data.sources import Source, split_text, utf8
from xlabml.data.store import TokenStore, count_changed, document_hash, hash_words
from xlabml.errors import DataError, SettingsError

from .drawn_splits import DrawnSplits, splits_of_sources
from .near_duplicates import NearPairs
from .splits import Splitting, check_ratios, split_names, splits_of

_BATCH_DOCUMENTS = 1024


class Corpus:
    """Stores one after another: document i of the second store has the number len(first) + i.

    Args:
        stores: All made with one tokenizer.
        ratios: The share of each split.
        copies: 1 for each document that is in no split, because an earlier one has the same content; None: all are.
        near: Near-duplicates, of which only the earliest are in a split; None: all are.
        drawn: The split of each document, where more than its own hash decides; None: that alone.

    Attributes:
        part_of: The fingerprints of the stores of the corpus that this one is a part of; None: it is whole.
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        ratios: Mapping[str, float],
        copies: UInt8[np.ndarray, ' documents'] | None = None,
        near: NearPairs | None = None,
        drawn: DrawnSplits | None = None,
    ) -> None:
        check_ratios(ratios)
        if not stores:
            raise ValueError('there are no stores to take documents from; name at least one source')
        sizes = {store.manifest['identity']['tokenizer']: store.manifest['n_vocab'] for store in stores}
        if len(sizes) > 1:
            raise ValueError(f'the stores were made with different tokenizers, of {list(sizes.values())} tokens')
        self.stores = list(stores)
        self.ratios = dict(ratios)
        self.copies = copies
        self.near = near
        self.drawn = drawn
        self._left_out = copies
        if near is not None:
            self._left_out = near.marks() if copies is None else near.marks() | copies
        self._first = np.cumsum([0, *(len(store) for store in stores)])
        self._first_token = np.cumsum([0, *(len(store.tokens) for store in stores)])
        self.part_of: list[str] | None = None

    def of_stores(self, numbers: Sequence[int]) -> 'Corpus':
        """The corpus of some of the stores, in this order: its documents are numbered anew, and stay in their splits.

        What is left out of it may be a copy of a document that is not in it, so what is made of it is named by the
        whole, too: `part_of`.
        """
        if list(numbers) == list(range(len(self.stores))):
            return self

        def of_documents(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values[self._first[i] : self._first[i + 1]] for i in numbers])

        copies = None if self._left_out is None else of_documents(self._left_out)
        drawn = None if self.drawn is None else self.drawn._replace(splits=of_documents(self.drawn.splits))
        found = Corpus([self.stores[i] for i in numbers], self.ratios, copies, None, drawn)
        near = [] if self.near is None else [self.near.fingerprint]
        found.part_of = [*(store.fingerprint for store in self.stores), *near]
        return found

    @property
    def first_documents(self) -> Int64[np.ndarray, ' stores']:
        """The number of the first document of each store."""
        return self._first[:-1]

    def __len__(self) -> int:
        """How many documents there are, over all splits."""
        return int(self._first[-1])

    @property
    def n_tokens(self) -> int:
        """How many tokens there are, over all stores."""
        return int(self._first_token[-1])

    @property
    def n_vocab(self) -> int:
        """How many tokens the stores' tokenizer has."""
        return self.stores[0].manifest['n_vocab']

    @property
    def n_copies(self) -> int:
        """How many documents are in no split, as copies of others."""
        return 0 if self.copies is None else int(self.copies.sum(dtype=np.int64))

    @property
    def tokenizer_hash(self) -> str:
        """Which tokenizer the stores were made with."""
        return self.stores[0].manifest['identity']['tokenizer']

    def documents(self, split: str) -> Int64[np.ndarray, ' documents']:
        """The numbers of a split's documents, rising.

        Raises:
            ValueError: There is no such split, or it has no document.
        """
        if split not in split_names:
            raise SettingsError(f'there is no split {split!r}; the splits are {", ".join(split_names)}')
        index = split_names.index(split)
        parts = []
        for first, store in zip(self._first.tolist(), self.stores):
            if self.drawn is None:
                is_in = splits_of(store.hashes, self.ratios) == index
            else:
                is_in = self.drawn.splits[first : first + len(store)] == index
            if self._left_out is not None:
                is_in &= self._left_out[first : first + len(store)] == 0
            parts.append(first + np.flatnonzero(is_in))
        found = np.concatenate(parts)
        if not len(found):
            ratios = ', '.join(f'{name} {ratio:g}' for name, ratio in self.ratios.items())
            if self.drawn is not None:
                ratios += ''.join(f'; {name}: {value}' for name, value in self.drawn.settings.items())
            remedy = f'give it a larger share in data.splits.{split}, or more documents'
            if len(self) < sum(share > 0 for share in self.ratios.values()):
                remedy = (
                    'these are too few to divide: cut a text file into more (document: paragraph, or a number of '
                    f'characters, at its source), add a source that is only: {split}, or train on all of them with '
                    'data.splits: {train: 1, val: 0, test: 0}'
                )
            # Of no documents at all every split has none: then it is not the shares that have to change.
            raise (SettingsError if len(self) else DataError)(
                f'the split {split!r} has none of the {len(self)} documents (data.splits: {ratios}); {remedy}'
            )
        return found

    def splits(self, documents: Int64[np.ndarray, ' documents']) -> Int8[np.ndarray, ' documents']:
        """The split of each document, as an index into split_names; -1 where it is in none."""
        if self.drawn is not None:
            found = np.array(self.drawn.splits[documents])
        else:
            index = self._store_of(documents)
            found = np.empty(len(documents), np.int8)
            for i in np.unique(index):
                here = index == i
                found[here] = splits_of(self.stores[i].hashes[documents[here] - self._first[i]], self.ratios)
        if self._left_out is not None:
            found[self._left_out[documents] == 1] = -1
        return found

    def by_store(self, documents: Int64[np.ndarray, ' documents']) -> list[Int64[np.ndarray, ' part']]:
        """Rising numbers of documents, parted by store."""
        return np.split(documents, np.searchsorted(documents, self._first[1:-1]))

    def locate(self, document: int) -> tuple[TokenStore, int]:
        """The store that holds a document, and its number there."""
        if not 0 <= document < len(self):
            raise ValueError(f'there is no document {document}; they are 0 to {len(self) - 1}')
        index = int(np.searchsorted(self._first, document, 'right')) - 1
        return self.stores[index], document - int(self._first[index])

    def name(self, document: int) -> str:
        """A document's name for people: its row in its source, and the source where there are several."""
        store, number = self.locate(document)
        row = str(store.rows[number])
        return row if len(self.stores) == 1 else f'{store.manifest["source"]}:{row}'

    def n_bytes(self, documents: Int64[np.ndarray, ' documents']) -> Int64[np.ndarray, ' documents']:
        """How many bytes of raw UTF-8 text each document has."""
        index = self._store_of(documents)
        sizes = np.empty(len(documents), np.int64)
        for i in np.unique(index):
            here = index == i
            sizes[here] = self.stores[i].n_bytes[documents[here] - self._first[i]]
        return sizes

    def end_bytes(self, documents: Int64[np.ndarray, ' documents']) -> Int64[np.ndarray, ' documents'] | None:
        """How many of each document's raw bytes its tokens do not stand for; None where that is none of any."""
        if all(store.end_bytes is None for store in self.stores):
            return None
        index = self._store_of(documents)
        found = np.zeros(len(documents), np.int64)
        for i in np.unique(index):
            here = index == i
            values = self.stores[i].end_bytes
            if values is not None:
                found[here] = values[documents[here] - self._first[i]]
        return found

    @property
    def n_changed(self) -> int | None:
        """How many documents of all stores do not come back from their tokens as they were; None where all do."""
        counts = [n for store in self.stores if (n := count_changed(store.manifest)) is not None]
        return sum(counts) if counts else None

    def words(self, documents: Int64[np.ndarray, ' documents']) -> UInt64[np.ndarray, ' documents']:
        """A word of each document's content hash that does not decide its split: what a document draws from."""
        index = self._store_of(documents)
        found = np.empty(len(documents), np.uint64)
        for i in np.unique(index):
            here = index == i
            found[here] = self.stores[i].hashes[documents[here] - self._first[i], 1]
        return found

    def tokens(self, document: int) -> np.ndarray:
        """A document's ids, mapped."""
        store, number = self.locate(document)
        return store.tokens[store.offsets[number] : store.offsets[number + 1]]

    def columns(self, document: int) -> dict[str, Any]:
        """What stood beside a document's text: the columns that its store was asked to keep."""
        store, number = self.locate(document)
        return store.columns(number)

    def pieces(self, document: int) -> Int64[np.ndarray, 'pieces 2']:
        """Where each of a document's pieces begins and ends among its tokens; one of all, where there are none."""
        store, number = self.locate(document)
        return store.pieces(number)

    def token_spans(
        self, documents: Int64[np.ndarray, ' documents']
    ) -> tuple[Int64[np.ndarray, ' documents'], Int64[np.ndarray, ' documents']]:
        """Where each document's tokens begin, counted over all stores, and how many they are."""
        if len(self.stores) == 1:
            offsets = self.stores[0].offsets
            starts = offsets[documents]
            return starts, offsets[documents + 1] - starts
        index = self._store_of(documents)
        starts, ends = np.empty((2, len(documents)), np.int64)
        for i in np.unique(index):
            here = index == i
            number = documents[here] - self._first[i]
            offsets = self.stores[i].offsets
            starts[here] = self._first_token[i] + offsets[number]
            ends[here] = self._first_token[i] + offsets[number + 1]
        return starts, ends - starts

    def tokens_at(self, places: Int64[np.ndarray, ' tokens']) -> Int64[np.ndarray, ' tokens']:
        """The ids at places counted over all stores."""
        if len(self.stores) == 1:
            return self.stores[0].tokens[places].astype(np.int64)
        index = np.searchsorted(self._first_token, places, 'right') - 1
        ids = np.empty(len(places), np.int64)
        for i in np.unique(index):
            here = index == i
            ids[here] = self.stores[i].tokens[places[here] - self._first_token[i]]
        return ids

    def _store_of(self, documents: Int64[np.ndarray, ' documents']) -> Int64[np.ndarray, ' documents']:
        return np.searchsorted(self._first, documents, 'right') - 1


def train_texts(sources: Sequence[Source], splitting: Splitting | Mapping[str, float]) -> Iterator[str]:
    """The valid texts of the train split, straight from the sources: what a tokenizer is trained on.

    Args:
        splitting: How documents are divided; where that takes more than their own hashes, sources are read twice. Of
            ratios alone their own hashes decide, even where they are few.
    """
    if not isinstance(splitting, Splitting):
        drawn = None
        ratios = splitting
    else:
        drawn = splits_of_sources(sources, splitting)
        ratios = splitting.ratios
    check_ratios(ratios)
    for i, source in enumerate(sources):
        documents = source.documents()
        first = 0
        while batch := list(islice(documents, _BATCH_DOCUMENTS)):
            valid = [(document, data) for document in batch if isinstance(data := utf8(document.text), bytes)]
            if drawn is None:
                digests = b''.join(document_hash(document, data) for document, data in valid)
                splits = splits_of(hash_words(digests), ratios)
            else:
                splits = drawn[i][first : first + len(valid)]
            first += len(valid)
            for (document, data), split in zip(valid, splits):
                if split == 0 and source.has_empty_pieces:  # texts that have nothing to do with one another
                    yield from filter(None, split_text(document, str(source), may_be_empty=True))
                elif split == 0:
                    yield data.decode()
