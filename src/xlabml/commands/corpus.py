"""Texts of a file for vectors and search: counted, checked and hashed once before anything is made of them."""

import hashlib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from xlabml.artifacts.hashes import hash_file
from xlabml.blank import is_blank
from xlabml.data import Location
from xlabml.data.sources.encodings import open_utf8
from xlabml.data.sources.kinds import TEXTS, kind_of
from xlabml.data.sources.validation import utf8
from xlabml.errors import DataError

from .errors import UsageError


class Scan(NamedTuple):
    """What a corpus was when it was looked through.

    Args:
        n_texts: How many texts it has.
        sha256: Of its files.
    """

    n_texts: int
    sha256: str


class Corpus:
    """The texts of a file, or of the files of a folder.

    A single txt, text or md file has a text a line; all else is read as a source of training texts is, a folder's txt
    files as one text each.

    Args:
        path: The file, folder or pattern.
        column: Where the text is, in tables.

    Raises:
        UsageError: There is no such file, or none that can be read.
    """

    def __init__(self, path: str, column: str = 'text') -> None:
        self.name = path
        self.source = Location(path, column=column)
        file = Path(path)
        self._lines = file if file.is_file() and kind_of(file) in TEXTS else None
        self.files = [file] if self._lines else self.source.files()
        if not self.files:
            raise UsageError(f'there are no texts at {path}: no such file or folder, or none in it that can be read')

    def scan(self) -> Scan:
        """Look through all texts.

        Raises:
            DataError: One is empty or no text; it is named by its row. Or there is none.
        """
        n_texts = sum(1 for _ in self.texts())
        if not n_texts:
            raise DataError(f'{self.name} has no texts; choose another corpus')
        return Scan(n_texts, self.sha256())

    def sha256(self) -> str:
        """One hash of the files, in their order."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(hash_file(file).encode())
        return digest.hexdigest()

    def texts(self) -> Iterator[str]:
        """All texts in order; errors as of `scan`."""
        for row, text in enumerate(self._found()):
            what = utf8(text)
            if isinstance(text, str) and is_blank(text):
                what = 'empty'
            if isinstance(what, str):
                place = f'line {row + 1}' if self._lines else f'row {row}'
                raise DataError(f'{place} of {self.name} is {what}; leave it out: it has no vector that means anything')
            assert isinstance(text, str)
            yield text

    def pick(self, rows: Collection[int]) -> dict[int, str]:
        """The texts of some rows."""
        wanted = {*rows}
        last = max(wanted, default=-1)
        found: dict[int, str] = {}
        for row, text in enumerate(self.texts()):
            if row > last:
                break
            if row in wanted:
                found[row] = text
        return found

    def labelled(self, label: str | None, most: int) -> tuple[list[str], list[str] | None]:
        """The first texts, and the label of each.

        Args:
            label: The column of the labels; None: there are none.
            most: How many texts.

        Raises:
            UsageError: There are fewer than two texts, or a label column is named for a file without columns.
        """
        texts = list(islice(self.texts(), most))
        if len(texts) < 2:
            raise UsageError(f'{self.name} has {len(texts)} texts; a map needs two or more')
        if label is None:
            return texts, None
        if self._lines is not None:
            raise UsageError(
                f'{self.name} has a text a line and no column {label!r}; leave --label out, or give a table'
            )
        rows = islice(self.source.documents([label]), most)
        return texts, [str(document.columns[label]) for document in rows]

    def _found(self) -> Iterator[object]:
        if self._lines is None:
            for document in self.source.documents():
                yield document.text
            return
        with open_utf8(self._lines) as raw:
            for number, line in enumerate(raw):
                try:
                    yield line.decode().rstrip('\r\n')
                except UnicodeDecodeError as error:
                    raise DataError(
                        f'line {number + 1} of {self.name} is not UTF-8 ({error.reason}); mend it'
                    ) from error
