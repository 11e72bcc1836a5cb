"""Preprocessors of texts and addresses: dates, places on a site, lengths, paragraphs, entities."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from xlabml.errors import SettingsError

from .global_types import datasource
from .names import Name
from .preprocessing import Preprocessor, as_items, text_of
from .types import Span

_DATE = re.compile(r'(?<!\d)(\d{4})(?:([-/_.]?)(\d{2})(?:\2(\d{2}))?)?(?!\d)')
_BLANK = re.compile(r'\n[^\S\n]*(?:\n[^\S\n]*)+')
_SENTENCE = re.compile(r'[^.]*\.+|[^.]+')
_WORD = re.compile(r'\w+')


class TimestampFromUrl(Preprocessor):
    """The date in an address as the column timestamp: `2018-12-05`, or `2018-12`, or of a part by itself `2018`.

    Args:
        column: Where the address is.
        first_year: Numbers of four digits below are no years.
        last_year: Nor are those above.
    """

    def __init__(self, column: str = 'url', first_year: int = 1983, last_year: int = 2035) -> None:
        if not 1 <= first_year <= last_year <= 9999:
            raise SettingsError(
                f'data.examples.preprocessors: TimestampFromUrl has first_year {first_year} and last_year {last_year}; '
                'give years in 1..9999, the first not above the last'
            )
        self.column = column
        self.first_year = first_year
        self.last_year = last_year

    @property
    def reads(self) -> Sequence[str]:
        return [self.column]

    @property
    def makes(self) -> Sequence[str]:
        return [Name.TIMESTAMP.value]

    def process(self, text: str, record: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        url = text_of(record, self.column)
        found = [said for said in map(self._read, _DATE.finditer(url)) if said]
        return text, {Name.TIMESTAMP.value: max(found, key=len, default=None)}  # the most exact, of these the first

    def _read(self, match: re.Match[str]) -> str:
        year, separator, month, day = match.groups()
        if not self.first_year <= int(year) <= self.last_year:
            return ''
        if month is None:
            before = match.string[: match.start()]
            is_part = before.endswith('/') and match.string[match.end() :][:1] in ('', '/', '?', '#')
            return year if is_part else ''
        if day is not None:
            try:
                return date(int(year), int(month), int(day)).isoformat()
            except ValueError:
                return ''
        return f'{year}-{month}' if separator and 1 <= int(month) <= 12 else ''  # 201812 alone may be any number


class DatasourceFromUrl(Preprocessor):
    """Host and folders of an address as the column datasource: `example.org > sports`.

    Args:
        column: Where the address is.
    """

    def __init__(self, column: str = 'url') -> None:
        self.column = column

    @property
    def reads(self) -> Sequence[str]:
        return [self.column]

    @property
    def makes(self) -> Sequence[str]:
        return [Name.DATASOURCE.value]

    def process(self, text: str, record: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        return text, {Name.DATASOURCE.value: datasource(text_of(record, self.column)) or None}


class LengthOfText(Preprocessor):
    """The number of characters of a text, as the column length."""

    reads = ()
    makes = (Name.LENGTH.value,)

    def process(self, text: str, record: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        return text, {Name.LENGTH.value: str(len(text))}


class SentenceLengths(Preprocessor):
    """The number of characters of each sentence, as spans: a sentence ends with its full stops, or the text.

    Args:
        into: The column that it makes; name it as the `column` of the type SentenceLength.
    """

    reads = ()

    def __init__(self, into: str = 'sentence_length') -> None:
        self.into = into

    @property
    def makes(self) -> Sequence[str]:
        return [self.into]

    def process(self, text: str, record: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        found = []
        for match in _SENTENCE.finditer(text):
            n_blank = len(match[0]) - len(match[0].lstrip())
            start = match.start() + n_blank
            if start < match.end():
                found.append(Span(str(match.end() - start), start, match.end()))
        return text, {self.into: as_items(found)}


class ParagraphsFromText(Preprocessor):
    """The paragraphs of a text, parted by blank lines, as the column paragraph. HtmlToText parts blocks so."""

    reads = ()
    makes = (Name.PARAGRAPH.value,)

    def process(self, text: str, record: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        starts = [0, *(match.end() for match in _BLANK.finditer(text))]
        ends = [*(match.start() for match in _BLANK.finditer(text)), len(text)]
        found = [Span('', start, end) for start, end in zip(starts, ends) if text[start:end].strip()]
        return text, {Name.PARAGRAPH.value: as_items(found)}


class EntitiesByDictionary(Preprocessor):
    """Mentions that stand in a dictionary, as the column entity: whole words, of several the longest.

    Args:
        path: The dictionary: lines of a mention, a tab and a name, or JSON lines with `mention` and `name` (.jsonl).
        ignore_case: Whether capital letters make no difference.
    """

    reads = ()
    makes = (Name.ENTITY.value,)

    def __init__(self, path: str, ignore_case: bool = False) -> None:
        if not Path(path).is_file():
            raise SettingsError(f'data.examples.preprocessors: EntitiesByDictionary.path {path} is no file')
        self.path = path
        self.ignore_case = ignore_case
        self._names: dict[tuple[str, ...], str] | None = None
        self._longest = 0
        self._dictionary()  # what is wrong with it is said before work starts

    def settings(self) -> dict[str, object]:
        sha256 = hashlib.sha256(Path(self.path).read_bytes()).hexdigest()
        return {'class': type(self).__name__, 'sha256': sha256, 'ignore_case': self.ignore_case}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), '_names': None}  # each process reads the file

    def process(self, text: str, record: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        return text, {Name.ENTITY.value: as_items(self._find(text))}

    def _find(self, text: str) -> Iterator[Span]:
        names = self._dictionary()
        words = list(_WORD.finditer(text))
        said = [self._fold(match[0]) for match in words]
        first = 0
        while first < len(words):
            longest = min(self._longest, len(words) - first)
            n = next((n for n in range(longest, 0, -1) if tuple(said[first : first + n]) in names), 0)
            if n:
                name = names[tuple(said[first : first + n])]
                yield Span(name, words[first].start(), words[first + n - 1].end())
            first += max(n, 1)

    def _fold(self, word: str) -> str:
        return word.casefold() if self.ignore_case else word

    def _dictionary(self) -> dict[tuple[str, ...], str]:
        if self._names is None:
            names: dict[tuple[str, ...], str] = {}
            with Path(self.path).open(encoding='utf-8') as file:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    mention, name = self._entry(line.rstrip('\r\n'), number)
                    if words := tuple(map(self._fold, _WORD.findall(mention))):
                        names.setdefault(words, name)
            self._names = names
            self._longest = max(map(len, names), default=0)
        return self._names

    def _entry(self, line: str, number: int) -> tuple[str, str]:
        if self.path.endswith('.jsonl'):
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            parts: list[object] = [found.get('mention'), found.get('name')] if isinstance(found, dict) else []
        else:
            parts = [*line.split('\t')]
        if len(parts) == 2 and all(isinstance(part, str) and part.strip() for part in parts):
            return str(parts[0]), str(parts[1])
        raise SettingsError(
            f'{self.path}, line {number}: {line!r:.80} is no mention and name; give both, parted by a tab, or as JSON '
            'with the keys mention and name'
        )


class EntitiesOfParagraphs(Preprocessor):
    """The entities of each paragraph, each once, as the column entity_paragraph: from entity and paragraph."""

    reads = (Name.ENTITY.value, Name.PARAGRAPH.value)
    makes = (Name.ENTITY_PARAGRAPH.value,)

    def process(self, text: str, record: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        entities = [_range(item) for item in _items(record, Name.ENTITY.value)]
        found = []
        for _, start, end in (_range(item) for item in _items(record, Name.PARAGRAPH.value)):
            inside = [name for name, first, last in entities if start <= first and last <= end]
            # At the start in their order, at the end in the reverse: each inside the one before.
            unique = list(dict.fromkeys(inside))
            for order, name in enumerate(unique):
                found.append(Span(name, start, end, order, len(unique) - order - 1))
        return text, {Name.ENTITY_PARAGRAPH.value: as_items(found)}


def _items(record: Mapping[str, object], column: str) -> list[Mapping[str, object]]:
    items = record[column]
    if items is None:
        return []
    found: object = json.loads(items) if isinstance(items, str) else items
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise TypeError(f'column {column!r} holds {found!r:.80}, which is no list of spans')
    return found


def _range(item: Mapping[str, object]) -> tuple[str, int, int]:
    start = item.get('char_start_idx', item.get('start'))
    end = item.get('char_end_idx', item.get('end'))
    if not isinstance(start, int) or not isinstance(end, int):
        raise TypeError(f'{dict(item)!r:.80} has no offsets')
    return str(item.get('value') or ''), start, end
