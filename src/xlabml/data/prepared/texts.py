"""The token stores and the examples of a data module: in the cache, made there where they are not yet."""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from xlabml import paths
from xlabml.data.corpus import (
    Corpus,
    NearPairs,
    check_held_out,
    check_near_duplicates,
    open_copies,
    open_near_duplicates,
    open_splits,
    small_splits,
    train_texts,
)
from xlabml.data.order import Mixture
from xlabml.data.rows import Epochs, Examples, Mixed, Passes, Reading, Rows
from xlabml.data.store import Engine, TerminalProgress, TokenStore, prepare_store, store_folder
from xlabml.errors import SettingsError
from xlabml.tokenizer import Tokenizer

from .choices import ExampleChoice, ReadChoice, TokenizerChoice
from .tokenizer_file import TokenizerFile


class Texts:
    """The texts of some sources as examples; building it opens nothing.

    Attributes:
        tokenizer_file: The tokenizer, and how it comes to be.
        near_pairs: The near-duplicates that `prepare` found; None where it did not look for them.

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
        self.examples, self.plan, self.seed, self._n_groups, self._device_tokens, self._n_rows = examples
        self.near_pairs: NearPairs | None = None
        self.tokenizer_file = TokenizerFile(tokenizer, self._tokenizer_identity, self._tokenizer_texts)
        self._tokenizer_choice = tokenizer
        self._corpus: Corpus | None = None
        self._examples: dict[tuple[str, bool], Examples] = {}

    # The tokenizer

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file: the checkpoint's, the one that is named, or the one in the cache."""
        return self.tokenizer_file.path

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; its file must exist, and have data.n_vocab tokens."""
        return self.tokenizer_file.tokenizer

    def _tokenizer_identity(self) -> list[object]:
        """Plain values that a tokenizer trained here depends on."""
        times = [file.stat().st_mtime_ns for source in self.sources for file in source.files()]
        known = [source.fingerprint() for source in self.sources]
        own = self.splitting.settings()
        choice = self._tokenizer_choice
        found = [known, times, self.splitting.ratios, choice.n_vocab, choice.coverage]
        return [*found, *([own] if own else []), *(['fold_text'] if choice.fold_text else [])]

    def _tokenizer_texts(self) -> Iterable[str]:
        return train_texts(self.sources, self.splitting)

    # Stores and rows

    def prepare(self, engine: Engine | None = None) -> None:
        """Train the tokenizer and build the stores, where they are not there yet; whoever comes second waits.

        Args:
            engine: What tokenizes; None: processes of this machine.
        """
        if self._corpus is not None:
            return
        self.say_passed_over(self._once(TerminalProgress().say))
        self.tokenizer_file.ensure()
        folders = self._store_folders()
        for i, (source, folder) in enumerate(zip(self.sources, folders)):
            if not folder.exists():
                source.parts(
                    self.columns_of(i)
                )  # what is wrong with the last source is said before the first is tokenized
        with TerminalProgress() as report:
            stores = [
                prepare_store(
                    source,
                    self.tokenizer,
                    folder,
                    self.columns_of(i),
                    report=report,
                    say=report.say,
                    n_processes=self.n_processes,
                    engine=engine,
                )
                for i, (source, folder) in enumerate(zip(self.sources, folders))
            ]
            copies = open_copies(stores, self.copies_folder) if self.drop_duplicates else None
            near = self.near_duplicates
            if near is not None:
                found = paths.near_duplicates()
                self.near_pairs = open_near_duplicates(stores, near, copies, found, report)
        dropped = self.near_pairs if near is not None and near.action == 'drop' else None
        if self.splitting.is_plain:
            drawn = small_splits(stores, self.splitting.ratios)
        else:
            drawn = open_splits(stores, self.splitting, self.splits_folder)
        self._corpus = Corpus(stores, self.splitting.ratios, copies, dropped, drawn)

    def say_passed_over(self, say: Callable[[str], None]) -> None:
        """Say of each source what lies there and is not read."""
        for source in self.sources:
            if passed_over := source.passed_over():
                say(f'{source}: {passed_over}')

    def _store_folders(self) -> list[Path]:
        return [
            store_folder(paths.stores(), source, self.tokenizer, self.columns_of(i))
            for i, source in enumerate(self.sources)
        ]

    def columns_of(self, source: int) -> list[str]:
        """The columns of a source, by its number, that are kept beside its texts."""
        return sorted({*self.splitting.columns, *self.examples.columns_of(source)})

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
        folders = self._store_folders()
        return [TokenStore.open(folder) for folder in folders if folder.exists()]

    @property
    def copies_folder(self) -> Path:
        return paths.copies()

    @property
    def splits_folder(self) -> Path:
        return paths.splits()

    def corpus_stores(self) -> list[TokenStore]:
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
        sizes = (self._n_groups, self._device_tokens, self._n_rows)
        return Reading(self.tokenizer, self.plan, paths.plans(), self.seed, *sizes)

    # Training

    @cached_property
    def passes(self) -> Passes:
        """What is trained on: epochs of the train split, or periods of a mixture."""
        examples = self.open_examples('train', 'train')
        weights = self.read.weights
        passes: Passes = Epochs(examples, self.seed)
        if weights is not None:
            mixture = Mixture(examples.source_starts, examples.source_counted, weights)
            passes = Mixed(examples, self.seed, mixture)
        return self.examples.arrange(passes, self.reading())

    @property
    def train_examples(self) -> Examples:
        """The part of what is trained on that is known before a run."""
        return self.open_examples('train', 'train')

    @property
    def n_epoch_rows(self) -> int:
        """How many rows one data epoch has: those of all sources that are used."""
        counts = np.diff(self.train_examples.source_starts).tolist()
        n_all = sum(n for i, n in enumerate(counts) if self.read.weights is None or self.read.weights[i])
        unit = self.passes.unit
        return max(1, n_all // unit) * unit

    def settings(self) -> dict[str, object]:
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

    def _order_settings(self) -> dict[str, object]:
        sizes = {} if self._n_groups is None else {'data.batch_groups': self._n_groups}
        if self._n_rows is not None:
            sizes['data.batch_tokens'] = self._n_rows * self.plan.length
        return {'data.weights': self.read.weights, 'seed_everything': self.seed, **sizes}

    def trained_on(self) -> dict[str, object]:
        """Plain values that the sequence of training examples follows from, as a checkpoint holds them."""
        return {'rows': self.passes.fingerprint, 'data': {**self.describe(), 'settings': self.settings()}}

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

    def document_name(self, document: int) -> str:
        """A document's name for people, by the number that a batch has for it."""
        return self.corpus.name(document)

    def column(self, name: str, documents: Int64[np.ndarray, ' documents']) -> dict[int, object]:
        """What stands in a column of some documents, by their numbers; the sources are read once more for it.

        Raises:
            SettingsError: A document has nothing there.
        """
        found: dict[int, object] = {}
        corpus = self.corpus
        for source, store, first, here in zip(
            self.sources, corpus.stores, corpus.first_documents.tolist(), corpus.by_store(documents)
        ):
            number_of = dict(zip(store.rows[here - first].tolist(), here.tolist()))
            for document in source.documents([name]) if number_of else ():
                if document.row in number_of:
                    value = document.columns[name]
                    if value is None:
                        raise SettingsError(f'{source}, row {document.row}, has nothing in the column {name!r}')
                    found[number_of[document.row]] = value
        return found

    def describe(self) -> dict[str, object]:
        """Plain values that say which documents there are."""
        return {
            'sources': [[str(source), store.fingerprint] for source, store in zip(self.sources, self.corpus.stores)],
            'n_documents': [len(store) for store in self.corpus.stores],
        }
