"""Texts in files, read in place, and in the datasets of a Hugging Face hub, read as they stream by."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from xlabml.errors import SettingsError

from .base import Document, Part, Source, SplitName, check_columns
from .cutting import FILE, WINDOW, describe
from .files import Reading, Span, describe_no_file, file_columns, is_marked, read_span, spans
from .json_rows import refuse_type
from .kinds import TEXTS, is_readable, kind_of
from .listing import Listing, list_folder, list_pattern
from .quotes import Quoting

_MIN_PART_BYTES = 1 << 20
_PART_BYTES = 16 << 20
_MIN_PARTS = 64
_MAX_PARTS = 4096
_HUB_ID = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')


class Location(Source):
    """A dataset of a Hugging Face hub, or local files: parquet, arrow, jsonl, json, csv, tsv, txt, text, md.

    A txt, text or md file is one document, or is cut into some. A folder means all such files in it and in its folders,
    but hidden ones (. or _) and a README beside tables; what is passed over is said. It may be one that the datasets
    library saved (`save_to_disk`), or have the layout of a hub's: `name` is then a folder in it, and `split` what the
    files' names begin with, or a folder's name.

    Text files may be compressed (.gz, .bz2, .xz, .zst). Parquet and plain jsonl files are read in parts, side by side;
    the others each as a whole, so that a large corpus of these is best kept in many.

    Args:
        path: A file, a folder, a pattern (`data/*.parquet`, `data/**/*.txt`), or a hub's id (`wikimedia/wikipedia`).
        name: The dataset's configuration, where it has several.
        split: The dataset's own split; ours are drawn from it. Files have none but `train`, which is all of them.
        column: Where the text is. A txt, text or md file has the columns text and path.
        revision: Branch, tag or commit on the hub. A local folder is taken to be at it.
        encoding: What text files are written in, as Python names it (`latin-1`, `cp1252`, `utf-16-le`); null: UTF-8, or
            what a byte order mark says.
        delimiter: The character between the fields of csv and tsv files; null: a comma, and a tab.
        quoting: What double quotes around a field of csv and tsv files mean: it may hold delimiters and line ends, and
            a quote that is doubled (`doubled`), or behind a backslash (`escaped`); or nothing (`none`). null: `doubled`
            in csv, `none` in tsv.
        only: The split that all its documents are in, `test` for a data set's own test file; null: they are divided as
            data.splits says. An exact copy of a document of an earlier source is dropped here as elsewhere.
        document: What a document of a txt, text or md file is: `file`, `paragraph`, `line`, a number of characters
            (windows of about that size, cut at the end of a paragraph or a line), or a pattern that matches the first
            line of each (`^CHAPTER`). null: `file`; but windows of 4,000 characters where a text file is all that
            is divided into splits. Documents of a file that is cut are divided by their place: the end of the text is
            val and test.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = 'train',
        column: str = 'text',
        revision: str | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        quoting: Quoting | None = None,
        only: SplitName | None = None,
        document: str | int | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.split = split
        self.column = column
        self.revision = revision
        self.encoding = encoding
        self.delimiter = delimiter
        self.quoting = quoting
        self.document = document
        self._reading = Reading(encoding, delimiter, quoting, document=FILE if document is None else document)
        self.in_order = self._reading.document != FILE
        self.only = only

    def __str__(self) -> str:
        return '/'.join([self.path, *([self.name] if self.name else [])]) + (
            '' if self._is_train else f'[{self.split}]'
        )

    text_name = None

    def of_columns(self, columns: Sequence[str]) -> 'Location':
        found = copy(self)
        found.column = columns[0]
        return found

    def alone(self) -> 'Location':
        if self.document is not None or _is_pattern(self.path) or kind_of(Path(self.path)) not in TEXTS:
            return self
        found = copy(self)
        found._reading = replace(self._reading, document=WINDOW)
        found.in_order = True
        return found

    def addresses(self) -> list[str]:
        path = self._local_path()
        is_local = path.exists() or '://' in self.path or _is_pattern(self.path)
        return (
            [] if is_local or not _HUB_ID.fullmatch(self.path) or is_readable(path) else [f'hf://datasets/{self.path}']
        )

    @property
    def _is_train(self) -> bool:
        return self.split == 'train'

    def documents(self, columns: Sequence[str] = ()) -> Iterator[Document]:
        files = self._files()
        wanted = self._wanted(columns)
        text = self._reading_of(columns).text
        if files is None:
            return self._documents(self._hub_rows(wanted, text), columns)
        return self._documents(self._span_rows([Span(str(file)) for file in files], columns), columns)

    def parts(self, columns: Sequence[str] = ()) -> list[Part]:
        files = self._files()
        if files is None:
            return self._hub_parts()
        for file in files:
            self._check_file(file, columns)
        # Small sources in small parts, so that many processes share them out evenly.
        size = min(_PART_BYTES, max(_MIN_PART_BYTES, sum(file.stat().st_size for file in files) // _MIN_PARTS))
        pieces = [span for file in files for span in spans(file, self.column, size, self.encoding)]
        size = max(size, sum(n_bytes for _, n_bytes in pieces) // _MAX_PARTS)
        parts: list[Part] = []
        where: list[Span] = []
        filled = 0
        for span, n_bytes in pieces:
            if where and filled + n_bytes > size:
                parts.append(Part(tuple(where), filled))
                where = []
                filled = 0
            where.append(span)
            filled += n_bytes
        return [*parts, Part(tuple(where), filled)]

    def read(self, part: Part, columns: Sequence[str] = ()) -> Iterator[Document]:
        where = list(part.where)
        if where and isinstance(where[0], Span):
            return self._documents(self._span_rows(where, columns), columns)
        return self._documents(self._hub_rows(self._wanted(columns), self._reading_of(columns).text, *where), columns)

    def files(self) -> list[Path]:
        return self._files() or []

    def fingerprint(self) -> dict[str, object]:
        settings = {'class': 'Location', 'name': self.name, 'split': self.split, 'column': self.column}
        files = self._files()
        if files is None:
            return {**settings, 'path': self.path, 'revision': self.revision}
        stats = [(file, file.stat()) for file in files]
        marked = any(is_marked(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats)
        return {
            **settings,
            **self._reading.settings(files),
            **({'marks': 'left out'} if marked else {}),  # before, one was part of its text
            'files': [[str(file.resolve()), stat.st_size] for file, stat in stats],
        }

    def passed_over(self) -> str:
        found = str(self._listing() or '')
        if not self.in_order:
            return found
        cut = f'cut into {describe(self._reading.document)}; train comes first, val and test last'
        return f'{found}; {cut}' if found else cut

    def _wanted(self, columns: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([self.column, *columns]))

    def _documents(self, rows: Iterator[dict[str, object]], columns: Sequence[str]) -> Iterator[Document]:
        for row, values in enumerate(rows):
            yield Document(row, values[self.column], {name: values[name] for name in columns} if columns else {})

    # Local files

    def _files(self) -> list[Path] | None:
        """The local files in their order; None where path is a hub's id."""
        listing = self._listing()
        return None if listing is None else listing.files

    def _local_path(self) -> Path:
        if not self.path:
            raise SettingsError('the path of a source is empty; name a file, a folder (. is this one) or a pattern')
        try:
            path = Path(self.path).expanduser()
            path.exists()
        except (OSError, RuntimeError) as error:  # ~nobody, a name too long, a folder that may not be entered
            if isinstance(error, PermissionError):
                raise
            reason = error.strerror if isinstance(error, OSError) else error
            raise SettingsError(f'no source can be at {self.path!r} ({reason}); check its path') from error
        return path

    def _listing(self) -> Listing | None:
        path = self._local_path()
        if path.is_dir():
            return list_folder(self._configuration(path), self.split, str(self))
        if path.is_file():
            self._refuse_hub_settings('a file')
            return Listing([path], Counter())
        if '://' in self.path:
            raise SettingsError(
                f'{self.path} is a URL; write {{class_path: RemoteFiles, init_args: {{path: {self.path}}}}} for it'
            )
        if path.is_symlink() or path.exists():
            raise ValueError(describe_no_file(path))
        if _is_pattern(self.path):
            self._refuse_hub_settings('a pattern')
            return list_pattern(str(path))
        if _HUB_ID.fullmatch(self.path) and not is_readable(path):
            if self._reading != Reading():
                raise SettingsError(
                    f'source {self}: encoding, delimiter, quoting and document are of files, and there is no file or '
                    'folder of this path; check it, or leave them out'
                )
            return None
        raise SettingsError(f'there is no file or folder {self.path} (from {Path.cwd()}); check the path of the source')

    def _refuse_hub_settings(self, kind: str) -> None:
        if self.name is not None or not self._is_train:
            raise SettingsError(
                f'source {self}: {kind} has no configurations or splits; leave out name and split, or name a folder'
            )

    def _configuration(self, folder: Path) -> Path:
        if self.name is None:
            return folder
        if not (folder / self.name).is_dir():
            there = ', '.join(sorted(item.name for item in folder.iterdir() if item.is_dir())) or 'none'
            raise SettingsError(f'source {self}: there is no folder {self.name} in {folder}; those there are: {there}')
        return folder / self.name

    def _span_rows(self, where: list[Span], columns: Sequence[str]) -> Iterator[dict[str, object]]:
        reading = self._reading_of(columns)
        wanted = self._wanted(columns)
        for span in where:
            self._check_file(Path(span.path), columns)
            yield from read_span(span, wanted, reading)

    def _check_file(self, file: Path, columns: Sequence[str]) -> None:
        check_file(file, self._wanted(columns), self._reading_of(columns), f'source {self}')

    def _reading_of(self, columns: Sequence[str]) -> Reading:
        return replace(self._reading, text=None if self.column in columns else self.column)

    # The hub

    def _hub_parts(self) -> list[Part]:
        """A part for each of the files that the dataset has on the hub."""
        rows = self._open_hub()
        size = rows.info.dataset_size if rows.info is not None else None
        each = None if not size else size // rows.num_shards
        return [Part((i, rows.num_shards), each) for i in range(rows.num_shards)]

    def _hub_rows(
        self, columns: list[str], text: str | None, index: int = 0, n_parts: int = 1
    ) -> Iterator[dict[str, object]]:
        rows = self._open_hub()
        if n_parts > 1:
            rows = rows.shard(num_shards=n_parts, index=index)
        with self._hub_errors():
            iterator = iter(rows)
            first = next(iterator, None)
        if first is None:
            return
        check_columns(columns, list(first), f'source {self}')
        for number, row in enumerate(chain([first], iterator)):
            if text is not None and isinstance(row[text], list | dict | bytes):
                raise ValueError(f'source {self}, row {number}: {refuse_type(text, type(row[text]).__name__)}')
            yield row

    def _open_hub(self) -> Any:
        import datasets

        with self._hub_errors():
            return datasets.load_dataset(self.path, self.name, split=self.split, revision=self.revision, streaming=True)

    @contextlib.contextmanager
    def _hub_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the library raises a dozen kinds: no network, no such dataset, no such split …
            raise ValueError(
                f'source {self}: no such file or folder, and it cannot be read from the Hugging Face hub either '
                f'({type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no details"}); check path, '
                'name, split and the network, or set path to a local folder, file or pattern'
            ) from error


def _is_pattern(path: str) -> bool:
    return any(letter in path for letter in '*?[')


def check_file(file: Path, columns: list[str], reading: Reading, source: str) -> None:
    """Raise ValueError unless a file has rows and these columns, each once.

    Args:
        source: Names the source, for errors.
    """
    there = file_columns(file, reading)
    if not there:
        raise ValueError(f'{source}: {file} is empty; fetch it again, or leave it out')
    try:
        check_columns(columns, there, f'{source}, file {file},')
    except ValueError as error:
        if len(there) == 1 and reading.delimiter is None and any(letter in there[0] for letter in ',;|\t'):
            raise SettingsError(f'{error}; if another character parts the fields, set delimiter to it') from None
        raise
    for name in columns:
        if there.count(name) > 1:
            raise ValueError(f'{source}, file {file}, has the column {name!r} twice; rename one of them')
