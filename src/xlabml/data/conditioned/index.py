"""What is known of the documents of a corpus with metadata, as mapped arrays: made once for its stores, in one pass."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16, Int64

from xlabml.artifacts import folders, manifests
from xlabml.data.corpus import Corpus
from xlabml.data.store import TokenStore
from xlabml.tokenizer import Tokenizer

from .records import METADATA

_FORMAT = 1
_CHUNK_DOCUMENTS = 4096
_MAX_NAMED_ROWS = 5
_DTYPES = {
    'item_offsets': np.int64,
    'text_tokens': np.int64,
    'end_bytes': np.int64,
    'types': np.int16,
    'begins': np.int64,
    'lengths': np.int64,
    'places': np.int64,
}


class MetadataIndex:
    """The metadata of all documents of a corpus.

    Arrays, all mapped. Of each document: `item_offsets` (document i has the items item_offsets[i] to
    item_offsets[i + 1] - 1, in the order in which they stand), `text_tokens` (how many of its first tokens are its
    text), `end_bytes` (how many bytes of its text these do not stand for). Of each item: `types` (the number of its
    type), `begins` (its first token, counted over all stores), `lengths` (its tokens), `places` (BEFORE, AFTER, or the
    token of the text before which it stands).

    Args:
        folder: Where it is.
        manifest: What is in it.
    """

    item_offsets: Int64[np.ndarray, ' documents+1']
    text_tokens: Int64[np.ndarray, ' documents']
    end_bytes: Int64[np.ndarray, ' documents']
    types: Int16[np.ndarray, ' items']
    begins: Int64[np.ndarray, ' items']
    lengths: Int64[np.ndarray, ' items']
    places: Int64[np.ndarray, ' items']

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.lost: dict[str, dict[str, Any]] = manifest['lost']
        for name in _DTYPES:
            setattr(self, name, manifests.map_array(folder, name, manifest))

    def __reduce__(self) -> tuple[Any, ...]:
        return open_index, (self.folder,)


def make_index(corpus: Corpus, tokenizer: Tokenizer, folder: Path) -> MetadataIndex:
    """Open the index of a corpus; make it where it is not there.

    Args:
        tokenizer: The one that the stores were made with.
        folder: Where such things are kept, each named by what it follows from.

    Raises:
        DataError: A store holds no metadata, or the disk is full.
    """
    identity = _identity(corpus)
    folder = folder / _name(identity)

    def is_ready() -> bool:
        return (folder / manifests.MANIFEST).exists()

    def build(partial: Path) -> dict[str, Any]:
        lost: dict[str, dict[str, Any]] = {}
        sizes = tokenizer.piece_sizes
        n_items = 0
        first_token = 0
        with folders.ArrayFiles(partial, _DTYPES) as files:
            files.append(item_offsets=np.zeros(1, np.int64))
            for store in corpus.stores:
                for start in range(0, len(store), _CHUNK_DOCUMENTS):
                    found = _read(store, start, min(start + _CHUNK_DOCUMENTS, len(store)), sizes, lost)
                    found['item_offsets'] = found['item_offsets'] + n_items
                    found['begins'] = found['begins'] + first_token
                    files.append(**found)
                    n_items += len(found['types'])
                first_token += len(store.tokens)
            written = files.close()
        return {'format': _FORMAT, 'identity': identity, 'files': written, 'lost': lost}

    if not is_ready():
        folders.build_folder(folder, build, is_ready)
    return open_index(folder, identity)


def verify_index(corpus: Corpus, folder: Path) -> MetadataIndex | None:
    """What `make_index` has written, read in full and compared with its hashes; None where it is not there.

    Raises:
        DataError: It is not as it was written.
    """
    identity = _identity(corpus)
    folder = folder / _name(identity)
    if not folder.exists():
        return None
    index = open_index(folder, identity)
    manifests.check_files(folder, manifests.read_manifest(folder, _KIND, identity))
    manifests.check_ends(index.item_offsets, len(index.types), folder, 'item_offsets', in_full=True)
    manifests.check_range(index.begins, 0, corpus.n_tokens, folder, 'begins')
    for name in ('text_tokens', 'lengths'):
        manifests.check_range(getattr(index, name), 0, corpus.n_tokens, folder, name)
    return index


def open_index(folder: Path, identity: dict[str, Any] | None = None) -> MetadataIndex:
    """Open an index that is there."""
    return MetadataIndex(folder, manifests.read_manifest(folder, _KIND, identity))


def values_of(corpus: Corpus) -> Iterator[dict[str, str]]:
    """The short values of each document's metadata, by key."""
    for store in corpus.stores:
        for document in range(len(store)):
            yield _about(store, document).get('values', {})


