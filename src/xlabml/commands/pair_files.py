"""Pairs of a file, each a query with the texts that answer it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xlabml.data import Location
from xlabml.errors import DataError

from .errors import UsageError

if TYPE_CHECKING:
    from xlabml.data import Source
    from xlabml.pipelines import TextEmbedder
    from xlabml.pipelines.mining import Embed, Pair


def read_pairs(path: str, anchor: str, positive: str) -> list['Pair']:
    """The pairs of a table.

    Args:
        path: jsonl, json, csv, tsv, parquet or arrow.
        anchor: The column of the query.
        positive: That of its answer, or of a list of them.

    Raises:
        UsageError: There is no such file.
        DataError: A text is empty, or there is no pair.
    """
    source = Location(path, column=anchor)
    if not source.files():
        raise UsageError(f'there are no pairs at {path}: no such file or folder, or none that can be read')
    pairs = list(pairs_of(source, anchor, positive))
    if not pairs:
        raise DataError(f'{path} has no pairs; choose another file')
    return pairs


def pairs_of(source: 'Source', anchor: str, positive: str) -> Iterator['Pair']:
    """The pairs of a source; errors as of `read_pairs`."""
    from xlabml.data.groups import Columns, GroupRecords
    from xlabml.pipelines.mining import Pair

    records = GroupRecords(source, Columns({'anchor': (anchor,), 'positive': (positive,)}))
    for document in records.documents():
        if not isinstance(document.text, str):
            raise DataError(f'{source}, row {document.row}: {anchor} or {positive} holds no text; mend the record')
        assert isinstance(document.cuts, list)
        ends = [*document.cuts, len(document.text)]
        query, *positives = (document.text[begin:end] for begin, end in zip([0, *ends], ends))
        if any(text.isspace() for text in (query, *positives)):
            raise DataError(f'{source}, row {document.row}: {anchor} or {positive} is blank; mend the record')
        yield Pair(query, positives)


def embed_with(embedder: 'TextEmbedder', prompt: str, batch_tokens: int | None = None) -> 'Embed':
    """Makes vectors of length 1, with the prompt of this name where the model has it."""
    usual = prompt if prompt in embedder.model.prompts else None
    return lambda texts: embedder.encode(texts, usual, normalize=True, batch_tokens=batch_tokens)
