"""The token store: every document's tokens in one flat file, mapped into memory, with what is known of each document.

Built once per source, tokenizer and asked columns, as a stream: memory does not grow with the corpus. One store serves
all splits, which follow from the documents' hashes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from xlabml.tokenizer import Tokenizer

from . import folders
from .sources import Document, Source
from .splits import content_hash, hash_words
from .validation import utf8

Report = Callable[[str, int, int | None], None]
"""Told now and then how far a preparation is: (what is done, bytes of text so far, bytes in all or None)."""

_FORMAT = 1
_BATCH_BYTES = 1 << 20
_MAX_NAMED_ROWS = 10


class TokenStore:
    """The documents of one source as token ids, opened by `open` or `prepare_store`.

    Arrays, all mapped: `tokens` (every document's ids, back to back), `offsets` (document i is
    tokens[offsets[i]:offsets[i + 1]]), `n_bytes` (of raw UTF-8 text), `hashes` (of the content), `rows` (in the
    source). `manifest` holds counts, hashes, what was left out and why. `columns(i)` gives what stood beside a text.

    Args:
        folder: Where it is.
        manifest: What is in it.
    """

    tokens: np.ndarray
    offsets: Int64[np.ndarray, ' documents+1']
    n_bytes: Int64[np.ndarray, ' documents']
    hashes: UInt64[np.ndarray, 'documents 2']
    rows: Int64[np.ndarray, ' documents']

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.tokens, self.offsets, self.n_bytes, hashes, self.rows = (
            folders.map_array(folder, name, manifest) for name in ('tokens', 'offsets', 'n_bytes', 'hashes', 'rows')
        )
        self.hashes = hashes.reshape(-1, 2)
        self._columns, self._column_offsets = (
            folders.map_array(folder, name, manifest) for name in ('columns', 'column_offsets')
        )

    @classmethod
    def open(cls, folder: Path) -> 'TokenStore':
        """Open a store that is there.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not as it was written.
        """
        return cls(folder, folders.read_manifest(folder, _FORMAT))

    def verify(self) -> None:
        """Read all of it and compare the hashes.

        Raises:
            ValueError: A file is not what the manifest says.
        """
        for name, written in self.manifest['files'].items():
            folders.check_content(self.folder, name, written)

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.manifest)

    @property
    def fingerprint(self) -> str:
        """A short name for all that it holds."""
        return folders.short_hash([self.manifest['files'][name]['sha256'] for name in sorted(self.manifest['files'])])

    def columns(self, document: int) -> dict[str, Any]:
        """What stood beside a document's text: the columns that were asked for."""
        if not self.manifest['columns']:
            return {}
        start, end = self._column_offsets[document : document + 2]
        return json.loads(self._columns[start:end].tobytes())


def store_folder(cache: Path, source: Source, tokenizer: Tokenizer, columns: Sequence[str] = ()) -> Path:
    """Where the store of a source lies among others: a name made of what it holds."""
    return cache / folders.short_hash(_identity(source, tokenizer, columns))


def prepare_store(
    source: Source,
    tokenizer: Tokenizer,
    folder: Path,
    columns: Sequence[str] = (),
    report: Report | None = None,
) -> TokenStore:
    """Open the store of a source; build it where it is not there, or is of other documents or another tokenizer.

    Args:
        folder: Where it is or shall be; whoever comes second waits.
        columns: What to keep beside the texts: values that JSON can hold.
        report: Told how far it is.

    Raises:
        ValueError: The source is broken or has no valid document, a column cannot be kept, the disk is full, or the
            store that is there is not as it was written.
    """
    identity = _identity(source, tokenizer, columns)

    def is_ready() -> bool:
        try:
            return folders.read_manifest(folder, _FORMAT)['identity'] == identity
        except FileNotFoundError:
            return False

    def build(partial: Path) -> dict[str, Any]:
        return {'identity': identity, **_build(source, tokenizer, partial, list(columns), report or _be_silent)}

    if not is_ready():
        folders.build_folder(folder, build, is_ready)
    return TokenStore.open(folder)


def _identity(source: Source, tokenizer: Tokenizer, columns: Sequence[str]) -> dict[str, Any]:
    return {
        'format': _FORMAT,
        'source': source.fingerprint(),
        'tokenizer': tokenizer.hash,
        'columns': list(columns),
    }


