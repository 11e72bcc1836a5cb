"""Records whose metadata stands beside their text: a document is the text, cut at every possible marker, and behind it
each text of its metadata as a piece of its own.

So tokens of the text are the same whatever is put before or between them. What the pieces are is one column of the
store, METADATA, as plain values: `text` (how many pieces the text has), `bytes` (of the text), `items` (of each further
piece its type and its place: BEFORE, AFTER, or the piece of the text before which it stands), `values` and `lost`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from xlabml.data.sources import Derived, Document, Source
from xlabml.errors import SettingsError
from xlabml.metadata import MetadataType, Preprocessor, Schema, columns_of, columns_read, preprocess, render

METADATA = '@metadata'
"""The column that says what the pieces of a document are."""

BEFORE = -1
"""The place of what stands before a text."""

AFTER = -2
"""The place of what comes behind it."""

_MAX_VALUE_CHARS = 80
"""Longer values are left out of the few that a type lists."""


class ConditionedRecords(Derived):
    """The records of a source as documents, a piece for each text of their metadata.

    Two records are copies where their texts are the same, whatever is known of them; the text alone decides the split.

    Args:
        source: Gives the records.
        types: The types of metadata that are kept.
        schema: How a record holds them.
        preprocessors: Make columns of each record, or its text, before it is read.

    Raises:
        SettingsError: The source cuts its documents into pieces already.
    """

    in_pieces = True
    has_empty_pieces = True

    def __init__(
        self,
        source: Source,
        types: Sequence[MetadataType],
        schema: Schema,
        preprocessors: Sequence[Preprocessor] = (),
    ) -> None:
        if source.in_pieces:
            raise SettingsError(
                f'source {source} cuts its documents into pieces ({type(source).__name__}), but data.examples cuts '
                'each text where its metadata stands; name the source that it takes its documents from'
            )
        super().__init__(source)
        self.types = types
        self.schema: Schema = schema
        self.preprocessors = preprocessors

    def records(self, columns: Sequence[str] = ()) -> Iterator[tuple[Document, dict[str, object]]]:
        for document in self.source.documents(self.asked(columns)):
            yield self._document(document, columns), {**document.columns, 'text': document.text}

    def fingerprint(self) -> dict[str, Any]:
        types = [kind.settings() for kind in self.types]
        made = {'preprocessors': [one.settings() for one in self.preprocessors]} if self.preprocessors else {}
        return {
            'class': type(self).__name__,
            'types': types,
            'schema': self.schema,
            'source': self.source.fingerprint(),
            **made,
        }

    def asked(self, columns: Sequence[str]) -> list[str]:
        names = [*columns_read(self.preprocessors, columns_of(self.types, self.schema)), *columns]
        return [name for name in dict.fromkeys(names) if name not in (METADATA, self.source.text_name)]

    def derive(self, documents: Iterator[Document], columns: Sequence[str]) -> Iterator[Document]:
        for document in documents:
            yield self._document(document, columns)

    def _document(self, document: Document, columns: Sequence[str]) -> Document:
        kept: dict[str, object] = {name: document.columns[name] for name in columns if name != METADATA}
        text = document.text
        if not isinstance(text, str) or not text:
            return Document(document.row, text, {**kept, METADATA: {}})
        known: Mapping[str, object] = document.columns
        if self.source.text_name is not None:
            known = {**known, self.source.text_name: text}
        text, known, failed = preprocess(self.preprocessors, text, known)
        if not text:
            return Document(document.row, text, {**kept, METADATA: {}})
        said = render(text, known, self.types, self.schema, f'{self.source}, row {document.row}')
        indices = sorted({marker.at for marker in said.markers} - {0, len(text)})
        starts = [0, *indices]
        piece_of = {index: number for number, index in enumerate(starts)} | {len(text): len(starts)}
        items = [
            *([number, BEFORE, one] for number, one in said.before),
            *([marker.type, piece_of[marker.at], marker.text] for marker in said.markers),
            *([number, AFTER, one] for number, one in said.after),
        ]
        texts = [str(one) for _, _, one in items]
        ends = list(accumulate(map(len, texts), initial=len(text)))
        values = {key: value for key, value in said.values.items() if len(value) <= _MAX_VALUE_CHARS}
        data = text.encode('utf-8', 'surrogatepass')
        about = {
            'text': len(starts),
            'bytes': len(data),
            'items': [[number, place] for number, place, _ in items],
            'values': values,
            'lost': {**said.lost, **failed},
        }
        return Document(document.row, text + ''.join(texts), {**kept, METADATA: about}, [*indices, *ends[:-1]], data)
