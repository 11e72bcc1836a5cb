"""Pairs of a file, each a query with the texts that answer it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from xlabml.data import Location
from xlabml.errors import DataError

from .cut_texts import CutTexts
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

    columns = Columns({'anchor': (anchor,), 'positive': (positive,)})
    records = GroupRecords(source, columns, 'take the record out of the file')
    for document in records.documents():
        if not isinstance(document.text, str):
            raise DataError(f'{source}, row {document.row}: {anchor} or {positive} holds no text; mend the record')
        assert isinstance(document.cuts, list)
        ends = [*document.cuts, len(document.text)]
        query, *positives = (document.text[begin:end] for begin, end in zip([0, *ends], ends))
        yield Pair(query, positives)


def embed_with(
    embedder: 'TextEmbedder', prompt: str, cut: CutTexts, name: str, batch_tokens: int | None = None
) -> 'Embed':
    """Makes vectors of length 1.

    Args:
        embedder: The model.
        prompt: The name of the prompt, where the model has it.
        cut: Counts the texts that are cut.
        name: What the texts are, for that count.
        batch_tokens: The most tokens of a pass.
    """
    usual = prompt if prompt in embedder.model.prompts else None

    def embed(texts: list[str]) -> np.ndarray:
        with cut.counting(name, embedder):
            return embedder.encode(texts, usual, normalize=True, batch_tokens=batch_tokens)

    return embed
