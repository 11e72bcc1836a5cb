"""Sources that do not fit the disk, as windows of shards: fetched ahead, laid out, permuted, trained on and dropped.

Every pass goes through all shards in an order of its own, the keyed permutation of their numbers; window_shards of them
are a window, whose rows come in an order drawn from (seed, window). What is evaluated on comes from the first
shards, which always stay; no document of another split than train is ever trained on, as its own hash says.
"""

import atexit
import contextlib
import json
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from xlabml import artifacts
from xlabml.artifacts import folders, manifests
from xlabml.data.corpus import Corpus, open_copies, read_hashes, split_names, splits_of
from xlabml.data.order import Place, permute
from xlabml.data.rows import Format, NextTokens, Passes, Plan, Reading
from xlabml.data.sources import Source
from xlabml.data.store import TokenStore
from xlabml.tokenizer import Tokenizer

from .shards import ShardCache, Stopped
from .window import DOCUMENT_BITS, Window

_SEEN = (int, str)  # how many rows a window has, and their fingerprint
_KEPT_WINDOWS = 2


class Stream:
    """How a corpus is streamed.

    Args:
        cache_gb: Disk that fetched and tokenized shards may take, in GB: room for the shards of evaluation, a window,
            and, so that training never waits, the next one; with data.weights, for those of each source.
        window_shards: How many shards (files, mostly) are shuffled together.
        eval_shards: How many of the first shards stay, to evaluate on their val, test and predict documents.
    """

    def __init__(self, cache_gb: float = 20.0, window_shards: int = 8, eval_shards: int = 1) -> None:
        self.cache_gb = cache_gb
        self.window_shards = window_shards
        self.eval_shards = eval_shards
        if cache_gb <= 0:
            raise ValueError(f'data.stream.cache_gb is {cache_gb}; it must be more than 0')
        for name in ('window_shards', 'eval_shards'):
            if getattr(self, name) < 1:
                raise ValueError(f'data.stream.{name} is {getattr(self, name)}; it must be at least 1')


