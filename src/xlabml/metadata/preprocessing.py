"""Columns of metadata that are made from others, or from the text, as records are read: in `prepare_data`, in parallel.

Source: the preprocessors of bigscience's metadata, https://github.com/bigscience-workshop/metadata, those that need no
service of others.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .types import Span

Items = list[dict[str, object]]
"""Spans of a text, as a column of a record holds them."""


class Preprocessor(ABC):
    """Makes columns of a record, or another text: an entry of `data.examples.preprocessors`.

    What one makes the next can read. Values are those of plain columns: a text, or a list of spans.

    Attributes:
        writes_text: Whether it changes the text. A record that it cannot read is left out then.
    """

    writes_text = False

    @property
    @abstractmethod
    def reads(self) -> Sequence[str]:
        """The columns that it needs, beside the text."""

    @property
    @abstractmethod
    def makes(self) -> Sequence[str]:
        """The columns that it makes; they replace those of a record."""

    @abstractmethod
    def process(self, text: str, record: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """The text, changed or not, and the columns that it makes; None where there is nothing to say.

        Raises:
            Exception: Any; the record is counted under its name, and goes without these columns.
        """

    def settings(self) -> dict[str, object]:
        """Plain values that what it makes follows from."""
        given = {name: value for name, value in vars(self).items() if not name.startswith('_')}
        return {'class': type(self).__name__, **given}


def columns_read(preprocessors: Sequence[Preprocessor], wanted: Iterable[str]) -> list[str]:
    """The columns that records must have so that these can be had, each once."""
    made: set[str] = set()
    found: list[str] = []
    for one in preprocessors:
        found += [name for name in one.reads if name not in made]
        made |= set(one.makes)
    return list(dict.fromkeys([*found, *(name for name in wanted if name not in made)]))


def preprocess(
    preprocessors: Sequence[Preprocessor], text: str, record: Mapping[str, object]
) -> tuple[str, dict[str, object], Counter[str]]:
    """A record behind all preprocessors.

    Returns:
        The text, '' where it could not be made; all columns; and how often each failed, by `name: error`.
    """
    columns = dict(record)
    failed: Counter[str] = Counter()
    for one in preprocessors:
        try:
            text, made = one.process(text, columns)
        except Exception as error:  # one record of millions does not end a preparation
            failed[f'{type(one).__name__}: {type(error).__name__}'] += 1
            made = dict.fromkeys(one.makes)
            text = '' if one.writes_text else text
        columns |= made
        if not text:
            break
    return text, columns, failed


def text_of(record: Mapping[str, object], column: str) -> str:
    """A column's text; '' where there is none.

    Raises:
        TypeError: It is another value.
    """
    value = record[column]
    if value is None:
        return ''
    if not isinstance(value, str):
        raise TypeError(f'column {column!r} holds {value!r:.80}, which is no text')
    return value


def as_items(spans: Iterable[Span]) -> Items:
    """Spans as a column holds them."""
    found: Items = []
    for span in spans:
        item: dict[str, object] = {'value': span.value, 'start': span.start, 'end': span.end}
        if span.start_order is not None and span.end_order is not None:
            item |= {'relative_start_pos': span.start_order, 'relative_end_pos': span.end_order}
        if span.attributes:
            names, values = zip(*span.attributes)
            item['html_attrs'] = {'attrs': list(names), 'values': list(values)}
        found.append(item)
    return found
