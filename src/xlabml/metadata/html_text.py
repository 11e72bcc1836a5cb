"""Pages -> their text, and where in it each tag begins and ends. Needs lxml, the extra `html`.

lxml, since its parser (libxml2) repairs pages: the standard library's html.parser reports tags as they stand there, and
leaves those that were never closed, or closed across one another, to its caller.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from xlabml.errors import SettingsError

from .local_types import TABLE_TAGS
from .names import Name
from .preprocessing import Preprocessor, as_items, text_of
from .types import Span

if TYPE_CHECKING:
    from lxml.etree import _Element

NO_LXML = 'reading html needs lxml; install the extra html (pip install "xlabml[html]")'

DROPPED = ('script', 'style', 'noscript', 'template', 'header', 'iframe', 'footer', 'form', 'nav')
"""Tags that are left out with all that is in them."""

_HEADINGS = ('h1', 'h2', 'h3', 'h4', 'h5', 'h6')
_LINES = ('br', 'dd', 'dt', 'li', 'option', 'tr')
_BLOCKS = (
    *('address', 'article', 'aside', 'blockquote', 'body', 'center', 'dd', 'details', 'div', 'dl', 'dt', 'fieldset'),
    *('figcaption', 'figure', 'hr', 'li', 'main', 'ol', 'p', 'pre', 'section', 'summary', 'table', 'tr', 'ul'),
    *_HEADINGS,
)
_SPACE = re.compile(r'[ \t\r\n\f]+')


class HtmlToText(Preprocessor):
    """The text of a page in place of its html, its tags as the column html, its title as the column title.

    Blocks are parted by blank lines, lines of lists and tables and `<br>` by line breaks; a div around nothing but
    another div is one with it.

    Args:
        column: Where the html is; null: it is the text.
        dropped: Tags that are left out with all that is in them; null: scripts, styles, headers, footers, frames,
            forms, navigation.
        least_chars: Blocks of fewer characters, which are menus and buttons for the most part, are left out, but for
            headings and cells of tables; 1: none are.
    """

    writes_text = True

    def __init__(self, column: str | None = None, dropped: list[str] | None = None, least_chars: int = 65) -> None:
        if importlib.util.find_spec('lxml') is None:
            raise SettingsError(NO_LXML)
        if least_chars < 1:
            raise SettingsError(f'data.examples.preprocessors: HtmlToText.least_chars is {least_chars}; give 1 or more')
        self.column = column
        self.dropped = dropped
        self.least_chars = least_chars

    @property
    def reads(self) -> Sequence[str]:
        return [] if self.column is None else [self.column]

    @property
    def makes(self) -> Sequence[str]:
        return [Name.HTML.value, Name.TITLE.value]

    def process(self, text: str, record: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        source = text if self.column is None else text_of(record, self.column)
        dropped = DROPPED if self.dropped is None else tuple(self.dropped)
        page = read_page(source, dropped, self.least_chars)
        return page.text, {Name.HTML.value: as_items(page.spans), Name.TITLE.value: page.title or None}


class Page(NamedTuple):
    """What a page says.

    Args:
        text: Its text.
        spans: Its tags, each with a relative order, in the order in which they end.
        title: What stands in its title; '' where there is none.
    """

    text: str
    spans: list[Span]
    title: str


def read_page(source: str, dropped: Sequence[str] = DROPPED, least_chars: int = 1) -> Page:
    """Parse a page.

    Raises:
        ValueError: There is no html in it.
    """
    from lxml import etree, html

    parser = html.HTMLParser(encoding='utf-8', remove_comments=True, remove_pis=True, no_network=True)
    try:
        root = html.document_fromstring(source.encode('utf-8'), parser=parser)
    except etree.ParserError as error:
        raise ValueError(str(error)) from error
    etree.strip_tags(root, 'wbr')  # which libxml2 does not know, and never closes
    title = _SPACE.sub(' ', root.findtext('.//title') or '').strip()
    body = root.find('body')
    if body is None:
        raise ValueError('the page has no body')
    short = _short_blocks(body, least_chars)
    writer = _Writer()
    walk = etree.iterwalk(body, events=('start', 'end'))
    n_pre = 0  # how many tags are open in which white space is kept
    for event, element in walk:
        tag = _tag(element)
        if event == 'start':
            if tag in dropped or element in short:
                walk.skip_subtree()
                continue
            writer.open(tag)
            n_pre += tag == 'pre'
            text = element.text or ''
            writer.write(text.removeprefix('\n') if tag == 'pre' else text, n_pre > 0)
            continue
        if tag not in dropped and element not in short:
            n_pre -= tag == 'pre'
            attributes = tuple((str(name), str(value)) for name, value in element.attrib.items())
            writer.close(tag, attributes)
        if element is not body:
            writer.write(element.tail or '', n_pre > 0)
    return Page(writer.text, writer.spans, title)


def _tag(element: '_Element') -> str:
    return element.tag.lower() if isinstance(element.tag, str) else ''


def _short_blocks(body: '_Element', least_chars: int) -> 'set[_Element]':
    """Blocks around no other block that say too little."""
    found = set()
    for element in body.iter(*(tag for tag in _BLOCKS if tag not in ('body', *_HEADINGS, *TABLE_TAGS))):
        if any(_tag(inner) in _BLOCKS for inner in element.iterdescendants()):
            continue
        if 0 < len(_SPACE.sub(' ', ''.join(element.itertext())).strip()) < least_chars:
            found.add(element)
    return found


class _Open(NamedTuple):
    tag: str
    order: int


class _Writer:
    """Collects text and spans. A tag begins at its first character, behind the break before it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._parts: list[str] = []
        self._n = 0
        self._break = ''  # what parts the next character from those before it
        self._open: list[_Open] = []
        self._starts: list[int | None] = []
        self._n_events = 0

    @property
    def text(self) -> str:
        return ''.join(self._parts)

    def open(self, tag: str) -> None:
        self._ask(tag)
        self._open.append(_Open(tag, self._n_events))
        self._starts.append(None)
        self._n_events += 1

    def close(self, tag: str, attributes: tuple[tuple[str, str], ...]) -> None:
        if self._starts[-1] is None and tag in TABLE_TAGS:
            self._begin()
        opened = self._open.pop()
        start = self._starts.pop()
        order = self._n_events
        self._n_events += 1
        self._ask(tag)
        if start is None:  # a tag around no text says nothing
            return
        last = self.spans[-1] if self.spans else None
        if tag == 'div' and last is not None and (last.value, last.start, last.end) == (tag, start, self._n):
            attributes = (*attributes, *last.attributes)
            self.spans.pop()
        self.spans.append(Span(tag, start, self._n, opened.order, order, attributes))

    def write(self, text: str, keeps_space: bool) -> None:
        if not keeps_space:
            words = _SPACE.sub(' ', text)
            if words.startswith(' '):
                self._part(' ')
            if said := words.strip(' '):
                self._begin()
                self._add(said)
                self._break = ' ' if words.endswith(' ') else ''
        elif text.strip():
            self._begin()
            said = text.rstrip()
            self._add(said)
            self._break = ''
            self._part('\n' if '\n' in text[len(said) :] else ' ' if said != text else '')

    def _ask(self, tag: str) -> None:
        self._part('\n' if tag in _LINES else '\n\n' if tag in _BLOCKS else ' ' if tag in TABLE_TAGS else '')

    def _part(self, separator: str) -> None:
        """Ask for a break; of several the largest stands."""
        if (separator.count('\n'), len(separator)) > (self._break.count('\n'), len(self._break)):
            self._break = separator

    def _begin(self) -> None:
        """Write the break, if there is text before it: all open tags begin at the latest here."""
        if self._n:
            self._add(self._break)
        self._break = ''
        self._starts = [self._n if start is None else start for start in self._starts]

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self._n += len(text)
