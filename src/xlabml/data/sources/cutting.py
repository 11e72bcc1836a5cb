"""A document of a text file: all of it, a paragraph, a line, what begins where a pattern matches, or a window."""

import re
from collections.abc import Iterable, Iterator
from io import TextIOBase

from xlabml.errors import SettingsError

FILE = 'file'
NAMES = (FILE, 'paragraph', 'line')
WINDOW = 4000
"""Characters of the windows that a text file is cut into where it is all that there is."""
_READ = 1 << 16


def check_document(document: str | int) -> None:
    """Raise SettingsError unless this says what a document is."""
    if isinstance(document, str) and document.startswith('^'):
        try:
            re.compile(document)
        except re.error as error:
            raise SettingsError(
                f'document is {document!r}, which is no regular expression ({error}); mend it'
            ) from error
    elif isinstance(document, int):
        if isinstance(document, bool) or document < 1:
            raise SettingsError(f'document is {document}; as a number of characters it is at least 1')
    elif document not in NAMES:
        raise SettingsError(
            f'document is {document!r}; it is {", ".join(NAMES)}, a number of characters, or a pattern that begins '
            'with ^ and matches the first line of each document'
        )


def describe(document: str | int) -> str:
    """What the documents are, for people."""
    if isinstance(document, int):
        return f'windows of about {document:,} characters, each to the end of a paragraph or a line'
    return f'documents that begin where a line matches {document}' if document.startswith('^') else f'{document}s'


def cut(text: TextIOBase, document: str | int) -> Iterator[str]:
    """The documents of a text, one after the other; the whole text is never in memory, but for `file`.

    A window, and what begins with a pattern, hold all characters; paragraphs and lines come without the empty lines
    between them, and those that hold only space are no documents.

    Args:
        text: Opened with `newline=''`, so that line ends stay what they are.
    """
    if document == FILE:
        yield text.read()
    elif isinstance(document, int):
        yield from _windows(text, document)
    elif document == 'line':
        yield from (line.rstrip('\r\n') for line in text if line.strip())
    elif document == 'paragraph':
        yield from _paragraphs(text)
    else:
        yield from _from_matches(text, re.compile(document))


def _windows(text: TextIOBase, size: int) -> Iterator[str]:
    held = ''
    while block := text.read(_READ):
        held += block
        begin = 0
        while len(held) - begin > size:
            end = _break(held, begin, begin + size)
            yield held[begin:end]
            begin = end
        held = held[begin:]
    if held:
        yield held


def _break(text: str, begin: int, end: int) -> int:
    """The last good place to cut in the second half of a stretch: behind an empty line, a line, or a space."""
    half = begin + (end - begin) // 2
    for mark in ('\n\n', '\n', ' '):
        found = text.rfind(mark, half, end)
        if found >= 0:
            return found + len(mark)
    return end


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    for line in lines:
        if line.strip():
            held.append(line)
        elif held:
            yield ''.join(held).rstrip('\r\n')
            held = []
    if held:
        yield ''.join(held).rstrip('\r\n')


def _from_matches(lines: Iterable[str], pattern: re.Pattern[str]) -> Iterator[str]:
    held: list[str] = []
    for line in lines:
        if pattern.search(line) and held:
            yield ''.join(held)
            held = []
        held.append(line)
    if held:
        yield ''.join(held)
