"""Spans of a text as markers in one order: what is closed before what is opened, the outer around the inner."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .types import LocalType, Span


class Marker(NamedTuple):
    """A text that stands inside another one.

    Args:
        at: The character before which it stands.
        type: Number of its type.
        text: What is written.
    """

    at: int
    type: int
    text: str


def check_spans(spans: Sequence[Span], n_chars: int) -> str | None:
    """What is wrong with the spans of one type, for people; None where nothing is.

    Args:
        n_chars: The length of the text.
    """
    for span in spans:
        if not 0 <= span.start <= span.end <= n_chars:
            return f'the span {span.start} to {span.end} lies outside its text of {n_chars} characters'
    orders = [order for span in spans for order in (span.start_order, span.end_order)]
    if any(order is None for order in orders) and any(order is not None for order in orders):
        return 'some spans have a relative order and others none; give it for all, or for none'
    if orders and orders[0] is not None:
        starts = [(span.start, span.start_order) for span in spans]
        places = Counter([*starts, *((span.end, span.end_order) for span in spans)])
        for (index, order), n in places.items():
            if n > 1:
                return f'{n} markers at character {index} have the relative order {order}; number them apart'
    else:
        there: set[tuple[int, int]] = set()
        for span in spans:
            if (span.start, span.end) in there:
                return (
                    f'two spans go from {span.start} to {span.end} without a relative order; give '
                    'relative_start_pos and relative_end_pos, which say which of them is the outer one'
                )
            there.add((span.start, span.end))
    return _find_crossing(spans)


def _find_crossing(spans: Sequence[Span]) -> str | None:
    open_spans: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        while open_spans and open_spans[-1].end <= span.start:
            open_spans.pop()
        if open_spans and span.end > open_spans[-1].end:
            outer = open_spans[-1]
            return (
                f'the spans {outer.start} to {outer.end} and {span.start} to {span.end} cross; end one before the '
                'other begins, or inside it'
            )
        open_spans.append(span)
    return None


def order_markers(spans: Sequence[tuple[int, Span, LocalType]]) -> list[Marker]:
    """The markers of all spans, in the order in which they stand in the text.

    At one character, what ends there is closed first, the inner before the outer; then come markers with a relative
    order, in that order; then spans of no characters; then what begins there is opened, the outer before the inner. Of
    spans that are equal the type that is listed earlier is the inner one.

    Args:
        spans: The number of its type, the span, its type.
    """
    return [marker for _, marker in sorted(_keyed(spans), key=lambda pair: pair[0])]


def _keyed(spans: Sequence[tuple[int, Span, LocalType]]) -> Iterator[tuple[tuple[int, ...], Marker]]:
    """Markers that say something, and the key that puts them in order."""
    for number, span, kind in spans:
        opening, closing = kind.markers(span)
        if span.start_order is not None and span.end_order is not None:
            first = (span.start, 1, span.start_order, number, 0)
            last = (span.end, 1, span.end_order, number, 1)
        elif span.start == span.end:
            first = (span.start, 2, number, 0, 0)
            last = (span.end, 2, number, 1, 0)
        else:
            first = (span.start, 3, -span.end, -number, 0)
            last = (span.end, 0, -span.start, number, 0)
        if opening:
            yield first, Marker(span.start, number, opening)
        if closing:
            yield last, Marker(span.end, number, closing)
