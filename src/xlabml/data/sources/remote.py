"""Texts in files that lie elsewhere: behind http, in a cloud's bucket, on a hub; one file is brought here at a time."""

import fnmatch
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from xlabml import artifacts
from xlabml.errors import SettingsError

from .base import Document, Part, Source, SplitName
from .files import Reading, Span, read_span
from .kinds import (
    KINDS,
    TEXTS,
    UNPACKED_RATIO,
    describe_passed_over,
    is_packed,
    is_readable,
    kind_of,
    leave_out_notes,
    pick_texts,
)
from .location import check_file
from .quotes import Quoting

Advance = Callable[[int], None]
"""Told how many bytes came since it was last told; what it raises ends the work."""

_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_SIZE_ATTEMPTS = 3
_SIZED_AT_ONCE = 16
_SIZED_FILES = 10_000


class RemoteFiles(Source):
    """The files behind a URL that fsspec knows, of the kinds that `Location` reads; a part each.

    A folder means all such files in it and in its folders, but hidden ones (. or _) and a README beside tables.

    They are known again by their names and sizes. Where a listing does not say sizes, as over http, each of the first
    10,000 files is asked for its own.

    Args:
        path: A file, a folder or a pattern: `https://host/texts/*.jsonl.zst`, `s3://bucket/texts`,
            `hf://datasets/owner/name/data/train-*.parquet`. Other protocols than http and hf need their own package,
            s3fs for example; the error says which.
        column: Where the text is. A txt, text or md file has the columns text and path.
        storage_options: What fsspec's file system of that protocol takes, `{anon: true}` for example. It is written
            into checkpoints: leave keys and passwords to the environment.
        encoding: What text files are written in, as Python names it; null: UTF-8, or what a byte order mark says.
        delimiter: The character between the fields of csv and tsv files; null: a comma, and a tab.
        quoting: What double quotes around a field of csv and tsv files mean, as in `Location`.
        only: The split that all its documents are in, `test` for a data set's own test file; null: they are divided as
            data.splits says. An exact copy of a document of an earlier source is dropped here as elsewhere.
    """

    def __init__(
        self,
        path: str,
        column: str = 'text',
        storage_options: dict[str, Any] | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        quoting: Quoting | None = None,
        only: SplitName | None = None,
    ) -> None:
        self.path = path
        self.column = column
        self.storage_options = storage_options
        self.encoding = encoding
        self.delimiter = delimiter
        self.quoting = quoting
        self._reading = Reading(encoding, delimiter, quoting)
        self.only = only
        if '://' not in path:
            raise ValueError(f'{path} is no URL; a local file, folder or pattern is a Location')

    def __str__(self) -> str:
        return self.path

    text_name = None

    def of_columns(self, columns: Sequence[str]) -> 'RemoteFiles':
        found = copy(self)
        found.column = columns[0]
        return found

    def addresses(self) -> list[str]:
        return [self.path]

    def __getstate__(self) -> dict[str, object]:
        return dict(vars(self))  # the listing too: every process goes by the same one

    def documents(self, columns: Sequence[str] = ()) -> Iterator[Document]:
        documents = (document for part in self.parts(columns) for document in self.read(part, columns))
        for row, document in enumerate(documents):
            yield document._replace(row=row)

    def fingerprint(self) -> dict[str, object]:
        names = [Path(_name(url)) for url, _, _ in self._listing]
        return {
            'class': 'RemoteFiles',
            'column': self.column,
            **self._reading.settings(names),
            # Before, a byte order mark was part of a text; whether there is one is not known from here.
            **({'marks': 'left out'} if any(kind_of(name) in TEXTS for name in names) else {}),
            'files': [[url, size] for url, size, _ in self._listing],
        }

    def passed_over(self) -> str:
        return describe_passed_over(len(self._listing), self._passed_over)

    def parts(self, columns: Sequence[str] = ()) -> list[Part]:
        """A part for each file; where the size of one is unknown, it is taken to be as large as the first ones."""
        return [Part((url,), n_bytes) for url, _, n_bytes in self._listing]

    def read(self, part: Part, columns: Sequence[str] = ()) -> Iterator[Document]:
        with artifacts.scratch() as folder:
            yield from self.read_fetched(self.fetch(part, folder), columns)

    def read_fetched(self, file: Path, columns: Sequence[str] = ()) -> Iterator[Document]:
        """The documents of a file that `fetch` brought."""
        wanted = list(dict.fromkeys([self.column, *columns]))
        reading = replace(self._reading, text=None if self.column in columns else self.column)
        check_file(file, wanted, reading, f'source {self}')
        for row, values in enumerate(read_span(Span(str(file)), wanted, reading)):
            yield Document(row, values[self.column], {name: values[name] for name in columns})

    def fetch(self, part: Part, folder: Path, advance: Advance | None = None) -> Path:
        """Bring a part's file into a folder, atomically.

        A connection that breaks is tried again, six times, after 1, 2, 4, 8 and 16 seconds.

        Raises:
            ValueError: The file is not there any more.
            ConnectionError: It cannot be had; there is a way on.
        """
        (url,) = part.where
        target = folder / _name(url)
        folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(_ATTEMPTS):
            if attempt:
                _wait(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1), advance)
            callback = _Callback(advance)
            try:
                files, path = fsspec.core.url_to_fs(url, **(self.storage_options or {}))
                with artifacts.replacing(target) as beside:
                    files.get_file(path, str(beside), callback=callback)
                    size = files.info(path).get('size')
                    if size is not None and beside.stat().st_size != size:
                        raise ConnectionError(f'{beside.stat().st_size} of {size} bytes came')
            except FileNotFoundError as error:
                raise ValueError(
                    f'source {self}: {url} was listed but is not there any more; restore it, or start a new run '
                    'without it'
                ) from error
            except (ValueError, TypeError, ImportError):
                raise
            except Exception as error:  # each file system has kinds of its own
                if error is callback.ended_by:
                    raise
                if attempt == _ATTEMPTS - 1:
                    raise ConnectionError(
                        f'source {self}: {url} could not be fetched in {_ATTEMPTS} attempts '
                        f'({type(error).__name__}: {error}); check the network, then the same command resumes (fit: '
                        'with --ckpt_path last)'
                    ) from error
            else:
                return target
        raise AssertionError('the last attempt returns or raises')

    @cached_property
    def _listing(self) -> list[tuple[str, int | None, int | None]]:
        """URL, size and about how many bytes of text of each file, by name."""
        try:
            files, root = fsspec.core.url_to_fs(self.path, **(self.storage_options or {}))
            found = self._find(files, root)
            names = self._pick(found, str(files._strip_protocol(root)))
            sizes = {name: found[name] for name in names}
            unsized = [name for name in names if sizes[name] is None][:_SIZED_FILES]
            with ThreadPoolExecutor(_SIZED_AT_ONCE) as pool:
                sizes.update(zip(unsized, pool.map(lambda name: _ask_size(files, name), unsized)))
            urls = {name: str(files.unstrip_protocol(name)) for name in names}
        except ImportError as error:
            raise ValueError(f'source {self}: {error}') from error
        except Exception as error:
            raise ValueError(
                f'source {self} cannot be listed ({type(error).__name__}: {error}); check the URL and the network'
            ) from error
        if not names:
            raise SettingsError(f'source {self}: there are no {KINDS} files; check the URL')
        known = [size for size in sizes.values() if size is not None]
        typical = sum(known) // len(known) if known else None
        listing = []
        for name in names:
            size = typical if sizes[name] is None else sizes[name]
            path = Path(_name(name))
            unpacked = UNPACKED_RATIO if is_packed(path) or kind_of(path) == '.parquet' else 1
            listing.append((urls[name], sizes[name], None if size is None else size * unpacked))
        return listing

    def _pick(self, found: dict[str, int | None], root: str) -> list[str]:
        """The files that hold texts, by name."""
        paths: dict[PurePosixPath, list[str]] = {}
        self._passed_over: Counter[str] = Counter()
        for name in sorted(found):
            path = PurePosixPath(name.partition('?')[0])
            folders = path.parts[len(PurePosixPath(root).parts) : -1]
            if any(folder.startswith(('.', '_')) for folder in folders):
                self._passed_over['in hidden folders (. or _)'] += 1
            elif path.name:
                paths.setdefault(path, []).append(name)
        picked, others = pick_texts(paths)
        texts, notes = leave_out_notes(picked)
        self._passed_over += others + notes
        return [name for path in texts for name in paths[path]]

    def _find(self, files: Any, root: str) -> dict[str, int | None]:
        """Files by name, with their sizes where the listing says them."""
        folder, _, name = root.rstrip('/').rpartition('/')
        if any(letter in name for letter in '*?[') and not any(letter in folder for letter in '*?['):
            entries = files.ls(folder, detail=True)
            entries = [entry for entry in entries if fnmatch.fnmatch(PurePosixPath(entry['name']).name, name)]
        elif any(letter in root for letter in '*?['):
            entries = list(files.glob(root, detail=True).values())
        elif is_readable(Path(_name(name))):
            entries = [files.info(root)]
        else:
            entries = list(files.find(root, detail=True).values())
        return {entry['name']: entry.get('size') for entry in entries if entry.get('type') != 'directory'}


