"""Sources -> tokenizer -> stores -> plans -> batches, and the arithmetic of a run's length."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from xlabml import checkpoints, settings
from xlabml.data import (
    Corpus,
    EvalBatches,
    Location,
    Mixture,
    Pack,
    Plan,
    Rows,
    Source,
    TerminalProgress,
    TokenStore,
    TrainBatches,
    WikipediaLeads,
    check_held_out,
    check_ratios,
    check_weights,
    loader,
    open_copies,
    open_plan,
    prepare_store,
    split_names,
    store_folder,
    train_texts,
)
from xlabml.tokenizer import Tokenizer, train_tokenizer

_ENDLESS = 1 << 48
"""Steps of a run that only a clock ends."""

DEFAULT_SPLITS = {'train': 0.9, 'val': 0.05, 'test': 0.05, 'predict': 0.0}


class XLabDataModule(L.LightningDataModule):
    """Text from anywhere, as batches of rows whose order depends on nothing but a seed and a count.

    Building one opens no source; `prepare_data` fills the cache (tokenizer, token stores), `setup` opens it.

    Args:
        sources: Where the texts come from; None: the English Wikipedia leads of the extra `demo`.
        weights: What share of the training tokens each source gives (they need not sum to 1); None: what it holds. The
            epochs of `trainer.max_epochs` are then as many rows as the sources of a weight above 0 have.
        max_source_epochs: How often each source may be gone through in a run, at most; None: any number of times.
        splits: Which share of the documents is for train, val, test and predict: a document's own hash decides, so
            that no other document moves it. What is missing keeps its default.
        drop_duplicates: Whether a document that is an exact copy of an earlier one, in any source, is left out.
        held_out: Texts that must not be trained on, a benchmark's test file for example: `fit` is refused where one of
            them is in the train split.
        tokenizer_path: A SentencePiece model; where there is no file, one is trained on the train split and written
            there. None: in the cache, named by what it is trained on.
        n_vocab: How many tokens the tokenizer has, special ones included.
        coverage: Share of the characters that the tokenizer knows as such; the rest is spelt in bytes.
        max_len: Length of a row, in tokens.
        plan: How documents become rows; it gets the length.
        batch_tokens: Slots that one optimizer step sees, over all devices.
        device_batch_tokens: Slots that one device holds at a time; None: its whole share of batch_tokens.
        predict_split: The split that `predict` scores.
        n_processes: Processes that tokenize the sources; None: one a core.
        num_workers: Processes that make batches; 0: the training process itself.
        pin_memory: Whether batches are made in memory that a GPU copies from faster.
        accept_changes: Whether a run goes on from a checkpoint although sources, splits, plan or weights changed since,
            at the beginning of the new data. Not saved: each change is accepted once.
        seed: What the order of the data, and the randomness of a step, are drawn from.
    """

    def __init__(
        self,
        sources: list[Location | Source] | None = None,
        weights: list[float] | None = None,
        max_source_epochs: list[float] | None = None,
        splits: dict[str, float] | None = None,
        drop_duplicates: bool = True,
        held_out: list[Location | Source] | None = None,
        tokenizer_path: str | None = None,
        n_vocab: int = 8192,
        coverage: float = 0.9995,
        max_len: int = 512,
        plan: Callable[[int], Plan] = Pack,
        batch_tokens: int = 1024,
        device_batch_tokens: int | None = None,
        predict_split: str = 'test',
        n_processes: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        accept_changes: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self._why_unsaveable = settings.keep_arguments(self)
        self.sources: Sequence[Source] = sources if sources is not None else [WikipediaLeads()]
        self.splits = {**DEFAULT_SPLITS, **(splits or {})}
        self.weights, self.max_source_epochs = weights, max_source_epochs
        self.n_vocab, self.coverage, self.max_len, self.seed = n_vocab, coverage, max_len, seed
        self.plan, self.batch_tokens, self.device_batch_tokens = plan, batch_tokens, device_batch_tokens
        self.predict_split, self.num_workers, self.pin_memory = predict_split, num_workers, pin_memory
        self.accept_changes = accept_changes
        self.held_out: Sequence[Source] = held_out or []
        self.drop_duplicates, self.n_processes = drop_duplicates, n_processes
        self.given_tokenizer_path = None if tokenizer_path is None else Path(tokenizer_path)
        self._saved_tokenizer_path: Path | None = None
        self._tokenizer: Tokenizer | None = None
        self._corpus: Corpus | None = None
        self._rows: dict[tuple[str, bool], Rows] = {}
        self._mixed: Mixture | None = None
        self._goes_on_from = {'step': 0, 'row': 0}
        self._check_arguments()

    def _check_arguments(self) -> None:
        if not self.sources:
            raise ValueError('data.sources is empty; name at least one source')
        check_ratios(self.splits)
        if self.weights is not None:
            check_weights(self.weights, len(self.sources))
        if self.max_source_epochs is not None and len(self.max_source_epochs) != len(self.sources):
            raise ValueError(
                f'data.max_source_epochs has {len(self.max_source_epochs)} numbers for {len(self.sources)} sources; '
                'give one for each'
            )
        for name in ('n_vocab', 'max_len', 'batch_tokens', 'device_batch_tokens', 'n_processes'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f'data.{name} is {value}; it must be at least 1')
        if not 0 < self.coverage <= 1:
            raise ValueError(f'data.coverage is {self.coverage}; it is a share, above 0 and at most 1')
        if self.seed < 0:
            raise ValueError(f'seed_everything is {self.seed}; it must be 0 or more')
        if self.num_workers < 0:
            raise ValueError(f'data.num_workers is {self.num_workers}; it must be 0 or more')
        if self.predict_split not in split_names:
            raise ValueError(f'data.predict_split is {self.predict_split!r}; the splits are {", ".join(split_names)}')
        for name in ('batch_tokens', 'device_batch_tokens'):
            value = getattr(self, name)
            if value is not None and value % self.max_len:
                raise ValueError(
                    f'data.{name} is {value}, no multiple of data.max_len, {self.max_len}; '
                    f'the nearest is {max(1, round(value / self.max_len)) * self.max_len}'
                )
        self.plan(self.max_len)  # its own arguments are checked as it is built

    # What there is

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file: the checkpoint's, the one that was asked for, or the one in the cache."""
        if self._saved_tokenizer_path is not None:
            return self._saved_tokenizer_path
        if self.given_tokenizer_path is not None:
            return self.given_tokenizer_path
        times = [file.stat().st_mtime_ns for source in self.sources for file in source.files()]
        what = [[source.fingerprint() for source in self.sources], times, self.splits, self.n_vocab, self.coverage]
        name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        return checkpoints.cache_folder() / 'tokenizers' / f'{self.n_vocab}-{name}.model'

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; it has to be there.

        Raises:
            ValueError: It has not data.n_vocab tokens.
        """
        if self._tokenizer is None:
            tokenizer = Tokenizer.load(self.tokenizer_path)
            if len(tokenizer) != self.n_vocab:
                raise ValueError(
                    f'tokenizer {self.tokenizer_path} has {len(tokenizer)} tokens, but data.n_vocab is {self.n_vocab}; '
                    f'set data.n_vocab to {len(tokenizer)}, or train a tokenizer of {self.n_vocab}'
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    @property
    def corpus(self) -> Corpus:
        """The documents of all sources, from the stores that `prepare_data` made."""
        if self._corpus is None:
            self.prepare_data()
        assert self._corpus is not None
        return self._corpus

    def stores(self) -> list[TokenStore]:
        """The token stores that are there already, of those that `prepare_data` makes.

        Raises:
            ValueError: One of them is not as it was written.
        """
        if not self.tokenizer_path.exists():
            return []
        cache = checkpoints.cache_folder() / 'stores'
        folders = [store_folder(cache, source, self.tokenizer) for source in self.sources]
        return [TokenStore.open(folder) for folder in folders if folder.exists()]

    def document_id(self, document: int) -> str:
        """A document's name for people: its source, where there are several, and its row there."""
        return self.corpus.name(document)

    def rows(self, split: str, counted_once: bool = True) -> Rows:
        """The rows of a split.

        Args:
            counted_once: Where windows overlap, a target counts in the first one only: so it is when evaluating.
        """
        key = split, counted_once
        if key not in self._rows:
            plan = open_plan(
                self.plan(self.max_len),
                self.corpus,
                split,
                counted_once=counted_once,
                folder=checkpoints.cache_folder() / 'plans',
            )
            self._rows[key] = Rows(self.corpus, plan, self.tokenizer)
        return self._rows[key]

    @property
    def train_rows(self) -> Rows:
        """The rows that are trained on."""
        return self.rows('train', counted_once=False)

    # What Lightning calls

    def prepare_data(self) -> None:
        """Train the tokenizer and build the token stores, where they are not there yet.

        Whoever comes second waits at a lock file. Safe to call again: it opens what is ready.
        """
        if self._corpus is not None:
            return
        if not self.tokenizer_path.exists():
            self.train_tokenizer()
        folder = checkpoints.cache_folder() / 'stores'
        for source in self.sources:
            if not store_folder(folder, source, self.tokenizer).exists():
                source.parts()  # what is wrong with the last source is said before the first is tokenized
        with TerminalProgress() as report:
            stores = [
                prepare_store(
                    source,
                    self.tokenizer,
                    store_folder(folder, source, self.tokenizer),
                    report=report,
                    say=report.say,
                    n_processes=self.n_processes,
                )
                for source in self.sources
            ]
            copies = open_copies(stores, checkpoints.cache_folder() / 'copies') if self.drop_duplicates else None
        self._corpus = Corpus(stores, self.splits, copies)

    def train_tokenizer(self) -> Path:
        """Train a tokenizer on the train split; it must not be there yet.

        Returns:
            Its path.
        """
        texts = train_texts(self.sources, self.splits)
        self._tokenizer = None
        self.tokenizer_path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer(texts, self.tokenizer_path, self.n_vocab, self.coverage)
        return self.tokenizer_path

    def setup(self, stage: str) -> None:
        self.prepare_data()
        if stage == 'fit':
            for source in self.held_out:
                check_held_out(self.corpus, source)
            self._check_size()
            self._set_run_length()

    def _check_size(self) -> None:
        n_used = self.train_rows.plan.n_used
        if n_used < self.max_len:
            raise ValueError(
                f'the split train has {n_used:,} tokens, which do not fill one row of data.max_len, {self.max_len}; '
                f'give it more text, or set data.max_len to {n_used} or less'
            )

    def train_dataloader(self) -> DataLoader:
        step, batches, per_step = self._step(), self._train_batches(), self._accumulation()
        n_steps = max(0, self._max_steps() - step)
        self._check_source_epochs(batches.row(step + n_steps))
        return loader(batches, step * per_step, n_steps * per_step, self.num_workers, self.pin_memory)

    def val_dataloader(self) -> DataLoader:
        return self._eval_loader('val')

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader('test')

    def predict_dataloader(self) -> DataLoader:
        return self._eval_loader(self.predict_split)

    def _eval_loader(self, split: str) -> DataLoader:
        batches = EvalBatches(self.rows(split), self._rows_per_batch(), self._rank(), self._world())
        return loader(batches, 0, len(batches), self.num_workers, self.pin_memory)

    def _train_batches(self) -> TrainBatches:
        return TrainBatches(
            self.train_rows,
            rows_per_step=self.batch_tokens // self.max_len,
            rows_per_batch=self._rows_per_batch(),
            rank=self._rank(),
            world=self._world(),
            seed=self.seed,
            first_step=self._goes_on_from['step'],
            first_row=self._goes_on_from['row'],
            mixture=self._mixture(),
        )

    # Several sources

    def source_shares(self, step: int, end: int) -> dict[str, float]:
        """What share of the targets of the steps from step to end - 1 each source gives; {} without weights."""
        if self.weights is None:
            return {}
        counts = self._train_batches().source_targets(max(step, self._goes_on_from['step']), end)
        return {f'{source}': count / sum(counts) for source, count in zip(self.sources, counts)}

    def _mixture(self) -> Mixture | None:
        if self._mixed is None and self.weights is not None:
            plan = self.train_rows.plan
            self._mixed = Mixture(plan.source_rows, plan.source_counted, self.weights)
        return self._mixed

    def _check_source_epochs(self, n_rows: int) -> None:
        """Raise ValueError if a run of so many rows goes through a source more often than it may."""
        if self.max_source_epochs is None:
            return
        plan, mixture = self.train_rows.plan, self._mixture()
        epochs = [n_rows / len(plan)] * len(self.sources) if mixture is None else mixture.epochs(n_rows)
        for source, asked, cap in zip(self.sources, epochs, self.max_source_epochs):
            if asked > cap + 1e-9:
                raise ValueError(
                    f'this run would go {asked:.2f} times through {source}, but data.max_source_epochs allows {cap:g}; '
                    f'set trainer.max_steps to {cap / asked:.1%} of what it is, give the source a smaller share in '
                    'data.weights, or allow more'
                )

    def _n_epoch_rows(self) -> int:
        """How many rows one data epoch has."""
        plan = self.train_rows.plan
        counts = np.diff(plan.source_rows).tolist()
        return sum(n for i, n in enumerate(counts) if self.weights is None or self.weights[i])

    # The run's arithmetic

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _step(self) -> int:
        return self.trainer.global_step if self.trainer else 0

    def _max_steps(self) -> int:
        if self.trainer is None:
            return self.n_steps(1)
        return self.trainer.max_steps if self.trainer.max_steps >= 0 else _ENDLESS

    def _rows_per_batch(self) -> int:
        share = self.batch_tokens // self.max_len // self._world()
        return max(1, share) if self.device_batch_tokens is None else self.device_batch_tokens // self.max_len

    def _accumulation(self) -> int:
        rows, per_round = self.batch_tokens // self.max_len, self._rows_per_batch() * self._world()
        if rows % per_round:
            raise ValueError(
                f'data.batch_tokens is {self.batch_tokens}, {rows} rows of {self.max_len}, which cannot be dealt to '
                f'{self._world()} device(s) in batches of {self._rows_per_batch()} rows; make it a multiple of '
                f'{per_round * self.max_len}, or set data.device_batch_tokens to a divisor'
            )
        return rows // per_round

    def n_steps(self, n_epochs: int) -> int:
        """How many optimizer steps so many passes over the training rows take, the last one begun and finished."""
        return math.ceil(n_epochs * self._n_epoch_rows() * self.max_len / self.batch_tokens)

    def run_steps(self, max_steps: int, max_epochs: int | None) -> int:
        """The length of a run in optimizer steps: whichever of steps and passes comes first; -1 is no end."""
        limits = [max_steps] if max_steps >= 0 else []
        if max_epochs is not None and max_epochs >= 0:
            limits.append(self.n_steps(max_epochs))
        return min(limits, default=-1)

    def _set_run_length(self) -> None:
        """Turn tokens into accumulation, and data epochs into steps."""
        trainer = self.trainer
        assert trainer is not None
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f'trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but accumulation follows from '
                'data.batch_tokens and data.device_batch_tokens; leave it out and set those'
            )
        for name, neutral in (('limit_train_batches', (None, 1.0)), ('overfit_batches', (0, 0.0))):
            value = getattr(trainer, name)
            if value not in neutral and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                raise ValueError(f'trainer.{name} is {value}; the length of a run is trainer.max_steps, set that')
        trainer.accumulate_grad_batches = self._accumulation()
        trainer.fit_loop.epoch_loop.max_steps = self.run_steps(trainer.max_steps, trainer.max_epochs)
        # One fit is one epoch of Lightning's; data epochs are the order's business.
        trainer.fit_loop.max_epochs = -1

    # What a checkpoint holds

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer's bytes, and where the data stands: free of rank, worker and micro-batch."""
        step, rows_per_step = self._step(), self.batch_tokens // self.max_len
        row = self._goes_on_from['row'] + (step - self._goes_on_from['step']) * rows_per_step
        return {
            'tokenizer': torch.frombuffer(bytearray(self.tokenizer.data), dtype=torch.uint8),
            'step': step,
            'row': row,
            'rows': self.train_rows.fingerprint,
            'data': self._what_is_trained_on(),
        }

    def _what_is_trained_on(self) -> dict[str, Any]:
        """Plain values that the sequence of training rows follows from, beside the seed."""
        return {
            'sources': [[str(source), store.fingerprint] for source, store in zip(self.sources, self.corpus.stores)],
            'n_documents': [len(store) for store in self.corpus.stores],
            'settings': {
                'data.splits': self.splits,
                'data.drop_duplicates': self.drop_duplicates,
                'data.max_len': self.max_len,
                'data.plan': self.plan(self.max_len).settings(),
                'data.weights': self.weights,
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint's tokenizer and, when a fit goes on, its place in the data.

        Raises:
            ValueError: The data is not what the checkpoint was trained on, and data.accept_changes is not set; what
                changed is named.
        """
        self.use_tokenizer(state_dict['tokenizer'].numpy().tobytes())
        if self.trainer is None or self.trainer.state.fn != 'fit':
            return
        changes = self._changes(state_dict)
        if changes and not self.accept_changes:
            raise ValueError(
                f'the data is not what the checkpoint was trained on: {"; ".join(changes)}. Restore it, or accept the '
                'change with --data.accept_changes=true: the run then goes on at the beginning of the new data'
            )
        self._goes_on_from = {'step': state_dict['step'], 'row': 0 if changes else state_dict['row']}

    def _changes(self, state_dict: dict[str, Any]) -> list[str]:
        """What the training rows follow from and is not as it was, for people."""
        then, now = state_dict['data'], self._what_is_trained_on()
        changes = [
            f'{name} was {value}, is {now["settings"][name]}'
            for name, value in then['settings'].items()
            if value != now['settings'][name]
        ]
        if len(then['sources']) != len(now['sources']):
            changes.append(
                f'data.sources was {", ".join(name for name, _ in then["sources"])}, '
                f'is {", ".join(name for name, _ in now["sources"])}'
            )
        else:
            for old, new, n_old, n_new in zip(then['sources'], now['sources'], then['n_documents'], now['n_documents']):
                if old[1] != new[1]:
                    what = f'the texts of {new[0]} changed' if old[0] == new[0] else f'{old[0]} became {new[0]}'
                    changes.append(f'{what} ({n_old:,} documents then, {n_new:,} now)')
        if not changes and state_dict['rows'] != self.train_rows.fingerprint:
            changes.append('this version of xlabml lays the rows out in another way')
        return changes

    def use_tokenizer(self, data: bytes) -> None:
        """Use the tokenizer that a checkpoint holds; a file in the cache, named by its hash, is written from it.

        Raises:
            ValueError: data.tokenizer_path is the file of another one.
        """
        given = self.given_tokenizer_path
        if given is not None and given.exists() and given.read_bytes() != data:
            raise ValueError(
                f'{given} is not the tokenizer that the checkpoint was trained with; point data.tokenizer_path to that '
                'one, or leave it out: the checkpoint has it inside'
            )
        path = checkpoints.unpack_tokenizer(data, checkpoints.cache_folder())
        if self._tokenizer is not None and self._tokenizer.data != data:
            raise ValueError(f'the data was prepared with {self.tokenizer_path}, but the checkpoint holds {path}')
        self._saved_tokenizer_path = path

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = 'cpu', **overrides: Any
    ) -> 'XLabDataModule':
        """Build the data module that a training checkpoint or an exported file was trained with. Opens no source.

        Args:
            checkpoint_path: Either kind of file.
            map_location: Where its tensors come to.
            overrides: Constructor arguments to use instead of the saved ones.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no checkpoint of ours.
        """
        checkpoint = checkpoints.read(checkpoint_path, map_location)
        values = dict(checkpoint.get('datamodule_hyper_parameters', {}))
        values.pop('_class_path', None)
        data = cls(**{**settings.build_arguments(cls, values), 'tokenizer_path': None, **overrides})
        data.use_tokenizer(checkpoints.tokenizer_bytes(checkpoint))
        return data
