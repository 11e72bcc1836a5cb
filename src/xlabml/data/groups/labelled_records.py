"""Records with labels as people have them: a class, several, what each rater said, probabilities, or a number."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from xlabml.data.corpus import Corpus
from xlabml.data.sources import Document, Source
from xlabml.errors import DataError

from .records import GROUP, Columns, GroupRecords, as_label, as_number

TARGET = 'target'
"""Of a document's GROUP: a share for each class that has one, by name; or the number of a regression."""


class LabelColumns(NamedTuple):
    """Where the label of a record stands; one of them is named.

    Args:
        label: The column of its class.
        labels: The column of a list of its classes, which may be empty.
        ratings: The column of a list of classes, what each rater said.
        probabilities: A column for each class, of its name.
        number: The column of a number.
    """

    label: str | None = None
    labels: str | None = None
    ratings: str | None = None
    probabilities: tuple[str, ...] = ()
    number: str | None = None

    @property
    def others(self) -> tuple[str, ...]:
        """The columns beside that of one class."""
        named = (self.labels, self.ratings, *self.probabilities, self.number)
        return tuple(name for name in named if name is not None)


class LabelledRecords(GroupRecords):
    """Records with texts in roles and a label.

    Args:
        source: Gives the records.
        columns: Which of their columns hold texts.
        labels: Which hold the label.
    """

    def __init__(self, source: Source, columns: Columns, labels: LabelColumns) -> None:
        super().__init__(source, columns)
        self.labels = labels

    def fingerprint(self) -> dict[str, Any]:
        labels = self.labels._asdict()
        labels['probabilities'] = list(self.labels.probabilities)
        return {**super().fingerprint(), 'class': 'LabelledRecords', 'labels': labels}

    def _document(self, row: int, known: Mapping[str, object], columns: Sequence[str], where: str) -> Document:
        named = [*self.labels.others, *([] if self.labels.label is None else [self.labels.label])]
        if self.columns.leave_out and any(known[name] in (None, '') for name in named):
            return Document(row, '', {**{name: known[name] for name in columns if name != GROUP}, GROUP: None})
        return super()._document(row, known, columns, where)

    def _values(self, known: Mapping[str, object], roles: list[int], where: str) -> dict[str, Any]:
        found = super()._values(known, roles, where)
        labels = self.labels
        if labels.labels is not None:
            found[TARGET] = dict.fromkeys(sorted(_names(known[labels.labels], labels.labels, where)), 1.0)
        if labels.ratings is not None:
            ratings = _names(known[labels.ratings], labels.ratings, where)
            if not ratings:
                raise DataError(f'{where}: the column {labels.ratings!r} has no rating; leave the record out')
            found[TARGET] = {name: ratings.count(name) / len(ratings) for name in sorted(set(ratings))}
        if labels.probabilities:
            shares = {name: as_number(known[name], name, where) for name in labels.probabilities}
            total = sum(shares.values())
            if min(shares.values()) < 0 or abs(total - 1) > 1e-3:
                raise DataError(
                    f'{where}: the probabilities in {", ".join(labels.probabilities)} are '
                    f'{", ".join(f"{share:g}" for share in shares.values())}, with the sum {total:g}; each must be 0 '
                    'or more, and their sum 1'
                )
            found[TARGET] = {name: share / total for name, share in shares.items()}
        if labels.number is not None:
            found[TARGET] = as_number(known[labels.number], labels.number, where)
        return found


def _names(value: object, column: str, where: str) -> list[str]:
    if not isinstance(value, list):
        raise DataError(f'{where}: the column {column!r} holds {value!r} where a list of labels belongs')
    return [str(as_label(one, column, where)) for one in value]


def count_classes(
    corpus: Corpus, documents: Int64[np.ndarray, ' documents']
) -> tuple[dict[str, float], dict[str, bool]]:
    """How often each class is among training documents, shares added up; and whether its name is a number."""
    counts: dict[str, float] = {}
    is_number: dict[str, bool] = {}
    for document in documents.tolist():
        group = corpus.columns(document)[GROUP]
        for name, share in ({group['label']: 1.0} if 'label' in group else group.get(TARGET, {})).items():
            counts[str(name)] = counts.get(str(name), 0.0) + share
            is_number[str(name)] = isinstance(name, int)
    return counts, is_number
