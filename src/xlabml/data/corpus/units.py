"""Documents as their splits are drawn from them: from token stores or straight from sources, some at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from xlabml.data.sources import Source, utf8
from xlabml.data.store import TokenStore, content_hash, document_hash, hash_words
from xlabml.errors import SettingsError

_BATCH_DOCUMENTS = 1 << 14


class Records(NamedTuple):
    """Some documents of one source, as their splits are drawn from them.

    Args:
        source: Its name, for errors.
        rows: Their numbers in the source.
        hashes: Of their contents.
        columns: Of each: the requested columns; empty where there is none.
    """

    source: str
    rows: Sequence[int] | Int64[np.ndarray, ' documents']
    hashes: UInt64[np.ndarray, 'documents 2']
    columns: Sequence[dict[str, object]]


def units_of(records: Records, group: str | None) -> UInt64[np.ndarray, 'documents 2']:
    """The hashes that places follow from: of the contents or, where a column of groups is named, of its values."""
    if group is None:
        return records.hashes
    texts = values_of(records, group)
    return hash_words(b''.join(content_hash(text.encode('utf-8', 'surrogatepass')) for text in texts))


def values_of(records: Records, column: str) -> list[str]:
    """What stands in a column, as text.

    Raises:
        SettingsError: A document has nothing there, or what JSON cannot hold.
    """
    pairs = zip(records.rows, records.columns)
    return [value_of(columns, column, f'{records.source}, row {row}') for row, columns in pairs]


def value_of(columns: Mapping[str, object], column: str, where: str) -> str:
    """What stands in a column of a document, as text: 1 and "1" are the same.

    Args:
        where: Names the document, for errors.

    Raises:
        SettingsError: There is nothing, or what JSON cannot hold.
    """
    value = columns[column]
    what = 'nothing'
    if value is not None:
        try:
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        except TypeError:
            what = f'a {type(value).__name__}, which JSON cannot hold,'
    raise SettingsError(
        f'{where}, has {what} in the column {column!r}; give every document a text or a number there, or leave out the '
        'setting that names it (data.group, data.stratify)'
    )


def records_of_store(store: TokenStore, with_columns: bool) -> Iterator[Records]:
    """The documents of a store."""
    for start in range(0, len(store), _BATCH_DOCUMENTS):
        rows = store.rows[start : start + _BATCH_DOCUMENTS]
        columns = [store.columns(start + k) for k in range(len(rows))] if with_columns else []
        yield Records(store.manifest['source'], rows, store.hashes[start : start + _BATCH_DOCUMENTS], columns)


def records_of_source(source: Source, columns: Sequence[str]) -> Iterator[Records]:
    """The valid documents of a source, which are those of its store."""
    documents = source.documents(columns)
    while some := list(islice(documents, _BATCH_DOCUMENTS)):
        valid = [(document, data) for document in some if isinstance(data := utf8(document.text), bytes)]
        hashes = hash_words(b''.join(document_hash(document, data) for document, data in valid))
        rows = [document.row for document, _ in valid]
        yield Records(str(source), rows, hashes, [document.columns for document, _ in valid])
