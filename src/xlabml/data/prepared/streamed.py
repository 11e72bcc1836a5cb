"""A data module's texts and training rows where the corpus is streamed: a bounded cache in place of stores."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from xlabml import paths
from xlabml.artifacts import folders
from xlabml.data.corpus import Corpus, open_copies, train_texts
from xlabml.data.order import Interleaving, mix
from xlabml.data.rows import Examples
from xlabml.data.store import Engine, TerminalProgress, TokenStore
from xlabml.data.stream import Shard, ShardCache, Stream, StreamedRows, WeightedStream, is_global
from xlabml.errors import SettingsError

from .texts import Texts


class StreamedTexts(Texts):
    """The texts of the shards that always stay: what is evaluated on, and what a tokenizer is trained on.

    Args:
        stream: How the corpus is streamed.
        others: What `Texts` takes.
    """

    def __init__(self, stream: Stream, *others: Any) -> None:
        super().__init__(*others)
        self.stream = stream

    @cached_property
    def cache(self) -> ShardCache:
        """The shards, and those of them that are here."""
        what = [self._fingerprints, self.tokenizer.hash]
        folder = paths.streams() / folders.short_hash(what)
        max_bytes = int(self.stream.cache_gb * 1e9)
        return ShardCache(self.sources, self.tokenizer, folder, max_bytes, self.n_processes)

    @property
    def extent(self) -> str:
        n = len(self.corpus.stores)
        n_all = len(self.cache.shards)
        return '' if n == n_all else f'the first {n:,} of {n_all:,} shards, which stay (data.stream.eval_shards)'

    @cached_property
    def _fingerprints(self) -> list[object]:
        """Those of the sources, as they were when the shards were listed."""
        return [source.fingerprint() for source in self.sources]

    def column(self, name: str, documents: Int64[np.ndarray, ' documents']) -> dict[int, object]:
        raise SettingsError(f'the column {name!r} cannot be read of a stream, which keeps no columns; leave it out')

    def _fixed(self) -> list[Shard]:
        parts = [(source, part) for source in self.sources for part in source.parts()]
        return [Shard(source, part) for source, part in parts[: self.stream.eval_shards]]

    def _tokenizer_identity(self) -> list[object]:
        return [*super()._tokenizer_identity(), self.stream.eval_shards]

    def _tokenizer_texts(self) -> Iterable[str]:
        return train_texts(self._fixed(), self.splitting.ratios)

    def prepare(self, engine: Engine | None = None) -> None:
        if engine is not None:
            raise SettingsError('data.stream has shards tokenized during training; leave it out, or --engine')
        if self._corpus is not None:
            return
        self.tokenizer_file.ensure()
        fixed = range(min(self.stream.eval_shards, len(self.cache.shards)))
        with TerminalProgress() as report:
            say = self._once(report.say)
            self.say_passed_over(say)
            say(self._announce())
            with self.cache.locked():
                self.cache.make_room(0, fixed, 0)  # an earlier run may have been allowed more
            stores = [self.cache.open(shard, fixed) for shard in fixed]
            if not any(map(len, stores)):
                names = ', '.join(map(self.cache.name, fixed))
                raise ValueError(
                    f'{names} has no document with text, but is what is evaluated on; check its column, or set '
                    'data.stream.eval_shards to more'
                )
            self._check_window(stores, say)
        copies = open_copies(stores, self.copies_folder) if self.drop_duplicates else None
        self._corpus = Corpus(stores, self.splitting.ratios, copies)

    def _announce(self) -> str:
        """What will happen, for people.

        Raises:
            ValueError: The disk has less room than the cache may take.
        """
        cache = self.cache
        cache.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache.folder).free
        more = cache.max_bytes - cache.n_bytes
        if more > free:
            raise SettingsError(
                f'data.stream.cache_gb is {self.stream.cache_gb:g}, but only {folders.show_bytes(free)} are free at '
                f'{cache.folder}; set it to {(free + cache.n_bytes) / 1e9:.3g} or less, or XLABML_CACHE to a folder on '
                'a larger disk'
            )
        text = cache.text_bytes(range(len(cache.shards)))
        size = '' if text is None else f', about {folders.show_bytes(text)} of text'
        return (
            f'streaming {len(cache.shards):,} shards{size}, {self._n_open_shards()} at a time; takes at most '
            f'{folders.show_bytes(cache.max_bytes)} of disk at {cache.folder}, {folders.show_bytes(free)} are free'
        )

    def _check_window(self, stores: Sequence[TokenStore], say: Callable[[str], None]) -> None:
        """Raise ValueError if a window will not fit the cache, judged by the shards that stay."""
        cache = self.cache
        n = self._n_open_shards()
        text = cache.text_bytes(range(len(stores)))
        sizes = [part.n_bytes for _, part in cache.shards if part.n_bytes]
        if not text or len(sizes) < len(cache.shards):
            return
        there = sum(folders.size(store.folder) for store in stores)
        each = max(sizes) * there / text
        most = max(sizes)
        room = cache.max_bytes - there - most  # a file lies here as it came, while it is tokenized
        fit = int(room // each)
        if fit < min(n, len(sizes)):
            n_windows = 1 if self.read.weights is None else sum(weight > 0 for weight in self.read.weights)
            less = f'set that to {fit // n_windows}, or' if fit >= n_windows else 'set'
            each_source = '' if n_windows == 1 else f' for each of {n_windows} sources'
            raise SettingsError(
                f'data.stream.cache_gb is {self.stream.cache_gb:g}: beside what is evaluated on it holds about '
                f'{max(0, fit)} shards, but data.stream.window_shards is {self.stream.window_shards}{each_source}; '
                f'{less} cache_gb to '
                f'{(there + most + 2 * n * each) / 1e9:.3g}, so that the next window fits too'
            )
        if fit < min(2 * n, len(sizes)):
            say(
                f'data.stream.cache_gb holds a window but not the next one beside it, so that training will wait at '
                f'its end; about {(there + most + 2 * n * each) / 1e9:.3g} would do'
            )

    def _n_open_shards(self) -> int:
        """Shards of the windows that are read at a time: one window, or one of each source that has a weight."""
        n = self.stream.window_shards
        if self.read.weights is None:
            return n
        of_source = Counter(self.cache.source(shard) for shard in range(len(self.cache.shards)))
        return sum(min(n, of_source[i]) for i, weight in enumerate(self.read.weights) if weight)

    def stores(self) -> list[TokenStore]:
        if not self.tokenizer_path.exists():
            return []
        paths = [self.cache.path(shard) for shard in range(len(self.cache.shards))]
        return [TokenStore.open(path) for path in paths if path.exists()]

    @property
    def copies_folder(self) -> Path:
        return self.cache.folder / 'copies'

    def corpus_stores(self) -> list[TokenStore]:
        if not self.tokenizer_path.exists():
            return []
        paths = [self.cache.path(shard) for shard in range(min(self.stream.eval_shards, len(self.cache.shards)))]
        return [TokenStore.open(path) for path in paths] if all(path.exists() for path in paths) else []

    def open_examples(self, split: str, stage: str) -> Examples:
        try:
            self.corpus.documents(split)
        except ValueError as error:
            n = self.stream.eval_shards
            raise SettingsError(f'{error}; these are the data.stream.eval_shards, {n}: more of them may do') from error
        return super().open_examples(split, stage)

    def describe(self) -> dict[str, object]:
        known = [[str(source), folders.short_hash(found)] for source, found in zip(self.sources, self._fingerprints)]
        n_shards = [sum(one is source for one, _ in self.cache.shards) for source in self.sources]
        return {'sources': known, 'n_documents': n_shards, 'unit': 'shards'}

    # Training

    @cached_property
    def passes(self) -> StreamedRows | WeightedStream:
        """What is trained on: the windows of the stream, or periods of a mixture of those of each source."""
        weights = self.read.weights
        if weights is None:
            return self._windows(None)
        streams = {i: self._windows(i) for i, weight in enumerate(weights) if weight}
        return WeightedStream(streams, Interleaving(np.array(weights) / self._targets_per_row(weights), weights))

    def _windows(self, source: int | None) -> StreamedRows:
        """The windows of a source; None: of all together."""
        return StreamedRows(
            self.cache,
            self.stream,
            self.plan,
            self.splitting.ratios,
            self.drop_duplicates,
            self.read.held_out,
            self.seed if source is None else mix(self.seed, source),
            TerminalProgress().say,
            self.examples,
            source,
        )

    def _targets_per_row(self, weights: Sequence[float]) -> Float64[np.ndarray, ' sources']:
        """How many targets a training row of each source has on average, by the shards that stay.

        A source that none of them is of is taken to have as many as all of them together.
        """
        examples = self.train_examples
        source = [self.cache.source(shard) for shard in range(len(examples.source_counted))]
        rows = np.bincount(source, np.diff(examples.source_starts), len(weights))
        targets = np.bincount(source, examples.source_counted, len(weights))
        joint = targets.sum() / rows.sum()
        unknown = [f'{one}' for one, n, weight in zip(self.sources, rows, weights) if weight and not n]
        if unknown:
            self._once(TerminalProgress().say)(
                f'data.weights: of {", ".join(unknown)} no shard is evaluated on (data.stream.eval_shards), so rows of '
                f'it are taken to have {joint:.1f} targets each, as those of the shards that are'
            )
        return np.where(rows > 0, targets / np.maximum(rows, 1), joint)

    @property
    def n_epoch_rows(self) -> int:
        """Nobody knows before all shards were read: raises ValueError."""
        raise SettingsError(
            'the length of a streamed corpus is not known before all of it was read; set trainer.max_steps in place of '
            'trainer.max_epochs'
        )

    def _order_settings(self) -> dict[str, object]:
        return {
            'data.stream.window_shards': self.stream.window_shards,
            'data.held_out': self._held_out,
            'seed_everything': self.seed,
            **self._weight_settings(),
        }

    def _weight_settings(self) -> dict[str, object]:
        if self.read.weights is None:
            return {}
        return {'data.weights': self.read.weights, 'data.stream.eval_shards': self.stream.eval_shards}

    @cached_property
    def _held_out(self) -> list[list[str]]:
        return [[str(source), folders.short_hash(source.fingerprint())] for source in self.read.held_out]

    def check_training(self) -> None:
        """Note what the sources are, for the checkpoints; what can be wrong is found when a window is laid out."""
        self._order_settings()
        _ = self.passes.fingerprint

    def document_name(self, document: int) -> str:
        return self.passes.name(document) if is_global(document) else super().document_name(document)
