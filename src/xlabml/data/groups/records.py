"""Records whose columns hold texts in roles: each text is a piece of a document, and what belongs to it is kept beside.

A record needs no column of text of its own. What a document's pieces are, and what is known of it, is one column of the
store, GROUP, as plain values: `roles` (a number a piece; INSTRUCTION: it belongs before the piece after it), and those
of `label`, `scores` (a number a text, 0 for those of the first role) and `vectors` (a list a text) that the format has.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from xlabml.blank import is_blank
from xlabml.data.sources import Derived, Document, Source
from xlabml.errors import DataError, SettingsError

GROUP = '@group'
"""The column that says what the pieces of a document are."""

INSTRUCTION = -1
"""The role of a piece that is put before the next one, as a prompt is."""


class Columns(NamedTuple):
    """Which columns of a record a format reads.

    Args:
        texts: For each role, in the order of their numbers, the columns that hold its texts, each a text or a list.
        label: The column of the class; None: there are none.
        score: The column of one number for the whole record, which lies in `score_range`; None: there is none.
        scores: Columns of a teacher's scores, one for each text behind those of the first role, or a list; (): none.
        vectors: Columns of a teacher's vectors, one for each text; (): none.
        score_range: The least and the largest score; they become 0 and 1.
        instructions: Whether a text may be a pair [instruction, text].
        may_be_empty: Whether a text may be empty, or of blanks alone, which counts as empty everywhere.
        optional: Roles of which a record may have no text.
        leave_out: Whether a record with an empty text is left out, not refused.
        others: Further columns, which a format's own records read.
    """

    texts: Mapping[str, Sequence[str]]
    label: str | None = None
    score: str | None = None
    scores: Sequence[str] = ()
    vectors: Sequence[str] = ()
    score_range: tuple[float, float] = (0.0, 1.0)
    instructions: bool = False
    may_be_empty: bool = False
    optional: tuple[str, ...] = ()
    leave_out: bool = False
    others: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Plain values, as JSON returns them."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}
        return {**values, 'texts': {role: list(names) for role, names in self.texts.items()}}

    @property
    def names(self) -> list[str]:
        """All columns, each once."""
        others = [name for name in (self.label, self.score) if name is not None]
        of_texts = [name for names in self.texts.values() for name in names]
        return list(dict.fromkeys([*of_texts, *others, *self.scores, *self.vectors, *self.others]))


class GroupRecords(Derived):
    """The records of a source as documents, a piece for each text.

    Two records are copies where all their texts, roles, labels, scores and vectors are the same.

    Args:
        source: Gives the records.
        columns: Which of their columns hold what.
        otherwise: What else than mending it can be done about a record with an empty text, for messages.

    Raises:
        SettingsError: The source cuts its documents into pieces already.
    """

    in_pieces = True
    has_empty_pieces = True

    def __init__(
        self, source: Source, columns: Columns, otherwise: str = 'set data.examples.leave_out_empty to true'
    ) -> None:
        if source.in_pieces:
            raise SettingsError(
                f'source {source} cuts its documents into pieces ({type(source).__name__}), but data.examples makes '
                'a piece of each text of a role; name the source that it takes its documents from'
            )
        super().__init__(source.of_columns(columns.names))
        self.columns = columns
        self.otherwise = otherwise

    def fingerprint(self) -> dict[str, Any]:
        return {'class': type(self).__name__, **self.columns.plain(), 'source': self.source.fingerprint()}

    def asked(self, columns: Sequence[str]) -> list[str]:
        names = dict.fromkeys([*self.columns.names, *columns])
        return [name for name in names if name not in (GROUP, self.source.text_name)]

    def records(self, columns: Sequence[str] = ()) -> Iterator[tuple[Document, dict[str, object]]]:
        inner = self.source.documents(self.asked(columns))
        for document, known in self._known(inner):
            yield self._document(document.row, known, columns, f'{self.source}, row {document.row}'), dict(known)

    def _known(self, documents: Iterator[Document]) -> Iterator[tuple[Document, Mapping[str, object]]]:
        """Documents, and what their records hold, by column."""
        name = self.source.text_name
        for document in documents:
            yield document, document.columns if name is None else {**document.columns, name: document.text}

    def derive(self, documents: Iterator[Document], columns: Sequence[str]) -> Iterator[Document]:
        for document, known in self._known(documents):
            yield self._document(document.row, known, columns, f'{self.source}, row {document.row}')

    def _document(self, row: int, known: Mapping[str, object], columns: Sequence[str], where: str) -> Document:
        kept = {name: known[name] for name in columns if name != GROUP}
        texts: list[str] = []
        roles: list[int] = []
        for number, (role, names) in enumerate(self.columns.texts.items()):
            values = [value for name in names for value in self._split(known[name])]
            is_empty = not values and role not in self.columns.optional
            for value in values:
                asked = value if isinstance(value, list) else [value]
                pieces = [piece for piece in asked if isinstance(piece, str)]
                if not asked or len(pieces) < len(asked):
                    return Document(row, None, {**kept, GROUP: None})
                is_empty = is_empty or (is_blank(pieces[-1]) and not self.columns.may_be_empty)
                texts += pieces
                roles += [INSTRUCTION] * (len(pieces) - 1) + [number]
            if is_empty:
                if self.columns.leave_out:
                    return Document(row, '', {**kept, GROUP: None})
                raise DataError(
                    f'{where}: a text of the role {role} (column {", ".join(names)}) is empty, or there is none; mend '
                    f'the record, or {self.otherwise}'
                )
        group = {'roles': roles, **self._values(known, [role for role in roles if role != INSTRUCTION], where)}
        cuts = list(accumulate(map(len, texts)))[:-1]
        content = json.dumps(self._content(texts, group), ensure_ascii=False, sort_keys=True)
        return Document(row, ''.join(texts), {**kept, GROUP: group}, cuts, content.encode('utf-8', 'surrogatepass'))

    def _content(self, texts: list[str], group: dict[str, Any]) -> list[Any]:
        """Plain values that are the same for copies of a record."""
        return [texts, group]

    def _split(self, value: object) -> list[object]:
        """The texts of a column: one, or a list; each a text or, with instructions, a pair."""
        if not isinstance(value, list):
            return [value]
        is_pair = self.columns.instructions and len(value) == 2 and all(isinstance(one, str) for one in value)
        return [value] if is_pair else value

    def _values(self, known: Mapping[str, object], roles: list[int], where: str) -> dict[str, Any]:
        """What belongs to the texts of a record."""
        columns = self.columns
        found: dict[str, Any] = {}
        if columns.label is not None:
            found['label'] = as_label(known[columns.label], columns.label, where)
        if columns.score is not None:
            low, high = columns.score_range
            score = as_number(known[columns.score], columns.score, where)
            if not low <= score <= high:
                raise DataError(
                    f'{where}: the score in the column {columns.score!r} is {score:g}, outside {low:g} to {high:g}; '
                    'mend it, or set data.examples.score_range to the scale of the scores'
                )
            found['scores'] = [0.0 if role == 0 else (score - low) / (high - low) for role in roles]
        if columns.scores:
            values = [value for name in columns.scores for value in _as_list(known[name])]
            n_texts = sum(role > 0 for role in roles)
            if len(values) != n_texts or any(role == 0 for role in roles[1:]):
                raise DataError(
                    f'{where}: {len(values)} scores ({", ".join(columns.scores)}) for {n_texts} texts behind the '
                    'first; give one score for each'
                )
            named = ', '.join(columns.scores)
            found['scores'] = [0.0, *(as_number(value, named, where) for value in values)]
        if columns.vectors:
            vectors = [value for name in columns.vectors for value in _vectors(known[name])]
            if len(vectors) != len(roles):
                raise DataError(
                    f'{where}: {len(vectors)} vectors ({", ".join(columns.vectors)}) for {len(roles)} texts; give one '
                    'for each'
                )
            named = ', '.join(columns.vectors)
            found['vectors'] = [[as_number(value, named, where) for value in vector] for vector in vectors]
        return found


def as_label(value: object, column: str, where: str) -> str | int:
    """A label as it stands in a column.

    Raises:
        DataError: It is none.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | str) and value != '':
        return value
    raise DataError(f'{where}: the column {column!r} holds {value!r}; a label is a text or a whole number')


def as_number(value: object, column: str, where: str) -> float:
    """A number as it stands in a column, also as text.

    Raises:
        DataError: It is none, or not finite.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f'{where}: the column {column} holds {value!r} where a finite number belongs; mend the record')
    return number


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _vectors(value: object) -> list[list[Any]]:
    """The vectors of a column: one, or a list of several."""
    values = _as_list(value)
    return values if values and isinstance(values[0], list) else [values]