def _build(source: Source, tokenizer: Tokenizer, folder: Path, columns: list[str], report: Report) -> dict[str, Any]:
    """Fill a folder with a store's files, and return its manifest."""
    piece_bytes = np.array([len(piece) for piece in tokenizer.piece_bytes], np.int64)
    invalid: dict[str, dict[str, Any]] = {}
    n_tokens = n_bytes = n_column_bytes = n_documents = 0
    dtypes = {
        'tokens': np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32,
        **dict.fromkeys(('offsets', 'n_bytes', 'rows', 'column_offsets'), np.int64),
        'hashes': np.uint64,
        'columns': np.uint8,
    }
    with folders.ArrayFiles(folder, dtypes) as files:
        files.append(offsets=np.zeros(1, np.int64), column_offsets=np.zeros(1, np.int64))
        for documents, raw in _batches(source, columns, invalid):
            encoded = tokenizer.encode([text.decode() for text in raw])
            ids = np.fromiter(chain.from_iterable(encoded), dtypes['tokens'])
            ends = np.cumsum([len(item) for item in encoded])
            sizes = np.array([len(text) for text in raw], np.int64)
            said = np.diff(np.cumsum(piece_bytes[ids])[ends - 1], prepend=0)
            assert np.array_equal(said, sizes), f'tokens of {source} do not spell its texts'
            files.append(
                tokens=ids,
                offsets=n_tokens + ends,
                n_bytes=sizes,
                hashes=hash_words(b''.join(map(content_hash, raw))),
                rows=np.array([document.row for document in documents], np.int64),
            )
            if columns:
                values = [_column_json(document, source) for document in documents]
                files.append(
                    columns=b''.join(values),
                    column_offsets=n_column_bytes + np.cumsum([len(value) for value in values]),
                )
                n_column_bytes += sum(map(len, values))
            n_tokens, n_bytes, n_documents = n_tokens + len(ids), n_bytes + int(sizes.sum()), n_documents + len(raw)
            report(f'tokenizing {source}', n_bytes, None)
        written = files.close()
    if not n_documents:
        counts = ', '.join(f'{item["count"]} {reason}' for reason, item in invalid.items()) or 'it has no rows'
        raise ValueError(f'{source} has no document with text ({counts}); check its path and column')
    return {
        'format': _FORMAT,
        'files': written,
        'source': str(source),
        'columns': columns,
        'n_vocab': len(tokenizer),
        'n_documents': n_documents,
        'n_tokens': n_tokens,
        'n_bytes': n_bytes,
        'n_duplicates': _count_duplicates(np.fromfile(folder / 'hashes.bin', np.uint64).reshape(-1, 2)),
        'invalid': invalid,
    }


def _batches(
    source: Source, columns: list[str], invalid: dict[str, dict[str, Any]]
) -> Iterator[tuple[list[Document], list[bytes]]]:
    """Valid documents and their raw bytes, some at a time; the others are counted by reason, the first ones named."""
    documents: list[Document] = []
    raw: list[bytes] = []
    size = 0
    for document in source.documents(columns):
        data = utf8(document.text)
        if isinstance(data, str):
            seen = invalid.setdefault(data, {'count': 0, 'rows': []})
            seen['count'] += 1
            if len(seen['rows']) < _MAX_NAMED_ROWS:
                seen['rows'].append(document.row)
            continue
        documents.append(document)
        raw.append(data)
        size += len(data)
        if size >= _BATCH_BYTES:
            yield documents, raw
            documents, raw, size = [], [], 0
    if documents:
        yield documents, raw


def _column_json(document: Document, source: Source) -> bytes:
    try:
        return json.dumps(document.columns, ensure_ascii=False, sort_keys=True).encode('utf-8', 'surrogatepass')
    except TypeError as error:
        raise ValueError(
            f'{source}, row {document.row}: one of {", ".join(document.columns)} holds what JSON cannot: {error}; '
            'make it text or numbers'
        ) from None


def _count_duplicates(hashes: UInt64[np.ndarray, 'documents 2']) -> int:
    """How many documents are exact copies of an earlier one."""
    ordered = hashes[np.lexsort((hashes[:, 1], hashes[:, 0]))]
    return int((ordered[1:] == ordered[:-1]).all(axis=1).sum())


def _be_silent(what: str, n_done_bytes: int, n_total_bytes: int | None) -> None:
    """Report to nobody."""