def _name(url: str) -> str:
    """A file's name, without what asks for it."""
    return PurePosixPath(url).name.partition('?')[0]


def _ask_size(files: Any, name: str) -> int | None:
    for attempt in range(_SIZE_ATTEMPTS):
        try:
            return files.info(name).get('size')
        except Exception:  # each file system has kinds of its own
            if attempt == _SIZE_ATTEMPTS - 1:
                raise
            _wait(_FIRST_WAIT_SECONDS * 2**attempt, None)
    raise AssertionError('the last attempt returns or raises')


def _wait(seconds: float, advance: Advance | None) -> None:
    """Sleep, unless the work is ended meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if advance is not None:
            advance(0)
        time.sleep(min(left, _LOOK_SECONDS))


class _Callback(fsspec.Callback):
    """Passes on how many bytes came, and keeps what that raised: it is no fault of the connection."""

    def __init__(self, advance: Advance | None) -> None:
        super().__init__()
        self._advance = advance
        self._n_told = 0
        self.ended_by: Exception | None = None

    def call(self, *args: object, **kwargs: object) -> None:
        if self._advance is None or self.value <= self._n_told:
            return
        try:
            self._advance(self.value - self._n_told)
        except Exception as error:
            self.ended_by = error
            raise
        self._n_told = self.value
