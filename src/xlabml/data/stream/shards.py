"""Shards of sources as token stores in a bounded folder: fetched and tokenized when they are needed, then dropped."""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from xlabml.artifacts import folders, manifests
from xlabml.artifacts.locks import only_one
from xlabml.data.sources import Advance, Document, Part, RemoteFiles, Source, Span, stat_files
from xlabml.data.store import TokenStore, encode_part, finish_part
from xlabml.errors import DataError
from xlabml.tokenizer import Tokenizer

_FIRST_RATIO = 2.0  # of the disk that fetching and tokenizing take to the text, until it was measured
_LOOK_SECONDS = 0.05
_SMALL_BYTES = 64 << 20  # a smaller cache is measured after every piece of work


class NoRoom(DataError):  # noqa: N818
    """What is wanted does not fit the cache beside what must stay there."""


class Stopped(Exception):  # noqa: N818
    """Nobody waits for the shard any more."""


class Shard(Source):
    """One part of a source, as a source of its own.

    Args:
        source: The source.
        part: Which part.
        folder: Where a remote file is brought to, while it is read; None: a temporary one.
        advance: Told how many bytes came.
    """

    def __init__(self, source: Source, part: Part, folder: Path | None = None, advance: Advance | None = None) -> None:
        self.source = source
        self.part = part
        self._folder = folder
        self._advance = advance
        self.in_pieces = source.in_pieces

    def __str__(self) -> str:
        first, *more = self.part.where or (str(self.source),)
        if isinstance(first, Span):
            return f'{first} and {len(more)} more' if more else str(first)
        return f'{self.source} {[first, *more]}' if more else str(first)

    def documents(self, columns: Sequence[str] = ()) -> Iterator[Document]:
        if self._folder is None or not isinstance(self.source, RemoteFiles):
            yield from self.source.read(self.part, columns)
            return
        file = self.source.fetch(self.part, self._folder, self._advance)
        yield from self.source.read_fetched(file, columns)
        file.unlink()

    def files(self) -> list[Path]:
        where = self.part.where
        spans = [Path(span.path) for span in where if isinstance(span, Span)]
        return list(dict.fromkeys(spans)) if spans else self.source.files()

    def passed_over(self) -> str:
        return self.source.passed_over()

    def fingerprint(self) -> dict[str, object]:
        return {'shard': list(self.part.where)}


class ShardCache:
    """The shards of all sources, numbered one after the other, of which some lie in a folder.

    Processes share the folder: one at a time fetches and tokenizes, the others wait at a lock and find it done. The
    folder never takes more disk than it may: before and while a shard comes, those that were used the longest time ago
    go. A store that was opened stays readable until it is closed.

    Args:
        sources: Each is as many shards as it has parts.
        tokenizer: What they are tokenized with.
        folder: Where they lie.
        max_bytes: Disk that the folder may take.
        n_threads: Threads that tokenize; None: one a core.
    """

    def __init__(
        self, sources: Sequence[Source], tokenizer: Tokenizer, folder: Path, max_bytes: int, n_threads: int | None
    ) -> None:
        self.sources = sources
        self.tokenizer = tokenizer
        self.folder = folder
        self.max_bytes = max_bytes
        self.n_threads = n_threads
        self._ratio = _FIRST_RATIO

    @cached_property
    def shards(self) -> list[tuple[Source, Part]]:
        """Source and part of each."""
        return [(source, part) for source in self.sources for part in source.parts()]

    def source(self, shard: int) -> int:
        """The number of a shard's source."""
        source, _ = self.shards[shard]
        return next(i for i, one in enumerate(self.sources) if one is source)

    def name(self, shard: int) -> str:
        """A shard's name for people."""
        return str(Shard(*self.shards[shard]))

    def text_bytes(self, shards: Collection[int]) -> int | None:
        """About how much text some shards have; None where that is unknown."""
        sizes = [self.shards[shard][1].n_bytes for shard in shards]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def n_bytes(self) -> int:
        """What the folder takes of the disk now."""
        return folders.size(self.folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While this lasts, no other process changes the folder."""
        with only_one(self.folder / 'lock'):
            yield

    def path(self, shard: int) -> Path:
        """Where a shard's store lies, if it does."""
        return self.folder / 'shards' / f'{shard:06d}'

    def open(self, shard: int, keep: Collection[int], check: Callable[[], None] = lambda: None) -> TokenStore:
        """The store of a shard, fetched and tokenized where it is not there, or a local file was written to since.

        Args:
            keep: The shards that must stay.
            check: Called now and then; what it raises ends the work, and nothing half-made counts.

        Raises:
            NoRoom: It does not fit beside those.
            ValueError: It is not there any more, or is broken.
            ConnectionError: It cannot be had.
        """
        with self.locked():
            path = self.path(shard)
            keep = {*keep, shard}
            files = stat_files(Shard(*self.shards[shard]).files())
            if (path / manifests.MANIFEST).exists():
                store = TokenStore.open(path)
                if store.manifest['source_files'] == files:
                    os.utime(path)
                    return store
                folders.drop(path)
            self._build(shard, path, files, keep, check)
            return TokenStore.open(path)

    def _build(
        self, shard: int, path: Path, files: list[list], keep: Collection[int], check: Callable[[], None]
    ) -> None:
        source, part = self.shards[shard]
        fetched = self.folder / 'fetched'
        partial = path.with_name(f'{path.name}.new')
        for stale in (fetched, *path.parent.glob('*.*')):  # of a process that was killed
            folders.remove(stale)
        self.make_room(int(self._ratio * (part.n_bytes or 0)), keep, shard)
        before = most = self.n_bytes
        looked = time.monotonic()

        def advance(_: int = 0) -> None:
            nonlocal before, most, looked
            check()
            if time.monotonic() - looked > _LOOK_SECONDS or self.max_bytes < _SMALL_BYTES:
                before -= self.make_room(0, keep, shard)
                most = max(most, self.n_bytes)
                looked = time.monotonic()

        one = Shard(source, part, fetched, advance)
        try:
            encode_part(one, part, self.tokenizer, (), partial, advance, self.n_threads)
            finish_part(partial, one, self.tokenizer, files)
            self.make_room(0, keep, shard)
            folders.put_folder(partial, path)
        finally:
            folders.remove(fetched)
            folders.remove(partial)
        if part.n_bytes:
            measured = (most - before) / part.n_bytes
            self._ratio = measured if self._ratio == _FIRST_RATIO else max(self._ratio, measured)

    def make_room(self, n_bytes: int, keep: Collection[int], wanted: int) -> int:
        """Drop what need not stay until n_bytes fit, least recently used first.

        Returns:
            How many bytes went.
        """
        keep_names = {self.path(shard).name for shard in keep}
        there = self.n_bytes
        start = there
        if there + n_bytes <= self.max_bytes:
            return 0
        paths = list(self.path(0).parent.iterdir()) if self.path(0).parent.exists() else []
        for path in sorted((path for path in paths if path.is_dir()), key=lambda path: path.stat().st_mtime_ns):
            if path.name.partition('.')[0] in keep_names:
                continue
            there -= folders.size(path)
            folders.drop(path)
            if there + n_bytes <= self.max_bytes:
                return start - there
        raise NoRoom(
            f'{self.name(wanted)}, and what must stay beside it, take about {folders.show_bytes(there + n_bytes)} in '
            f'{self.folder}, but data.stream.cache_gb allows {folders.show_bytes(self.max_bytes)}; raise it, or set '
            'data.stream.window_shards or data.stream.eval_shards to less'
        )
