"""Documents that are made of another source's."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from .base import Document, Part, Source


class Derived(Source):
    """The base of sources that make their documents of another's: define `asked`, `derive` and `fingerprint`.

    Args:
        source: Gives the documents.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.credit = source.credit
        self.only = source.only

    @abstractmethod
    def asked(self, columns: Sequence[str]) -> Sequence[str]:
        """The columns to read from the source, for these of this one."""

    @abstractmethod
    def derive(self, documents: Iterator[Document], columns: Sequence[str]) -> Iterator[Document]:
        """Documents of this source.

        Args:
            documents: Those of the other one, with the columns of `asked`.
            columns: The columns of this source that are read.
        """

    def documents(self, columns: Sequence[str] = ()) -> Iterator[Document]:
        return self.derive(self.source.documents(self.asked(columns)), columns)

    def parts(self, columns: Sequence[str] = ()) -> list[Part]:
        return self.source.parts(self.asked(columns))

    def read(self, part: Part, columns: Sequence[str] = ()) -> Iterator[Document]:
        return self.derive(self.source.read(part, self.asked(columns)), columns)

    def files(self) -> list[Path]:
        return self.source.files()

    def passed_over(self) -> str:
        return self.source.passed_over()

    def addresses(self) -> list[str]:
        return self.source.addresses()

    def __str__(self) -> str:
        return str(self.source)
