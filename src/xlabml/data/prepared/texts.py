"""The tokenizer, the token stores and the rows of a data module: in the cache, made there where they are not yet."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xlabml import paths
from xlabml.artifacts.hashes import short_hash
from xlabml.artifacts.locks import only_one
from xlabml.data.corpus import (
    Corpus,
    NearPairs,
    check_held_out,
    check_near_duplicates,
    open_copies,
    open_near_duplicates,
    open_splits,
    split_names,
    train_texts,
    verify_copies,
    verify_near_duplicates,
    verify_splits,
)
from xlabml.data.order import Mixture, Place
from xlabml.data.rows import Epochs, Examples, Mixed, Passes, Reading, RowFormat, Rows, verify_plan
from xlabml.data.sources import Source
from xlabml.data.store import (
    Engine,
    TerminalProgress,
    TokenStore,
    describe_changed,
    prepare_store,
    store_folder,
)
from xlabml.errors import SettingsError
from xlabml.tokenizer import Tokenizer, train_tokenizer

from .choices import ExampleChoice, ReadChoice, TokenizerChoice


class Texts:
    """The texts of some sources as rows of tokens; building it opens nothing.

    Args:
        read: The documents.
        tokenizer: The tokenizer.
        examples: What documents become.
        n_processes: Processes that tokenize; None: one a core.
        once: Wraps a function so that of several ranks one calls it: what is said is said once.
    """

    def __init__(
        self,
        read: ReadChoice,
        tokenizer: TokenizerChoice,
        examples: ExampleChoice,
        n_processes: int | None,
        once: Callable[[Callable], Callable] = lambda function: function,
    ) -> None:
        self.read = read
        self.n_processes = n_processes
        self._once = once
        self.sources = read.sources
        self.splitting = read.splitting
        self.drop_duplicates = read.drop_duplicates
        self.near_duplicates = read.near_duplicates
        self.n_vocab = tokenizer.n_vocab
        self.coverage = tokenizer.coverage
        self.examples, self.plan, self.seed = examples
        self.near_pairs: NearPairs | None = None
        self._special_tokens = tokenizer.special_tokens
        self._append_special_tokens = tokenizer.append_special_tokens
        self._given_path = None if tokenizer.path is None else Path(tokenizer.path)
        self._saved_path: Path | None = None
        self._tokenizer: Tokenizer | None = None
        self._corpus: Corpus | None = None
        self._examples: dict[tuple[str, bool], Examples] = {}

    # The tokenizer

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file: the checkpoint's, the one that was asked for, or the one in the cache."""
        if self._saved_path is not None:
            return self._saved_path
        if self._given_path is not None:
            return self._given_path
        name = short_hash(self._tokenizer_source())
        return paths.tokenizers() / f'{self.n_vocab}-{name}.model'

    def _tokenizer_source(self) -> list[Any]:
        """Plain values that a tokenizer which is trained here follows from."""
        times = [file.stat().st_mtime_ns for source in self.sources for file in source.files()]
        known = [
            [source.fingerprint() for source in self.sources],
            times,
            self.splitting.ratios,
            self.n_vocab,
            self.coverage,
        ]
        return [*known, *([self.splitting.settings()] if self.splitting.settings() else [])]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; it has to be there.

        Raises:
            ValueError: It has not data.n_vocab tokens.
        """
        if self._tokenizer is None:
            # What a checkpoint holds says by itself which of its tokens are special.
            tokenizer = (
                self._read(self.tokenizer_path) if self._saved_path is None else Tokenizer.load(self._saved_path)
            )
            if len(tokenizer) != self.n_vocab:
                n = len(tokenizer.appended)
                raise SettingsError(
                    f'tokenizer {self.tokenizer_path} has {len(tokenizer)} tokens{f" ({n} of them appended)" * (n > 0)}'
                    f', but data.n_vocab is {self.n_vocab}; set data.n_vocab to {len(tokenizer)}, or train a tokenizer '
                    f'of {self.n_vocab}'
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    def _read(self, path: Path) -> Tokenizer:
        return Tokenizer.load(path, self._special_tokens, self._append_special_tokens)

    def check_tokenizer(self) -> None:
        """Raise ValueError if the tokenizer that was asked for cannot be used, or is not as the settings say.

        A tokenizer that is trained is ours: where none is there yet, no setting of somebody else's may be.
        """
        if self._given_path is not None and self.tokenizer_path.exists():
            _ = self.tokenizer
            return
        named = [f'special_tokens.{role}' for role in self._special_tokens]
        for name in named + ['append_special_tokens'] * self._append_special_tokens:
            raise SettingsError(
                f'data.{name} is for a tokenizer that one has, but there is none at {self._given_path}: check the path'
                if self._given_path
                else f'data.{name} is for a tokenizer that one has; name it in data.tokenizer_path, or leave it out'
            )
        if self._given_path is not None and self._given_path.suffix == '.json':
            raise SettingsError(
                f'there is no tokenizer at {self._given_path}, and none is trained there: what is trained is a '
                'SentencePiece model, whose name ends in .model; check the path'
            )

    def ensure_tokenizer(self) -> None:
        """Train the tokenizer where it is not there yet; of several processes one does, and the others wait."""
        path = self.tokenizer_path
        if path.exists():
            return
        self.check_tokenizer()
        lock = paths.tokenizers() / f'{path.name}.lock'
        with only_one(lock):
            if not path.exists():
                self.train_tokenizer()

    def train_tokenizer(self) -> Path:
        """Train a tokenizer on the train split; it must not be there yet.

        Returns:
            Its path.
        """
        self._tokenizer = None
        self.tokenizer_path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer(train_texts(self.sources, self.splitting), self.tokenizer_path, self.n_vocab, self.coverage)
        return self.tokenizer_path

    def use_tokenizer(self, data: bytes, unpack: Callable[[], Path]) -> None:
        """Use the tokenizer that a checkpoint holds.

        Args:
            data: Its bytes.
            unpack: Writes them to a file in the cache, named by its hash, and returns its path.

        Raises:
            ValueError: It is damaged, or data.tokenizer_path is the file of another one.
        """
        given = self._given_path
        if given is not None and given.exists() and self._read(given).data != data:
            raise SettingsError(
                f'{given} is not the tokenizer that the checkpoint was trained with; point data.tokenizer_path to that '
                'one, or leave it out: the checkpoint has it inside'
            )
        Tokenizer.from_bytes(data)  # one that is damaged does not come into the cache
        path = unpack()
        if self._tokenizer is not None and self._tokenizer.data != data:
            raise ValueError(f'the data was prepared with {self.tokenizer_path}, but the checkpoint holds {path}')
        self._saved_path = path

    # Stores and rows

    def prepare(self, engine: Engine | None = None) -> None:
        """Train the tokenizer and build the stores, where they are not there yet; whoever comes second waits.

        Args:
            engine: What tokenizes; None: processes of this machine.
        """
        if self._corpus is not None:
            return
        self.say_passed_over(self._once(TerminalProgress().say))
        self.ensure_tokenizer()
        folders = [self._store_folder(source) for source in self.sources]
        for source, folder in zip(self.sources, folders):
            if not folder.exists():
                source.parts(self.columns)  # what is wrong with the last source is said before the first is tokenized
        with TerminalProgress() as report:
            stores = [
                prepare_store(
                    source,
                    self.tokenizer,
                    folder,
                    self.columns,
                    report=report,
                    say=report.say,
                    n_processes=self.n_processes,
                    engine=engine,
                )
                for source, folder in zip(self.sources, folders)
            ]
            copies = open_copies(stores, self._copies_folder) if self.drop_duplicates else None
            near = self.near_duplicates
            if near is not None:
                found = paths.near_duplicates()
                self.near_pairs = open_near_duplicates(stores, near, copies, found, report)
        dropped = self.near_pairs if near is not None and near.action == 'drop' else None
        drawn = None if self.splitting.is_plain else open_splits(stores, self.splitting, self._splits_folder)
        self._corpus = Corpus(stores, self.splitting.ratios, copies, dropped, drawn)

    def say_passed_over(self, say: Callable[[str], None]) -> None:
        """Say of each source what lies there and is not read."""
        for source in self.sources:
            if passed_over := source.passed_over():
                say(f'{source}: {passed_over}')

    def _store_folder(self, source: Source) -> Path:
        return store_folder(paths.stores(), source, self.tokenizer, self.columns)

    @property
    def columns(self) -> list[str]:
        """The columns of the sources that are kept beside their texts."""
        return self.splitting.columns

    @property
    def corpus(self) -> Corpus:
        """The documents of all sources."""
        self.prepare()
        assert self._corpus is not None
        return self._corpus

    @property
    def extent(self) -> str:
        """Which part of the sources the corpus is, for people; empty: all of them."""
        return ''

    def stores(self) -> list[TokenStore]:
        """The token stores that are there already.

        Raises:
            ValueError: One of them is not as it was written.
        """
        if not self.tokenizer_path.exists():
            return []
        folders = [self._store_folder(source) for source in self.sources]
        return [TokenStore.open(folder) for folder in folders if folder.exists()]

    def verify(self) -> Iterator[str]:
        """Read the stores that are there, and the copies, near-duplicates and plans that were made of them, and compare
        them with the hashes of what was written; yields a line for people on each store and plan.

        Raises:
            ValueError: One of them is not as it was written; it is named.
        """
        for store in self.stores():
            store.verify()
            yield f'store: {store.folder} is as it was written ({len(store):,} documents)'
            if changed := describe_changed(store.manifest):
                yield f'  {changed}'
        stores = self._corpus_stores()
        if not stores:
            return
        copies = near = None
        if self.drop_duplicates:
            copies = verify_copies(stores, self._copies_folder)
        if self.near_duplicates is not None:
            found = paths.near_duplicates()
            near = verify_near_duplicates(stores, self.near_duplicates, self.drop_duplicates, found)
        drops_near = self.near_duplicates is not None and self.near_duplicates.action == 'drop'
        if (self.drop_duplicates and copies is None) or (drops_near and near is None):
            return  # there are no rows before it is known what to drop
        drawn = None
        if not self.splitting.is_plain:
            drawn = verify_splits(stores, self.splitting, self._splits_folder)
            if drawn is None:
                return
        corpus = Corpus(stores, self.splitting.ratios, copies, near if drops_near else None, drawn)
        if not isinstance(self.examples, RowFormat):
            return
        reading = self.reading()
        for split in split_names:
            for stage in ('train', 'val'):
                view = self.examples.view(corpus, stage, 0, reading)
                plan = verify_plan(self.plan, corpus, split, stage != 'train', reading.folder, view)
                if plan is not None:
                    yield f'plan: {plan.folder} is as it was written ({len(plan):,} rows of {split})'

    @property
    def _copies_folder(self) -> Path:
        return paths.copies()

    @property
    def _splits_folder(self) -> Path:
        return paths.splits()

    def _corpus_stores(self) -> list[TokenStore]:
        """The stores that the corpus is made of; none where one of them is not there."""
        found = self.stores()
        return found if len(found) == len(self.sources) else []

    def open_examples(self, split: str, stage: str) -> Examples:
        """The examples of a split, for training (stage train) or evaluation (the others)."""
        key = split, stage == 'train'
        if key not in self._examples:
            self._examples[key] = self.examples.examples(self.corpus, split, stage, 0, self.reading())
        return self._examples[key]

    def rows(self, split: str, counted_once: bool = True) -> Rows:
        """The rows of a split.

        Args:
            counted_once: Where windows overlap, a target counts in the first one only: so it is when evaluating.

        Raises:
            ValueError: The examples are no rows.
        """
        found = self.open_examples(split, 'val' if counted_once else 'train')
        if not isinstance(found, Rows):
            name = type(self.examples).__name__
            raise SettingsError(f'data.examples is {name}, whose examples are no rows; this needs a format of rows')
        return found

    def reading(self) -> Reading:
        """What the format makes examples with."""
        return Reading(self.tokenizer, self.plan, paths.plans(), self.seed)

    # Training

    @cached_property
    def passes(self) -> Passes:
        """What is trained on: epochs of the train split, or periods of a mixture."""
        examples = self.open_examples('train', 'train')
        weights = self.read.weights
        if weights is None:
            return Epochs(examples, self.seed)
        return Mixed(examples, self.seed, Mixture(examples.source_starts, examples.source_counted, weights))

    @property
    def train_examples(self) -> Examples:
        """All that can be looked at before a run of what is trained on."""
        return self.open_examples('train', 'train')

    @property
    def n_epoch_rows(self) -> int:
        """How many rows one data epoch has: those of all sources that are used."""
        counts = np.diff(self.train_examples.source_starts).tolist()
        return sum(n for i, n in enumerate(counts) if self.read.weights is None or self.read.weights[i])

    def settings(self) -> dict[str, Any]:
        """Plain values that the sequence of training examples follows from, by the names that the user knows."""
        near = self.near_duplicates
        return {
            'data.splits': self.splitting.ratios,
            'data.drop_duplicates': self.drop_duplicates,
            'data.near_duplicates': None if near is None or near.action != 'drop' else dict(vars(near)),
            'data.max_len': self.plan.length,
            'data.plan': self.plan.settings(),
            'data.examples': self.examples.settings(),
            **self.splitting.settings(),
            **self._order_settings(),
        }

    def _order_settings(self) -> dict[str, Any]:
        return {'data.weights': self.read.weights, 'seed_everything': self.seed}

    def check_training(self) -> None:
        """Raise ValueError if a held-out document is trained on, or if there is less text than fills one row."""
        if self.near_pairs is not None and self.near_duplicates is not None and self.near_duplicates.action == 'refuse':
            check_near_duplicates(self.corpus, self.near_pairs)
        for source in self.read.held_out:
            check_held_out(self.corpus, source)
        examples = self.train_examples
        if not isinstance(examples, Rows):
            return
        n_used = examples.plan.n_used
        if n_used < examples.length:
            raise SettingsError(
                f'the split train has {n_used:,} tokens, which do not fill one row of data.max_len, {examples.length}; '
                f'give it more text, or set data.max_len to {n_used} or less'
            )

    def check_epochs(self, end: Place | None) -> None:
        """Raise ValueError if a run goes through a source more often than it may.

        Args:
            end: Where the run ends; None: only a clock ends it.
        """
        caps = self.read.max_source_epochs
        if caps is None:
            return
        if end is None:
            raise SettingsError(
                'data.max_source_epochs is set, but nothing but trainer.max_time ends the run: how often it goes '
                'through a source is not known; set trainer.max_steps too, or leave data.max_source_epochs out'
            )
        passes = self.passes
        n_rows = end.pass_index * passes.n_rows(0) + end.row
        n_all = len(self.train_examples)
        epochs = passes.mixture.epochs(n_rows) if isinstance(passes, Mixed) else [n_rows / n_all] * len(self.sources)
        for source, asked, cap in zip(self.sources, epochs, caps):
            if asked > cap + 1e-9:
                raise SettingsError(
                    f'this run would go {asked:.2f} times through {source}, but data.max_source_epochs allows {cap:g}; '
                    f'set trainer.max_steps to {cap / asked:.1%} of what it is, give the source a smaller share in '
                    'data.weights, or allow more'
                )

    def document_name(self, document: int) -> str:
        """A document's name for people, by the number that a batch has for it."""
        return self.corpus.name(document)

    def describe(self) -> dict[str, Any]:
        """Plain values that say which documents there are."""
        return {
            'sources': [[str(source), store.fingerprint] for source, store in zip(self.sources, self.corpus.stores)],
            'n_documents': [len(store) for store in self.corpus.stores],
        }