def value_of(corpus: Corpus, document: int, key: str) -> str | None:
    """The value of a type that a document has, if it is short; else None."""
    value = _about(*corpus.locate(document)).get('values', {}).get(key)
    return value if isinstance(value, str) else None


def _identity(corpus: Corpus) -> dict[str, Any]:
    return {'format': _FORMAT, 'stores': [store.fingerprint for store in corpus.stores]}


def _name(identity: dict[str, Any]) -> str:
    return f'metadata-{folders.short_hash(identity)}'


def _sizes(manifest: dict[str, Any]) -> dict[str, int]:
    n_documents = manifests.count_values(manifest, 'text_tokens')
    n_items = manifests.count_values(manifest, 'types')
    of_items = dict.fromkeys(('begins', 'lengths', 'places'), n_items)
    return {**of_items, 'item_offsets': n_documents + 1, 'end_bytes': n_documents}


_KIND = manifests.Kind(
    _FORMAT, {name: (dtype,) for name, dtype in _DTYPES.items()}, {'lost': dict, 'identity': dict}, _sizes
)


def _about(store: TokenStore, document: int) -> dict[str, Any]:
    about = store.columns(document).get(METADATA)
    if not isinstance(about, dict) or 'items' not in about:
        raise manifests.wrong_values(store.folder, 'columns', f'no metadata of document {document}')
    return about


def _read(
    store: TokenStore, start: int, end: int, piece_sizes: np.ndarray, lost: dict[str, dict[str, Any]]
) -> dict[str, np.ndarray]:
    """The arrays of some documents, offsets and tokens counted from their first and their store's."""
    n_items: list[int] = []
    text_tokens: list[int] = []
    end_bytes: list[int] = []
    items: list[np.ndarray] = []
    for document in range(start, end):
        about = _about(store, document)
        first = int(store.offsets[document])
        pieces = store.pieces(document)
        n_text = about['text']
        listed = np.array(about['items'], np.int64).reshape(-1, 2)
        if n_text < 1 or n_text + len(listed) != len(pieces):
            raise manifests.wrong_values(store.folder, 'columns', f'not the pieces of document {document}')
        n_tokens = int(pieces[n_text - 1, 1])
        text_tokens.append(n_tokens)
        end_bytes.append(about['bytes'] - int(piece_sizes[store.tokens[first : first + n_tokens]].sum()))
        begins = np.append(pieces[:n_text, 0], n_tokens)
        kinds = listed[:, 0]
        places = listed[:, 1]
        if len(places) and not (places <= n_text).all():
            raise manifests.wrong_values(store.folder, 'columns', f'not the places of document {document}')
        tokens = np.where(places >= 0, begins[np.maximum(places, 0)], places)
        own = pieces[n_text:]
        is_there = own[:, 1] > own[:, 0]  # a tokenizer that loses text may make nothing of a piece
        n_items.append(int(is_there.sum()))
        items.append(np.stack([kinds, first + own[:, 0], own[:, 1] - own[:, 0], tokens])[:, is_there])
        for reason, n in about['lost'].items():
            seen = lost.setdefault(reason, {'count': 0, 'rows': []})
            seen['count'] += n
            if len(seen['rows']) < _MAX_NAMED_ROWS:
                seen['rows'].append(f'{store.manifest["source"]}:{store.rows[document]}')
    kinds, begins, lengths, places = np.concatenate(items, axis=1)
    return {
        'item_offsets': np.cumsum(n_items),
        'text_tokens': np.array(text_tokens, np.int64),
        'end_bytes': np.array(end_bytes, np.int64),
        'types': kinds.astype(np.int16),
        'begins': begins,
        'lengths': lengths,
        'places': places,
    }
