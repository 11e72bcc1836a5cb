"""What a source is: it knows how to be read and how to be recognised; building one opens nothing."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from xlabml.errors import SettingsError

SplitName = Literal['train', 'val', 'test', 'predict']
"""The splits that documents are divided into."""


class Document(NamedTuple):
    """One text of a source, as found.

    Args:
        row: Its number in the source, from 0.
        text: Should be a string; whether it is one, and has any text, is decided later.
        columns: The other requested columns.
        cuts: The characters at which the second and later of its pieces begin, which are tokenized apart; what is not
            a list of rising offsets inside the text is refused later.
        content: What makes two documents copies, and decides the split of a document; None: its text.
    """

    row: int
    text: object
    columns: dict[str, object]
    cuts: object = ()
    content: bytes | None = None


class Part(NamedTuple):
    """A stretch of a source that can be read on its own.

    Args:
        where: Plain values by which the source finds it; () is all of it.
        n_bytes: About how much text it has; None: unknown.
    """

    where: tuple[Any, ...]
    n_bytes: int | None = None


class Source(ABC):
    """The base of all sources: give documents in an order that never changes, and a fingerprint of what they are.

    A large source says in which parts it can be read: they are tokenized side by side, and a preparation that was
    killed resumes from the last whole one.
    """

    credit = ''
    """Whose texts these are and under which licence, for people to read; empty: not known."""

    in_pieces = False
    """Whether its documents have pieces that are tokenized apart."""

    has_empty_pieces = False
    """Whether a piece may be empty; else a cut lies inside the text, and cuts rise."""

    text_name: str | None = 'text'
    """The name of the text where a format asks for it beside other columns; None: it is one of the columns."""

    only: SplitName | None = None
    """The split that all its documents are in; None: they are divided. It is no part of the fingerprint."""

    in_order = False
    """Whether its documents are one text, cut, so that their place in it and not their hash decides their split."""

    @abstractmethod
    def documents(self, columns: Sequence[str] = ()) -> Iterator[Document]:
        """All documents, one after the other, with these columns beside the text.

        Raises:
            ValueError: The source is absent or broken, or has no such column; the message says where.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, object]:
        """Plain values that change when the documents do.

        Raises:
            ValueError: The source is absent.
        """

    def records(self, columns: Sequence[str] = ()) -> Iterator[tuple[Document, dict[str, object]]]:
        """Each document with the record that it is of: a file of these records is read as the same documents."""
        for document in self.documents(columns):
            yield document, {**document.columns, 'text': document.text}

    def of_columns(self, columns: Sequence[str]) -> 'Source':
        """The same records for a format that reads these columns, and the text only where `text_name` is among them."""
        return self

    def alone(self) -> 'Source':
        """The same source where it is all that a run divides into splits."""
        return self

    def parts(self, columns: Sequence[str] = ()) -> list[Part]:
        """What `documents` yields, one part after the other; the same parts every time.

        Raises:
            ValueError: The source is absent or broken.
        """
        return [Part(())]

    def read(self, part: Part, columns: Sequence[str] = ()) -> Iterator[Document]:
        """The documents of a part, as `documents` yields them, but for their rows, which count from 0 in each part."""
        return self.documents(columns)

    def files(self) -> list[Path]:
        """The files that it is read from, if any.

        Their fingerprint need not say when they were written: that is recorded, and where only the time differs, the
        content is compared.
        """
        return []

    def passed_over(self) -> str:
        """What lies where it is read from and is not read, and how files are cut, as a line for people; '' where there
        is nothing to say."""
        return ''

    def addresses(self) -> list[str]:
        """Where on a network it is read from, for people; nothing is opened to find out."""
        return []

    def __str__(self) -> str:
        return type(self).__name__


def check_columns(asked: Sequence[str], there: Sequence[str], where: str) -> None:
    """Raise ValueError if a requested column is absent."""
    for name in asked:
        if name not in there:
            raise SettingsError(f'{where} has no column {name!r}; its columns are {", ".join(there)}')
