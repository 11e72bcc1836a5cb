"""The metadata of a record: items in JSON lists (schemas v1 and v2), or plain columns, as values and spans by type."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from xlabml.errors import DataError

from .names import Name, v2_column
from .spans import Marker, check_spans, order_markers
from .types import GlobalType, LocalType, MetadataType, Span

Schema = Literal['columns', 'v1', 'v2']
"""How records hold metadata. columns: a column for each type, with a value or a list of spans. v1: the column
`metadata`, a list of items, each with its key. v2: a column `metadata_…` for each type, a list of items."""

NOTHING = 'renders to nothing'
"""Why an item is left out and counted."""


class Rendered(NamedTuple):
    """The metadata of a text, as texts.

    Args:
        before: Number of type and text, in the order of the types.
        markers: What stands inside the text, in order.
        after: Number of type and text of what comes behind.
        values: The values of types of whole texts, by key.
        lost: How many items were left out, by `key: reason`.
    """

    before: list[tuple[int, str]]
    markers: list[Marker]
    after: list[tuple[int, str]]
    values: dict[str, str]
    lost: dict[str, int]


def columns_of(types: Sequence[MetadataType], schema: Schema) -> list[str]:
    """The columns of a record that hold metadata, each once."""
    if schema == 'v1':
        return ['metadata']
    if schema == 'v2':
        return list(dict.fromkeys(kind.column or v2_column(kind.key, kind.is_local) for kind in types))
    return list(dict.fromkeys(kind.column or kind.key for kind in types))


def render(
    text: str, record: Mapping[str, object], types: Sequence[MetadataType], schema: Schema, where: str
) -> Rendered:
    """The metadata of a record, as texts before, inside and after its text.

    Args:
        where: Names the record, for errors.

    Raises:
        DataError: An item is not of the schema, is of an unknown type, or its spans do not fit the text; the message
            names record and column.
    """
    found = Rendered([], [], [], {}, {})
    spans: list[tuple[int, Span, LocalType]] = []
    if schema == 'v1':
        _check_keys(record['metadata'], types, where)
    for number, kind in enumerate(types):
        column, items = _items(record, kind, schema, where)
        n_lost = 0
        if isinstance(kind, GlobalType):
            for item in items:
                said = kind.render(value := _text(item.get('value')))
                if not said:
                    n_lost += bool(value) or schema != 'columns'
                    continue
                found.values[kind.key] = value
                (found.after if kind.after else found.before).append((number, said))
        elif isinstance(kind, LocalType):
            some = [_span(item, column, where) for item in items]
            if wrong := check_spans(some, len(text)):
                raise DataError(f'{where}, column {column!r}: {kind.key}: {wrong}')
            shown = [span for span in some if kind.keeps(span)]
            said_something = [span for span in shown if any(kind.markers(span))]
            n_lost = len(shown) - len(said_something)
            spans += [(number, span, kind) for span in said_something]
            if said_something and kind.control is not None:
                found.before.append((number, kind.control))
        if n_lost:
            found.lost[f'{kind.key}: {NOTHING}'] = n_lost
    return found._replace(markers=order_markers(spans))


def _check_keys(items: object, types: Sequence[MetadataType], where: str) -> None:
    known = {name.value for name in Name} | {kind.key for kind in types}
    for item in _as_list(items, 'metadata', where):
        key = item.get('key')
        if key not in known:
            raise DataError(
                f"{where}, column 'metadata': an item has the unknown type {key!r}; the types are "
                f'{", ".join(sorted(known))}; add a KeyValue or LocalKeyValue of this key to data.examples.types'
            )


def _items(
    record: Mapping[str, object], kind: MetadataType, schema: Schema, where: str
) -> tuple[str, list[dict[str, Any]]]:
    """The column of a type, and its items."""
    if schema == 'columns':
        column = kind.column or kind.key
        value = record[column]
        if kind.is_local:
            return column, _as_list(value, column, where)
        if value is not None and not isinstance(value, str | int | float):
            raise DataError(f'{where}, column {column!r}: the value is {value!r:.80}; give a text or a number')
        return column, [] if value is None else [{'value': value}]
    column = 'metadata' if schema == 'v1' else kind.column or v2_column(kind.key, kind.is_local)
    wanted = 'local' if kind.is_local else 'global'
    found = []
    for item in _as_list(record[column], column, where):
        if schema == 'v1' and item.get('key') != kind.key:
            continue
        form = item.get('type', wanted)
        if form not in ('local', 'global'):
            raise DataError(f'{where}, column {column!r}: an item has the type {form!r}; it is global or local')
        if form == wanted:
            found.append(item)
        elif schema == 'v2' or kind.key != Name.LENGTH.value:
            raise DataError(f'{where}, column {column!r}: an item of {kind.key} is {form}, but {kind.key} is {wanted}')
    return column, found


def _as_list(value: object, column: str, where: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise DataError(f'{where}, column {column!r}: {value!r:.80} is no JSON list of items') from None
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f'{where}, column {column!r}: {value!r:.80} is no list of items; each is a mapping')
    return value


def _text(value: object) -> str:
    return '' if value is None else str(value)


def _span(item: Mapping[str, Any], column: str, where: str) -> Span:
    start, end = (item.get(long, item.get(short)) for long, short in _OFFSETS)
    for offset in (start, end):
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise DataError(
                f'{where}, column {column!r}: a span has the offset {offset!r}; give char_start_idx and char_end_idx, '
                'whole numbers that count characters'
            )
    attributes = item.get('html_attrs') or {}
    if not isinstance(attributes, dict):
        raise DataError(f'{where}, column {column!r}: html_attrs is {attributes!r:.80}; it has attrs and values')
    pairs = zip(attributes.get('attrs', []), attributes.get('values', []))
    return Span(
        _text(item.get('value')),
        start,
        end,
        _order(item.get('relative_start_pos'), column, where),
        _order(item.get('relative_end_pos'), column, where),
        tuple((str(name), str(value)) for name, value in pairs),
    )


def _order(value: object, column: str, where: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise DataError(f'{where}, column {column!r}: a relative order is {value!r}; it is a whole number')


_OFFSETS = (('char_start_idx', 'start'), ('char_end_idx', 'end'))
