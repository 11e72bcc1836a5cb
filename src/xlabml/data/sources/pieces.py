"""Documents that are pieces, each tokenized on its own: cut at character offsets, or joined from columns.

What labels, pairs and metadata need: no token crosses a piece's end, so that a question, its answer or a labelled
stretch is a whole number of tokens of the store.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from .base import Document, Source
from .derived import Derived

_NOT_DOCUMENTS = ('source', 'credit', 'only', 'needs')
"""Attributes that do not change what the documents are."""


class InPieces(Derived):
    """The base of sources whose documents are another's, cut into pieces: define `cut`.

    Args:
        source: Gives the documents.
    """

    in_pieces = True

    needs: Sequence[str] = ()
    """Columns of the record that `cut` reads."""

    @abstractmethod
    def cut(self, document: Document) -> Document:
        """A document with its cuts: the characters at which its second and later pieces begin.

        Args:
            document: As the source yields it, with the requested columns and those that it needs.
        """

    def fingerprint(self) -> dict[str, object]:
        settings = {name: value for name, value in vars(self).items() if name not in _NOT_DOCUMENTS}
        return {'class': type(self).__name__, **settings, 'source': self.source.fingerprint()}

    def asked(self, columns: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([*columns, *self.needs]))

    def derive(self, documents: Iterator[Document], columns: Sequence[str]) -> Iterator[Document]:
        for document in documents:
            cut = self.cut(document)
            yield cut._replace(columns={name: cut.columns[name] for name in columns})


class CutAtColumn(InPieces):
    """Documents cut at the offsets that a column of the record lists.

    Args:
        source: Gives the documents.
        column: Holds a list of character offsets, rising and inside the text: where a later piece begins.
    """

    def __init__(self, source: Source, column: str) -> None:
        super().__init__(source)
        self.column = column
        self.needs = (column,)

    def cut(self, document: Document) -> Document:
        cuts = document.columns[self.column]
        return document._replace(cuts=() if cuts is None else cuts)


class CutAtPattern(InPieces):
    r"""Documents cut behind every match of a regular expression, `\n\n+` for example.

    Args:
        source: Gives the documents.
        pattern: In Python's syntax. A match of nothing, or at the text's end, cuts nothing off.

    Raises:
        ValueError: It is no regular expression.
    """

    def __init__(self, source: Source, pattern: str) -> None:
        super().__init__(source)
        self.pattern = pattern
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f'pattern {pattern!r} is no regular expression: {error}') from None

    def cut(self, document: Document) -> Document:
        text = document.text
        if not isinstance(text, str):
            return document
        ends = {match.end() for match in re.finditer(self.pattern, text)}
        return document._replace(cuts=sorted(ends - {0, len(text)}))


class JoinColumns(InPieces):
    """Documents made of several text columns, one after the other, a piece each: pairs, triplets, prompts and answers.

    A column may hold a list of texts, each a piece. Which column a piece is from is the column `roles`, which can be
    requested like those of the record. A row in which one of the texts is empty or no string is left out, and counted.

    Args:
        source: Gives the records.
        joined: The columns, in their order.

    Raises:
        ValueError: None is named.
    """

    def __init__(self, source: Source, joined: list[str]) -> None:
        super().__init__(source)
        if not joined:
            raise ValueError('joined names no column; name those that hold the texts')
        self.joined = joined
        self.needs = tuple(joined)

    def asked(self, columns: Sequence[str]) -> list[str]:
        return [name for name in super().asked(columns) if name != 'roles']

    def cut(self, document: Document) -> Document:
        texts: list[object] = []
        roles: list[str] = []
        for name in self.joined:
            value = document.columns[name]
            some = value if isinstance(value, list) else [value]
            texts += some
            roles += [name] * len(some)
        columns = {**document.columns, 'roles': roles}
        strings = [text for text in texts if isinstance(text, str)]
        if len(strings) < len(texts):
            return document._replace(text=None, columns=columns)
        if not all(strings):
            return document._replace(text='', columns=columns)
        cuts = list(accumulate(map(len, strings)))[:-1]
        return document._replace(text=''.join(strings), columns=columns, cuts=cuts)


def split_text(document: Document, where: str, may_be_empty: bool = False) -> list[str]:
    """The texts of a document's pieces.

    Args:
        where: Names the document, for errors.
        may_be_empty: Whether a piece may be empty: cuts need not rise then, but may not fall.

    Raises:
        ValueError: Its cuts are not whole numbers that rise, from 1 to the last character of the text.
    """
    text = str(document.text)
    cuts = document.cuts
    if not isinstance(cuts, Sequence) or isinstance(cuts, str):
        raise ValueError(f'{where}: its cuts are {cuts!r}; they are a list of character offsets')
    for cut in cuts:
        if isinstance(cut, bool) or not isinstance(cut, int):
            raise ValueError(f'{where}: one of its cuts is {cut!r}; a cut is a character offset, a whole number')
        if not (0 <= cut <= len(text) if may_be_empty else 0 < cut < len(text)):
            raise ValueError(
                f'{where}: a cut at character {cut} is not inside its text of {len(text)} characters; '
                f'give offsets from 1 to {len(text) - 1}'
            )
    for before, after in pairwise(cuts):
        if before > after or (before == after and not may_be_empty):
            raise ValueError(f'{where}: a cut at character {after} comes after one at {before}; cuts rise')
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
