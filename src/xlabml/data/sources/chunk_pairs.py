"""Pairs of chunks of documents: what embedders learn from where there is nothing but text.

The objectives of kl3m's encoders, defined here since their own definition is lost. Same document: two chunks of one
document are an anchor and its positive (`ChunkPairs`), the other texts of a step its negatives; with the batching
SameSource these are chunks of the same source, which are harder to tell apart. Next chunk: whether b is what comes
after a in its document (`NextChunks`), as in BERT's next sentence prediction. Same source: the column `source` as the
label of an objective of classes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import xxhash

from .base import Document, Source, check_columns
from .derived import Derived

_BORDER = re.compile(r'\s+')


class Extent(NamedTuple):
    """A stretch of a text: its first character, and the one behind its last."""

    start: int
    end: int


class _Chunks(Derived):
    """The base of sources that make records of chunks of another source's documents.

    Args:
        source: Gives the documents.
        chunk_chars: About how long a chunk is; a document shorter than two has chunks of half its length.
        min_chars: A document with less room for a chunk has none: its record has empty texts, which a format leaves
            out and counts (`leave_out_empty`).
        seed: What is drawn follows from it and a document's text.

    Raises:
        ValueError: A length is out of range.
    """

    text_name = None
    provides: tuple[str, ...]
    """The columns of its records."""

    def __init__(self, source: Source, chunk_chars: int = 600, min_chars: int = 60, seed: int = 0) -> None:
        if not 1 <= min_chars <= chunk_chars:
            raise ValueError(
                f'chunk_chars is {chunk_chars} and min_chars {min_chars}; give 1 or more, and min_chars at most '
                'chunk_chars'
            )
        super().__init__(source)
        self.chunk_chars = chunk_chars
        self.min_chars = min_chars
        self.seed = seed

    def asked(self, columns: Sequence[str]) -> Sequence[str]:
        check_columns(columns, self.provides, str(self))
        return ()

    def fingerprint(self) -> dict[str, object]:
        settings = {'chunk_chars': self.chunk_chars, 'min_chars': self.min_chars, 'seed': self.seed}
        return {'class': type(self).__name__, **settings, 'source': self.source.fingerprint()}

    def _draws(self, text: str) -> list[float]:
        """Four numbers in [0, 1) that follow from the seed and a text."""
        raw = text.encode('utf-8', 'surrogatepass')
        return [(xxhash.xxh3_64_intdigest(raw, 4 * self.seed + i) >> 11) * 2.0**-53 for i in range(4)]

    def _record(self, row: int, columns: Sequence[str], values: Mapping[str, object]) -> Document:
        return Document(row, values[columns[0]] if columns else None, {name: values[name] for name in columns})


class ChunkPairs(_Chunks):
    """Two chunks of each document that do not overlap, as anchor and positive, cut at white space.

    Columns: anchor, positive; document, a hash of the whole text (for data.group); source.
    """

    provides = ('anchor', 'positive', 'document', 'source')

    def derive(self, documents: Iterator[Document], columns: Sequence[str]) -> Iterator[Document]:
        for document in documents:
            text = document.text
            if not isinstance(text, str):
                yield self._record(document.row, columns, dict.fromkeys(self.provides))
                continue
            one, other = self._pair(text)
            values = {
                'anchor': text[slice(*one)],
                'positive': text[slice(*other)],
                'document': xxhash.xxh3_128_hexdigest(text.encode('utf-8', 'surrogatepass')),
                'source': str(self.source),
            }
            yield self._record(document.row, columns, values)

    def _pair(self, text: str) -> tuple[Extent, Extent]:
        """Two chunks; empty ones where the text is too short."""
        n = min(self.chunk_chars, len(text) // 2)
        draws = self._draws(text)
        room = len(text) - 2 * n + 1
        first, second = sorted(int(draw * room) for draw in draws[:2])  # the second counts from behind the first chunk
        found = [_snap(text, first, first + n), _snap(text, second + n, second + 2 * n)]
        if min(chunk.end - chunk.start for chunk in found) < self.min_chars:
            return Extent(0, 0), Extent(0, 0)
        return (found[1], found[0]) if draws[2] < 0.5 else (found[0], found[1])


class NextChunks(_Chunks):
    """A chunk a of each document, and b: what comes after it, or a chunk of the document before; label 1 or 0.

    Half of the records have the label 1. The first document of a file (or of what is read in one piece) has no other
    before it, so its label is 1. Columns: a, b, label, source.
    """

    provides = ('a', 'b', 'label', 'source')

    def derive(self, documents: Iterator[Document], columns: Sequence[str]) -> Iterator[Document]:
        before = ''
        for document in documents:
            text = document.text
            if not isinstance(text, str):
                yield self._record(document.row, columns, dict.fromkeys(self.provides))
                continue
            a, b = self._pair(text)
            draws = self._draws(text)
            is_next = draws[2] < 0.5 or not before
            values = {
                'a': text[slice(*a)],
                'b': text[slice(*b)] if is_next else before,
                'label': int(is_next),
                'source': str(self.source),
            }
            if a.end > a.start:
                before = text[slice(*(a if draws[3] < 0.5 else b))]
            yield self._record(document.row, columns, values)

    def _pair(self, text: str) -> tuple[Extent, Extent]:
        """Two chunks of which one follows the other; empty ones where the text is too short."""
        n = min(self.chunk_chars, len(text) // 2)
        start = int(self._draws(text)[0] * (len(text) - 2 * n + 1))
        a = _snap(text, start, start + n)
        b = _snap(text, a.end, start + 2 * n)
        is_short = min(a.end - a.start, b.end - b.start) < self.min_chars
        return (Extent(0, 0), Extent(0, 0)) if is_short else (a, b)


def _snap(text: str, start: int, end: int) -> Extent:
    """A stretch without white space around it, and without the halves of words that it cuts, if any word is left."""
    start = min(start, len(text))
    end = min(end, len(text))
    if 0 < start < len(text) and not text[start - 1].isspace():
        border = _BORDER.search(text, start, end)
        start = border.end() if border else start
    if 0 < end < len(text) and not text[end].isspace():
        borders = list(_BORDER.finditer(text, start, end))
        end = borders[-1].start() if borders else end
    inside = text[start:end]
    return Extent(start + len(inside) - len(inside.lstrip()), start + len(inside.rstrip()) if inside.strip() else start)
