"""Texts in files, read in place, and in the datasets of a Hugging Face hub, read as they stream by."""

import contextlib
import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xlabml.errors import SettingsError

from .files import Span, file_columns, is_readable, read_span, spans
from .sources import Document, Part, Source, check_columns

_MIN_PART_BYTES, _PART_BYTES = 1 << 20, 16 << 20
_MIN_PARTS, _MAX_PARTS = 64, 4096
_HUB_ID = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')
_SPLIT_NAMES = ('train', 'training', 'validation', 'valid', 'val', 'dev', 'test', 'testing')


class Location(Source):
    """A dataset of a Hugging Face hub, or local files: parquet, jsonl, json, csv, tsv, txt (a document a file).

    Text files may be compressed (.gz, .xz, .zst). Parquet and plain jsonl files are read in parts, side by side; csv,
    tsv, json and compressed files each as a whole, so that a large corpus of these is best kept in many. A local folder
    may have the layout of a hub's: `name` is then a folder in it, and `split` what the files' names begin with.

    Args:
        path: A file, a folder, a pattern (`data/*.parquet`), or a hub's id (`wikimedia/wikipedia`).
        name: The dataset's configuration, where it has several.
        split: The dataset's own split; ours are drawn from it. Files have none but `train`, which is all of them.
        column: Where the text is. A txt file has the columns text and path.
        revision: Branch, tag or commit on the hub. A local folder is taken to be at it.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = 'train',
        column: str = 'text',
        revision: str | None = None,
    ) -> None:
        self.path, self.name, self.split, self.column, self.revision = path, name, split, column, revision

    def __str__(self) -> str:
        return '/'.join([self.path, *([self.name] if self.name else [])]) + (
            '' if self._is_train else f'[{self.split}]'
        )

    def addresses(self) -> list[str]:
        path = Path(self.path).expanduser()
        is_local = path.exists() or '://' in self.path or any(letter in self.path for letter in '*?[')
        return (
            [] if is_local or not _HUB_ID.fullmatch(self.path) or is_readable(path) else [f'hf://datasets/{self.path}']
        )

    @property
    def _is_train(self) -> bool:
        return self.split == 'train'

    def documents(self, columns: Sequence[str] = ()) -> Iterator[Document]:
        files = self._files()
        wanted = self._wanted(columns)
        rows = self._hub_rows(wanted) if files is None else self._span_rows([Span(str(file)) for file in files], wanted)
        return self._documents(rows, columns)

    def parts(self, columns: Sequence[str] = ()) -> list[Part]:
        files = self._files()
        if files is None:
            return self._hub_parts()
        for file in files:
            self._check_file(file, self._wanted(columns))
        # Small sources in small parts, so that many processes share them out evenly.
        size = min(_PART_BYTES, max(_MIN_PART_BYTES, sum(file.stat().st_size for file in files) // _MIN_PARTS))
        pieces = [span for file in files for span in spans(file, self.column, size)]
        size = max(size, sum(n_bytes for _, n_bytes in pieces) // _MAX_PARTS)
        parts: list[Part] = []
        where: list[Span] = []
        filled = 0
        for span, n_bytes in pieces:
            if where and filled + n_bytes > size:
                parts.append(Part(tuple(where), filled))
                where, filled = [], 0
            where.append(span)
            filled += n_bytes
        return [*parts, Part(tuple(where), filled)]

    def read(self, part: Part, columns: Sequence[str] = ()) -> Iterator[Document]:
        wanted, where = self._wanted(columns), list(part.where)
        is_local = bool(where) and isinstance(where[0], Span)
        return self._documents(self._span_rows(where, wanted) if is_local else self._hub_rows(wanted, *where), columns)

    def files(self) -> list[Path]:
        return self._files() or []

    def fingerprint(self) -> dict[str, Any]:
        settings = {'class': 'Location', 'name': self.name, 'split': self.split, 'column': self.column}
        files = self._files()
        if files is None:
            return {**settings, 'path': self.path, 'revision': self.revision}
        return {**settings, 'files': [[str(file.resolve()), file.stat().st_size] for file in files]}

    def _wanted(self, columns: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([self.column, *columns]))

    def _documents(self, rows: Iterator[dict[str, object]], columns: Sequence[str]) -> Iterator[Document]:
        for row, values in enumerate(rows):
            yield Document(row, values[self.column], {name: values[name] for name in columns})

    # Local files

    def _files(self) -> list[Path] | None:
        """The local files in their order; None where path is a hub's id."""
        path = Path(self.path).expanduser()
        if path.is_dir():
            return self._folder_files(path)
        if path.is_file():
            self._refuse_hub_settings('a file')
            return [path]
        if '://' in self.path:
            raise SettingsError(
                f'{self.path} is a URL; write {{class_path: RemoteFiles, init_args: {{path: {self.path}}}}} for it'
            )
        if any(letter in self.path for letter in '*?['):
            self._refuse_hub_settings('a pattern')
            files = sorted(Path(found) for found in glob.glob(str(path), recursive=True) if Path(found).is_file())
            if not files:
                raise SettingsError(f'no file matches {self.path} (from {Path.cwd()}); check the path of the source')
            return files
        if _HUB_ID.fullmatch(self.path) and not is_readable(path):
            return None
        raise SettingsError(f'there is no file or folder {self.path} (from {Path.cwd()}); check the path of the source')

    def _refuse_hub_settings(self, kind: str) -> None:
        if self.name is not None or not self._is_train:
            raise SettingsError(
                f'source {self}: {kind} has no configurations or splits; leave out name and split, or name a folder'
            )

    def _folder_files(self, folder: Path) -> list[Path]:
        if self.name is not None:
            if not (folder / self.name).is_dir():
                there = ', '.join(sorted(item.name for item in folder.iterdir() if item.is_dir())) or 'none'
                raise SettingsError(
                    f'source {self}: there is no folder {self.name} in {folder}; those there are: {there}'
                )
            folder /= self.name
        places = [folder, folder / 'data', folder / self.split, folder / 'data' / self.split]
        files = [file for place in places if place.is_dir() for file in sorted(place.iterdir()) if is_readable(file)]
        of_split = [file for file in files if self._of_split(file)]
        if of_split:
            return of_split
        has_splits = any(re.match(rf'({"|".join(_SPLIT_NAMES)})[-_.]', file.name) for file in files)
        if files and self._is_train and not has_splits:
            return files
        there = ', '.join(sorted(item.name for item in folder.iterdir())[:20]) or 'nothing'
        what = f'files of the split {self.split!r}' if files else 'parquet, jsonl, json, csv, tsv or txt files'
        raise SettingsError(
            f'source {self}: there are no {what} in {folder}; it holds {there}. '
            'Give the configuration as name, and split as the files begin'
        )

    def _of_split(self, file: Path) -> bool:
        return file.parent.name == self.split or bool(re.match(rf'{re.escape(self.split)}[-_.]', file.name))

    def _span_rows(self, where: list[Span], columns: list[str]) -> Iterator[dict[str, object]]:
        for span in where:
            self._check_file(Path(span.path), columns)
            yield from read_span(span, columns)

    def _check_file(self, file: Path, columns: list[str]) -> None:
        there = file_columns(file)
        if not there:
            raise ValueError(f'source {self}: {file} is empty; fetch it again, or leave it out')
        check_columns(columns, there, f'source {self}, file {file},')

    # The hub

    def _hub_parts(self) -> list[Part]:
        """A part for each of the files that the dataset has on the hub."""
        rows = self._open_hub()
        size = rows.info.dataset_size if rows.info is not None else None
        each = None if not size else size // rows.num_shards
        return [Part((i, rows.num_shards), each) for i in range(rows.num_shards)]

    def _hub_rows(self, columns: list[str], index: int = 0, n_parts: int = 1) -> Iterator[dict[str, object]]:
        rows = self._open_hub()
        if n_parts > 1:
            rows = rows.shard(num_shards=n_parts, index=index)
        with self._hub_errors():
            iterator = iter(rows)
            first = next(iterator, None)
        if first is None:
            return
        check_columns(columns, list(first), f'source {self}')
        yield first
        yield from iterator

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
