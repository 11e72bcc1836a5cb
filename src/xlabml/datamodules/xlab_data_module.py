"""The data module: sources in, batches out, in an order that depends on nothing but a seed and a count."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader, Dataset

from xlabml.batches import Batch
from xlabml.data import (
    BatchSequence,
    Corpus,
    Engine,
    EvalBatches,
    Examples,
    Format,
    Location,
    NearDuplicates,
    NearPairs,
    NextTokens,
    Pack,
    Plan,
    Rows,
    Source,
    Splitting,
    Stream,
    TokenStore,
    WikipediaLeads,
    loader,
)
from xlabml.data.prepared import ExampleChoice, ReadChoice, StreamedTexts, Texts, TokenizerChoice
from xlabml.engine import set_max_steps
from xlabml.tokenizer import Tokenizer

from .arguments import check_arguments
from .run_length import Loading, StepSize, set_run_length
from .saved_data import SavedData
from .starts import Start, leave_out

_ENDLESS = 1 << 48
"""Steps of a run that only a clock ends."""

DEFAULT_SPLITS = {'train': 0.9, 'val': 0.05, 'test': 0.05, 'predict': 0.0}


class XLabDataModule(SavedData):
    """Text from anywhere, as batches of rows whose order depends on nothing but a seed and a count.

    Building one opens no source; `prepare_data` fills the cache (tokenizer, token stores), `setup` opens it.

    Args:
        sources: Where the texts come from; None: the English Wikipedia leads of the extra `demo`.
        weights: What share of the training tokens each source gives (they need not sum to 1); None: what it holds. The
            epochs of `trainer.max_epochs` are then as many rows as the sources of a weight above 0 have.
        max_source_epochs: How often each source may be gone through in a run, at most; None: any number of times.
        splits: Which share of the documents is for train, val, test and predict: a document's own hash decides, so
            that no other document moves it. What is missing keeps its default.
        group: A column whose value decides in place of the content, so that documents with the same value are never in
            two splits: an author, a prompt, a file. Values are compared as text. None: documents are divided one by
            one.
        stratify: A column within each of whose values the shares hold, rounded: of the documents (with data.group: of
            the groups) of a class, those with the smallest hashes are in train, the next ones in val, and so on. A
            document that is added can move one of its class from each split into the next. None: over all documents.
        drop_duplicates: Whether a document that is an exact copy of an earlier one, in any source, is left out.
        near_duplicates: Whether documents are looked for that are nearly those of others, and what follows; None: not.
        held_out: Texts that must not be trained on, a benchmark's test file for example: `fit` is refused where one of
            them is in the train split.
        tokenizer_path: The tokenizer: a SentencePiece model, the `tokenizer.json` of a Hugging Face model (extra `hf`)
            or the folder with either. Where there is no file, one of ours is trained on the train split and written
            there. None: in the cache, named by what it is trained on.
        special_tokens: Which token of a tokenizer from elsewhere is what (sos, put before a text; eos, behind it; pad,
            unk, mask, cls, sep), where that is not as its file says or its name tells: `{eos: "<|end|>"}`. Where it has
            none for sos or pad, eos takes the place.
        append_special_tokens: Whether the special tokens that a tokenizer from elsewhere lacks are put behind its
            vocabulary, and five spare ones; data.n_vocab is so much larger then.
        n_vocab: How many tokens the tokenizer has, special ones included.
        coverage: Share of the characters that the tokenizer knows as such, from 0.98 to 1; the rest is spelt in bytes.
        max_len: Length of a row, in tokens.
        plan: How documents become rows; it gets the length.
        examples: What an example is: rows of whole texts for next-token prediction, or another format.
        batch_tokens: Slots that one optimizer step sees, over all devices.
        device_batch_tokens: Slots that one device holds at a time; None: its whole share of batch_tokens.
        predict_split: The split that `predict` scores.
        n_processes: Processes that tokenize the sources; None: one a core.
        num_workers: Processes that make batches; 0: the training process itself.
        pin_memory: Whether batches for a GPU are made in pinned memory; a copy from any other may wait until the GPU
            has done all that it was given.
        stream: For a corpus that does not fit the disk: shards of the sources (files, mostly) are fetched and tokenized
            into a bounded cache during training, and dropped again. None: all sources are tokenized first.
            Exact copies are then dropped within a window only, and documents of held_out are left out.
        accept_changes: Whether a run resumes from a checkpoint although sources, splits, plan, weights or seed changed
            since, at the beginning of the new data. Not saved: each change is accepted once.
        skip: Steps, as pairs of the first and the last, whose rows are left out: what this run would have read there,
            counted from 1 as the curves are. Once left out, rows stay so for the rest of the run, however it resumes;
            the same pair again leaves out nothing more.
        skip_rows: Rows that are left out, as pairs of the first and the last place, each [pass, row]: row counts in the
            order of its pass, an epoch (of a mixture 65,536 rows, of a stream a window), both from 0. A run that ends
            early prints them. They mean the same rows from whichever checkpoint a run resumes.
        seed: What the order of the data, and the randomness of a step, are drawn from.
    """

    def __init__(
        self,
        sources: list[Location | Source] | None = None,
        weights: list[float] | None = None,
        max_source_epochs: list[float] | None = None,
        splits: dict[str, float] | None = None,
        group: str | None = None,
        stratify: str | None = None,
        drop_duplicates: bool = True,
        near_duplicates: NearDuplicates | None = None,
        held_out: list[Location | Source] | None = None,
        tokenizer_path: str | None = None,
        special_tokens: dict[str, str] | None = None,
        append_special_tokens: bool = False,
        n_vocab: int = 8192,
        coverage: float = 0.9995,
        max_len: int = 512,
        plan: Callable[[int], Plan] = Pack,
        examples: Callable[[], Format] = NextTokens,
        batch_tokens: int = 1024,
        device_batch_tokens: int | None = None,
        predict_split: str = 'test',
        n_processes: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = True,
        stream: Stream | None = None,
        accept_changes: bool = False,
        skip: list[list[int]] | None = None,
        skip_rows: list[list[list[int]]] | None = None,
        seed: int = 42,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ('self', '__class__')}
        super().__init__()
        self.sources: Sequence[Source] = sources if sources is not None else [WikipediaLeads()]
        self.examples = examples()
        self.n_vocab = n_vocab
        self.max_len = max_len
        self.seed = seed
        self.skip = skip or []
        self.skip_rows = skip_rows or []
        self.predict_split = predict_split
        self.stream = stream
        self.coverage = coverage
        self.drop_duplicates = drop_duplicates
        self.batch_tokens = batch_tokens
        self.near_duplicates = near_duplicates
        self.accept_changes = accept_changes
        splitting = Splitting(
            {**DEFAULT_SPLITS, **(splits or {})}, group, stratify, tuple(source.only for source in self.sources)
        )
        settled = {
            'sources': self.sources,
            'splits': splitting.ratios,
            'examples': self.examples,
            'special_tokens': special_tokens or {},
            'held_out': held_out or [],
            'skip': self.skip,
            'skip_rows': self.skip_rows,
        }
        check_arguments({**given, **settled}, _defaults())
        self._loading = Loading(num_workers, pin_memory)
        self._size = StepSize(
            max_len,
            batch_tokens,
            device_batch_tokens,
            1,
        )
        texts = (
            ReadChoice(
                self.sources,
                weights,
                max_source_epochs,
                splitting,
                drop_duplicates,
                near_duplicates,
                held_out or [],
            ),
            TokenizerChoice(tokenizer_path, special_tokens or {}, append_special_tokens, n_vocab, coverage),
            ExampleChoice(self.examples, plan(max_len), seed),
            n_processes,
            rank_zero_only,
        )
        self._texts = Texts(*texts) if stream is None else StreamedTexts(stream, *texts)
        self._asked_length: tuple[int, int | None] | None = None

    # What there is

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file: the checkpoint's, the one that was asked for, or the one in the cache."""
        return self._texts.tokenizer_path

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; it has to be there, and have data.n_vocab tokens."""
        return self._texts.tokenizer

    @property
    def corpus(self) -> Corpus:
        """The documents of all sources, from the stores that `prepare_data` made."""
        return self._texts.corpus

    @property
    def extent(self) -> str:
        """Which part of the sources the corpus is, for people; empty: all of them."""
        return self._texts.extent

    @property
    def columns(self) -> list[str]:
        """The columns of the sources that are kept beside their texts."""
        return self._texts.columns

    def stores(self) -> list[TokenStore]:
        """The token stores that are there already, of those that `prepare_data` makes."""
        return self._texts.stores()

    def verify(self) -> Iterator[str]:
        """Compare the stores and plans that are there already with their hashes; yields a line on each.

        Raises:
            ValueError: One of them is not as it was written; it is named, and what to do.
        """
        return self._texts.verify()

    @property
    def near_pairs(self) -> NearPairs | None:
        """The near-duplicates that `prepare_data` found; None where it did not look for them."""
        return self._texts.near_pairs

    def document_id(self, document: int) -> str:
        """A document's name for people: its source, where there are several, and its row there."""
        return self._texts.document_name(document)

    def rows(self, split: str, counted_once: bool = True) -> Rows:
        """The rows of a split.

        Args:
            counted_once: Where windows overlap, a target counts in the first one only: so it is when evaluating.
        """
        return self._texts.rows(split, counted_once)

    def open_examples(self, split: str, stage: str) -> Examples:
        """The examples of a split by `data.examples`, read as a stage reads them (train, val, test or predict)."""
        return self._texts.open_examples(split, stage)

    @property
    def train_rows(self) -> Examples:
        """What is trained on; of a stream, the part of it that stays."""
        return self._texts.train_examples

    # What Lightning calls

    def prepare_data(self, engine: Engine | None = None) -> None:
        """Train the tokenizer and build the token stores, where they are not there yet.

        Whoever comes second waits at a lock file. Safe to call again: it opens what is ready.

        Args:
            engine: What tokenizes; None: data.n_processes processes of this machine.
        """
        self.tell_addresses()
        self._texts.prepare(engine)

    def check_tokenizer(self) -> None:
        """Raise ValueError if the tokenizer that was asked for cannot be used, or is not as the settings say."""
        self._texts.check_tokenizer()

    def train_tokenizer(self) -> Path:
        """Train a tokenizer on the train split; it must not be there yet.

        Returns:
            Its path.
        """
        return self._texts.train_tokenizer()

    def setup(self, stage: str) -> None:
        self.prepare_data()
        if stage == 'fit':
            self._texts.check_training()
            trainer = self.trainer
            assert trainer is not None
            self._asked_length = trainer.max_steps, trainer.max_epochs
            set_run_length(trainer, self._accumulation(), self.run_steps(*self._asked_length))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        trainer = self.trainer
        if self._asked_length is not None and trainer is not None and trainer.state.fn == 'fit':
            set_max_steps(trainer, self.run_steps(*self._asked_length))

    def train_dataloader(self) -> DataLoader:
        step = self._step()
        end = max(step, self._max_steps())
        self._start = leave_out(self._start, self._sequence(), self.skip, self.skip_rows)
        batches = self._sequence()
        per_step = self._accumulation()
        if self._texts.read.max_source_epochs is not None:
            self._texts.check_epochs(None if end == _ENDLESS else batches.place(end))
        return self._loader(batches, step * per_step, (end - step) * per_step)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._eval_loaders('val')

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._eval_loaders('test')

    def predict_dataloader(self) -> DataLoader:
        return self._eval_loader(self._texts.open_examples(self.predict_split, 'predict'))

    def _eval_loaders(self, split: str) -> DataLoader | list[DataLoader]:
        """The loader of a split; where evaluators of the task bring examples of their own, one for each behind it."""
        of_split = self._eval_loader(self._texts.open_examples(split, split))
        task: Any = getattr(self.trainer, 'lightning_module', None)
        own = [one.examples(self) for one in getattr(task, 'evaluators', []) if one.has_own_examples]
        return [of_split, *map(self._eval_loader, own)] if own else of_split

    def _eval_loader(self, examples: Examples) -> DataLoader:
        n_rows = self._step_size().rows_per_batch
        rank = self._rank()
        world = self._world()
        batches = EvalBatches(examples, n_rows, rank, world, self.seed)
        return self._loader(batches, 0, len(batches))

    def _loader(self, batches: Dataset[Batch], start: int, total: int) -> DataLoader:
        strategy = getattr(self.trainer, 'strategy', None)
        pins = self._loading.pin_memory and strategy is not None and strategy.root_device.type == 'cuda'
        return loader(batches, start, total, self._loading.num_workers, pins)

    def _sequence(self) -> BatchSequence:
        """The batches of this rank, from where the run begins."""
        size = self._step_size()
        start = self._start
        return BatchSequence(
            self._texts.passes,
            size.rows,
            size.rows_per_batch,
            self.seed,
            self._rank(),
            size.world,
            start.step,
            start.place,
            start.stretches,
        )

    def _whole_sequence(self) -> BatchSequence:
        """The batches of all ranks together, a step each."""
        size = self._step_size()
        start = self._start
        return BatchSequence(
            self._texts.passes,
            size.rows,
            size.rows,
            self.seed,
            first_step=start.step,
            start=start.place,
            skipped=start.stretches,
        )

    def _stands_at(self) -> Start:
        return self._start._replace(step=self._step(), place=self._whole_sequence().place(self._step()))

    def source_shares(self, step: int, end: int) -> dict[str, float]:
        """What share of the targets of the steps from step to end - 1 each source has; {} where there is one source."""
        if len(self.sources) == 1:
            return {}
        counts = self._whole_sequence().source_targets(max(step, self._start.step), end, len(self.sources))
        return {f'{source}': count / sum(counts) for source, count in zip(self.sources, counts)}

    def places_read(self, first: int, last: int) -> list[list[list[int]]]:
        """The rows that the steps first to last (counted from 1) read, as data.skip_rows names them."""
        start, end = self._whole_sequence().places_read(first - 1, last)
        return [[list(start), [end.pass_index, end.row - 1]]]

    # The run's arithmetic

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _step(self) -> int:
        return self.trainer.global_step if self.trainer else 0

    def _step_size(self) -> StepSize:
        return self._size._replace(world=self._world())

    def _max_steps(self) -> int:
        if self.trainer is None:
            return _ENDLESS if isinstance(self._texts, StreamedTexts) else self.n_steps(1)
        return self.trainer.max_steps if self.trainer.max_steps >= 0 else _ENDLESS

    def _accumulation(self) -> int:
        return self._step_size().accumulation

    def n_steps(self, n_epochs: int) -> int:
        """How many optimizer steps a run has that goes so often through the training rows, the last one whole.

        Rows count where they were read: steps before a checkpoint may have been of another size, or of other data.
        """
        n_rows = n_epochs * self._texts.n_epoch_rows
        size = self._step_size()
        start = self._find_start()
        return start.step + size.steps(max(0, n_rows - start.n_read(self._texts.passes)))

    def steps_of_tokens(self, n_tokens: int) -> int:
        """The number of optimizer steps that see n_tokens slots, the last one whole."""
        return math.ceil(n_tokens / self.batch_tokens)

    def run_steps(self, max_steps: int, max_epochs: int | None) -> int:
        """The length of a run in optimizer steps: whichever of steps and passes comes first; -1 is no end."""
        limits = [max_steps] if max_steps >= 0 else []
        if max_epochs is not None and max_epochs >= 0:
            limits.append(self.n_steps(max_epochs))
        return min(limits, default=-1)


def _defaults() -> dict[str, Any]:
    parameters = inspect.signature(XLabDataModule.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items()}