class StreamedRows(Passes):
    """The training rows of a stream; a pass is a window.

    Args:
        cache: Where shards lie.
        stream: How many make a window, and how many stay.
        plan: How documents become rows.
        ratios: The share of each split.
        drop_duplicates: Whether exact copies within a window are left out.
        held_out: Documents of these are left out, too.
        seed: What the orders are drawn from.
        say: Called with a line on what was left out of a window, the first time that it is laid out; None: nothing is
            said.
        examples: The format of the rows; None: next-token prediction.
        source: The number of the source whose shards alone are read; None: those of all are.

    Attributes:
        neighbours: Streams of other sources that share the cache.
    """

    def __init__(
        self,
        cache: ShardCache,
        stream: Stream,
        plan: Plan,
        ratios: Mapping[str, float],
        drop_duplicates: bool,
        held_out: Sequence[Source],
        seed: int,
        say: Callable[[str], None] | None = None,
        examples: Format | None = None,
        source: int | None = None,
    ) -> None:
        self.cache = cache
        self.stream = stream
        self.plan = plan
        self.ratios = dict(ratios)
        self.drop_duplicates = drop_duplicates
        self.held_out = list(held_out)
        self.seed = seed
        self.examples = NextTokens() if examples is None else examples
        self.source = source
        self.neighbours: list[StreamedRows] = []
        self._say = say
        self._open: dict[int, Window | None] = {}
        self._counts: dict[int, int] = {}
        self._ahead: threading.Thread | None = None
        self._ahead_of = -1
        self._stopped = False

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), '_open': {}, '_ahead': None}

    @property
    def tokenizer(self) -> Tokenizer:
        """What the shards are tokenized with."""
        return self.cache.tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """A short name for all that the sequence of rows follows from."""
        return folders.short_hash(
            {
                'sources': [source.fingerprint() for source in self.cache.sources],
                'tokenizer': self.tokenizer.hash,
                'plan': self.plan.settings(),
                'splits': self.ratios,
                'drop_duplicates': self.drop_duplicates,
                'held_out': [source.fingerprint() for source in self.held_out],
                'window_shards': self.stream.window_shards,
                'seed': self.seed,
                **self._format(),
                **({} if self.source is None else {'source': self.source}),
            }
        )

    def _format(self) -> dict[str, object]:
        """The format's settings, where the rows depend on it; streams of next-token prediction have no entry."""
        return {} if type(self.examples) is NextTokens else {'examples': self.examples.settings()}

    @property
    def fixed_shards(self) -> range:
        """The shards that always stay."""
        return range(min(self.stream.eval_shards, len(self.cache.shards)))

    def shards(self, window: int) -> list[int]:
        """The shards of a window, counted over all passes; none is in two windows of a pass."""
        own = self._own_shards
        size = self.stream.window_shards
        epoch, index = divmod(window, self._n_windows)
        places = np.arange(index * size, min(len(own), (index + 1) * size))
        return own[permute(places, len(own), self.seed, epoch)].tolist()

    @cached_property
    def _own_shards(self) -> Int64[np.ndarray, ' shards']:
        shards = self.cache.shards
        if self.source is None:
            return np.arange(len(shards))
        source = self.cache.sources[self.source]
        return np.array([i for i, (one, _) in enumerate(shards) if one is source])

    @property
    def _n_windows(self) -> int:
        """Windows of a pass over the shards."""
        return math.ceil(len(self._own_shards) / self.stream.window_shards)

    def _stays(self) -> set[int]:
        """Shards that stay beside those of this stream's windows: what is evaluated on, and what others read now."""
        read = [other.shards(list(other._open)[-1]) for other in self.neighbours if other._open]
        return {*self.fixed_shards, *(shard for shards in read for shard in shards)}

    # What is in a window

    def n_rows(self, window: int) -> int:
        """How many rows a window has: looked up where it was opened once, by whatever process."""
        if window not in self._counts:
            path = self._count_path(window)
            if not path.exists():
                self._open_window(window)
            self._counts[window] = _read_seen(path)[0]
            if not any(self._counts.get(window - i, 1) for i in range(self._n_windows)):
                raise ValueError('no shard of the stream has a document to train on; check data.splits and its sources')
        return self._counts[window]

    def _known(self, window: int) -> int | None:
        """How many rows a window has, where that is known without reading it."""
        if window not in self._counts and (path := self._count_path(window)).exists():
            self._counts[window] = _read_seen(path)[0]
        return self._counts.get(window)

    def expect(self, counts: Sequence[int]) -> None:
        """Take up how many rows the first windows have, from a run that read them."""
        self._counts |= dict(enumerate(counts))

    def open(self, window: int) -> Window:
        found = self._open_window(window)
        assert found is not None, 'a window without rows is passed over'
        return found

    def _open_window(self, window: int) -> Window | None:
        """The rows of a window, in the plan's order; None where it has none. The next one is then fetched meanwhile.

        Raises:
            ValueError: A shard is gone or broken or not what it was, or the window does not fit the cache.
            ConnectionError: A shard cannot be had.
        """
        if window not in self._open:
            self._end_ahead(wait=self._ahead_of == window - 1)
            self._open[window] = self._lay_out(window)
            for old in list(self._open)[:-_KEPT_WINDOWS]:
                del self._open[old]
            self._start_ahead(window)
        return self._open[window]

    def order(self, window: int, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        """Which rows of a window come at these places of its order."""
        return permute(places, self.n_rows(window), self.seed, -1 - window)

    def sources(self, window: int) -> list[int]:
        """The source of each shard of a window."""
        return [self.cache.source(shard) for shard in self.shards(window)]

    def epochs(self, end: Place) -> list[float | None]:
        return [None] * len(self.cache.sources)

    def epochs_of(self, n_rows: int) -> float | None:
        """How often the first n_rows go through all shards; None where it is not known yet, since windows are unread.

        Later passes over the shards are taken to have as many rows as the first.
        """
        first = [self._known(window) for window in range(self._n_windows)]
        n_first = sum(n or 0 for n in first)
        left = n_rows
        window = 0
        while left > 0:
            n = self._known(window)
            if n is None:
                is_known = None not in first and n_first > 0
                return window / self._n_windows + left / n_first if is_known else None
            if left <= n:
                return (window + left / n) / self._n_windows
            left = left - n
            window = window + 1
        return window / self._n_windows

    def name(self, document: int) -> str:
        """A document's name for people, by the number that a batch has for it."""
        shard = (document >> DOCUMENT_BITS) - 1
        number = document & (1 << DOCUMENT_BITS) - 1
        path = self.cache.path(shard)
        if not (path / manifests.MANIFEST).exists():
            return f'{self.cache.name(shard)}, valid document {number}'
        return f'{self.cache.name(shard)}:{TokenStore.open(path).rows[number]}'

    def _lay_out(self, window: int) -> Window | None:
        cache = self.cache
        shards = self.shards(window)
        keep = {*self._stays(), *shards}
        stores = [cache.open(shard, keep) for shard in shards]
        folder = cache.folder / 'windows' / f'{self.fingerprint}-{window}'
        with cache.locked():
            folders.remove_older(folder.parent, _KEPT_WINDOWS * (1 + len(self.neighbours)), folder)
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
            cache.make_room(self._plan_bytes(stores), keep, shards[0])
            left_out: Counter[str] = Counter()
            for store in stores:
                left_out.update({reason: found['count'] for reason, found in store.manifest['invalid'].items()})
            copies = open_copies(stores, folder) if self.drop_duplicates else None
            if copies is not None:
                left_out['exact copies'] = int(copies.sum(dtype=np.int64))
            if self.held_out:
                folder /= self._held_name
                marks = np.concatenate([self._is_held(store.hashes) for store in stores]).astype(np.uint8)
                left_out['in data.held_out'] = int(marks.sum(dtype=np.int64))
                copies = marks if copies is None else copies | marks
            hashes = np.concatenate([store.hashes for store in stores])
            is_train = splits_of(hashes, self.ratios) == split_names.index('train')
            rows: Window | None = None
            if (is_train if copies is None else is_train & (copies == 0)).any():
                corpus = Corpus(stores, self.ratios, copies)
                examples = self.examples.examples(corpus, 'train', 'train', window, self._reading(folder))
                rows = Window(examples, shards, np.cumsum([0, *map(len, stores)]))
            self._record(window, rows, stores, left_out)
        return rows

    def _reading(self, folder: Path) -> Reading:
        return Reading(self.tokenizer, self.plan, folder, self.seed)

    def _record(self, window: int, rows: Window | None, stores: Sequence[TokenStore], left_out: Counter[str]) -> None:
        """Write down what a window holds, and say what it does not.

        Raises:
            ValueError: It held something else before.
        """
        path = self._count_path(window)
        found = [0, ''] if rows is None else [len(rows), rows.fingerprint]
        names = ', '.join(self.cache.name(shard) for shard in self.shards(window))
        is_other = self._counts.get(window, found[0]) != found[0]
        if path.exists() or is_other:
            if is_other or _read_seen(path) != found:
                what = f'one of {names}' + (', or of data.held_out,' if self.held_out else '')
                raise ValueError(
                    f'{what} is not what it was when it was streamed before; restore it, or delete {self.cache.folder} '
                    'and start a new run'
                )
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.sweep(path.parent)  # of a process that was killed
        artifacts.write_text(path, json.dumps(found))
        if self._say is not None and left_out.total():
            n_rows = sum(store.manifest['n_rows'] for store in stores)
            counts = ', '.join(f'{n:,} {reason}' for reason, n in left_out.items() if n)
            self._say(f'window {window:,} of the stream ({names}): left out of {n_rows:,} documents: {counts}')

    def _plan_bytes(self, stores: Sequence[TokenStore]) -> int:
        """No more than this is written when a window is laid out."""
        n_documents = sum(map(len, stores))
        n_tokens = sum(len(store.tokens) for store in stores)
        n_pieces = n_documents + n_tokens // (self.plan.settings().get('stride_tokens') or self.plan.length)
        return 32 * n_documents + 48 * n_pieces + (1 << 12)

    def _count_path(self, window: int) -> Path:
        return self.cache.folder / 'windows_seen' / self.fingerprint / f'{window}.json'

    @cached_property
    def _held(self) -> set[bytes]:
        found: set[bytes] = set()
        for source in self.held_out:
            for _, hashes in read_hashes(source):
                found |= {row.tobytes() for row in hashes}
        return found

    @cached_property
    def _held_name(self) -> str:
        """A short name for the documents themselves: their fingerprint does not see a file that kept its size."""
        return folders.short_hash(sorted(found.hex() for found in self._held))

    def _is_held(self, hashes: UInt64[np.ndarray, 'documents 2']) -> np.ndarray:
        return np.fromiter((row.tobytes() in self._held for row in hashes), np.bool_, len(hashes))

    # The next window, meanwhile

    def _start_ahead(self, window: int) -> None:
        keep = {*self._stays(), *self.shards(window), *self.shards(window + 1)}

        def check() -> None:
            if self._stopped:
                raise Stopped

        def fetch() -> None:
            # What goes wrong here is said when the shard is needed; for want of room it comes later.
            with contextlib.suppress(Stopped, ValueError, OSError):
                for shard in self.shards(window + 1):
                    check()
                    self.cache.open(shard, keep, check)

        self._ahead_of = window
        self._stopped = False
        self._ahead = threading.Thread(target=fetch, daemon=True, name=f'fetch window {window + 1}')
        self._ahead.start()
        atexit.register(self.close)

    def _end_ahead(self, wait: bool) -> None:
        """End the work on the next window, at once or when it is done; what is whole of it stays."""
        if self._ahead is not None:
            self._stopped = not wait
            self._ahead.join()
            self._ahead = None
            atexit.unregister(self.close)

    def close(self) -> None:
        """Close the windows, and stop fetching."""
        self._end_ahead(wait=False)
        self._open.clear()


def _read_seen(path: Path) -> list[Any]:
    what_to_do = 'delete that file, and the window is laid out anew'
    found = manifests.read_json(path, what_to_do)
    if misfit := manifests.find_misfit(found, _SEEN, 'its content'):
        raise ValueError(f'{path} was changed by hand or is broken: {misfit}; {what_to_do}')
    return found
