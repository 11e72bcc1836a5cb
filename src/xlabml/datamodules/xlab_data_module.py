"""The data module: sources in, batches out, in an order that depends on nothing but a seed and a count."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader, Dataset

from xlabml.batches import Batch
from xlabml.data import (
    Engine,
    EvalBatches,
    Format,
    Location,
    NearDuplicates,
    NextTokens,
    Pack,
    Plan,
    Source,
    Splitting,
    Stream,
    WikipediaLeads,
    loader,
)
from xlabml.data.prepared import ExampleChoice, ReadChoice, StreamedTexts, Texts, TokenizerChoice, check_epochs
from xlabml.engine import set_max_steps
from xlabml.tokenizer import Tokenizer

from .addresses import announce_addresses
from .arguments import check_arguments, check_fold, require_number, require_shares
from .run_batches import RunBatches
from .run_length import GroupSize, Loading, MixedSize, StepSize, set_run_length
from .saved_data import SavedData
from .starts import leave_out

_ENDLESS = 1 << 48
"""Steps of a run that only a clock ends."""

DEFAULT_SPLITS = {'train': 0.9, 'val': 0.05, 'test': 0.05, 'predict': 0.0}


class XLabDataModule(SavedData):
    """Text from anywhere, as batches of rows whose order depends on nothing but a seed and a count.

    Building one opens no source; `prepare_data` fills the cache (tokenizer, token stores), `setup` opens it.

    Args:
        sources: Where the texts come from; None: the English Wikipedia leads of the extra `demo`.
        weights: The share of the training tokens that comes from each source (they need not sum to 1); None: what it
            holds. The epochs of `trainer.max_epochs` are then as many rows as the sources of a weight above 0 have. In
            a stream each source with a weight has windows of its own, and the number of targets in its rows is
            estimated from the shards that are evaluated on; for a source without one, from those of all others.
        max_source_epochs: How often each source may be read in a run, at most; None: any number of times. In a stream,
            which needs weights for it, that is known once all shards of a source were read; `.inf` sets no limit.
        splits: Which share of the documents is for train, val, test and predict: a document's own hash decides, so
            that no other document moves it. What is missing keeps its default. `auto`, as a share or for all of them:
            val and test get 5 %, but no more tokens than a validation has use for, and train the rest.
        group: A column whose value decides in place of the content, so that documents with the same value are never in
            two splits: an author, a prompt, a file. Values are compared as text. None: documents are divided one by
            one.
        stratify: A column within each of whose values the shares hold, rounded: of the documents (with data.group: of
            the groups) of a class, those with the smallest hashes are in train, the next ones in val, and so on. A
            document that is added can move one of its class from each split into the next. None: over all documents.
        fold: One of several folds, [i, n], i from 0: the i-th of n parts of the documents (with data.group: of the
            groups; with data.stratify: of each class) is test, and the others are train and val in the proportion that
            these have in data.splits. Each document is tested in one of the n. None: data.splits decides. `fit --folds
            n` trains all.
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
            vocabulary, and five spare ones; data.n_vocab is larger by their number then.
        n_vocab: How many tokens the tokenizer has, special ones included; `auto`: as many as the texts are enough for.
        coverage: Share of the characters that the tokenizer has tokens for, from 0.98 to 1; the rest is spelt in bytes.
        fold_text: Whether a tokenizer that is trained here reads texts as a search engine does: lower case, one form of
            each letter (NFKC), any white space as one space, a space before the first word. Texts do not come back as
            they were from its tokens, so it is nothing for a model that generates.
        max_len: Length of a row, in tokens.
        plan: How documents become rows; it gets the length.
        examples: What an example is: rows of whole texts for next-token prediction, or another format.
        batch_tokens: Slots that one optimizer step sees, over all devices; `auto`: as many as give the run some
            thousand steps.
        batch_groups: Groups that one optimizer step sees, over all devices, where the examples are groups of texts.
        device_batch_tokens: Slots that one device holds at a time; None: its whole share of a step. Rows are
            accumulated to batch_tokens. The texts of groups are embedded in chunks of it, and compared with those of
            the whole step all the same (gradient caching).
        predict_split: The split that `predict` scores.
        n_processes: Processes that tokenize the sources; None: one a core.
        num_workers: Processes that make batches; 0: the training process itself.
        pin_memory: Whether batches for a GPU are made in pinned memory; a copy from any other may wait until the GPU
            has done all that it was given.
        stream: For a corpus that does not fit the disk: shards of the sources (files, mostly) are fetched and tokenized
            into a bounded cache during training, and dropped again. None: all sources are tokenized first.
            Exact copies are then dropped within a window only, and documents of held_out are left out. With weights,
            a window has shards of one source, and one of each source is read at a time.
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
        splits: dict[str, float | Literal['auto']] | Literal['auto'] | None = None,
        group: str | None = None,
        stratify: str | None = None,
        fold: list[int] | None = None,
        drop_duplicates: bool = True,
        near_duplicates: NearDuplicates | None = None,
        held_out: list[Location | Source] | None = None,
        tokenizer_path: str | None = None,
        special_tokens: dict[str, str] | None = None,
        append_special_tokens: bool = False,
        n_vocab: int | Literal['auto'] = 8192,
        coverage: float = 0.9995,
        fold_text: bool = False,
        max_len: int = 512,
        plan: Callable[[int], Plan] = Pack,
        examples: Callable[[], Format] = NextTokens,
        batch_tokens: int | Literal['auto'] = 1024,
        batch_groups: int = 64,
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
        n_vocab = require_number('n_vocab', n_vocab)
        batch_tokens = require_number('batch_tokens', batch_tokens)
        given = {name: value for name, value in locals().items() if name not in ('self', '__class__')}
        super().__init__()
        self.sources: Sequence[Source] = sources if sources is not None else [WikipediaLeads()]
        if stream is None and sum(source.only is None for source in self.sources) == 1:  # beside a file for val, too
            self.sources = [source.alone() if source.only is None else source for source in self.sources]
        self.examples = examples()
        self.n_vocab = n_vocab
        self.max_len = max_len
        self.seed = seed
        self.skip = skip or []
        self.skip_rows = skip_rows or []
        self.predict_split = predict_split
        self.stream = stream
        self.coverage = coverage
        self.fold_text = fold_text
        self.drop_duplicates = drop_duplicates
        self.batch_tokens = batch_tokens
        self.batch_groups = batch_groups
        self.near_duplicates = near_duplicates
        self.accept_changes = accept_changes
        only = tuple(source.only for source in self.sources)
        in_order = tuple(source.in_order and stream is None for source in self.sources)
        ratios = {**DEFAULT_SPLITS, **require_shares(splits)}
        if fold is not None:
            ratios = check_fold(fold, ratios, self.sources, stream is not None, group is None and stratify is None)
        part = None if fold is None else (fold[0], fold[1])
        splitting = Splitting(ratios, group, stratify, only, in_order, part)
        settled = {
            'sources': self.sources,
            'splits': splitting.ratios,
            'examples': self.examples,
            'special_tokens': special_tokens or {},
            'held_out': held_out or [],
            'skip': self.skip,
            'skip_rows': self.skip_rows,
        }
        check_arguments({**given, **settled}, XLabDataModule)
        self._loading = Loading(num_workers, pin_memory)
        self._size: StepSize | GroupSize | MixedSize = StepSize(max_len, batch_tokens, device_batch_tokens)
        of_examples = ExampleChoice(self.examples, plan(max_len), seed)
        if self.examples.sized_by == 'groups':
            self._size = GroupSize(batch_groups)
            of_examples = of_examples._replace(n_groups=batch_groups, device_tokens=device_batch_tokens)
        if self.examples.sized_by == 'steps':
            kinds = {form.sized_by for form in self.examples.parts}
            self._size = MixedSize(max_len, batch_tokens, batch_groups, ('tokens' in kinds, 'groups' in kinds))
            n_rows = batch_tokens // max_len if 'tokens' in kinds else None
            n_groups = batch_groups if 'groups' in kinds else None
            of_examples = of_examples._replace(n_groups=n_groups, device_tokens=device_batch_tokens, n_rows=n_rows)
        found = self.examples.sources(self.sources)
        held = [self.examples.source(source) for source in held_out or []]
        read = ReadChoice(found, weights, max_source_epochs, splitting, drop_duplicates, near_duplicates, held)
        of_tokenizer = TokenizerChoice(
            tokenizer_path, special_tokens or {}, append_special_tokens, n_vocab, coverage, fold_text
        )
        texts = (read, of_tokenizer, of_examples, n_processes, rank_zero_only)
        self.texts = Texts(*texts) if stream is None else StreamedTexts(stream, *texts)
        self._asked_length: tuple[int, int | None] | None = None

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file: the checkpoint's, the one that is named, or the one in the cache."""
        return self.texts.tokenizer_path

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; its file must exist, and have data.n_vocab tokens."""
        return self.texts.tokenizer

    def document_id(self, document: int) -> str:
        """A document's name for people: its source, where there are several, and its row there."""
        return self.texts.document_name(document)

    # Lightning's hooks

    def prepare_data(self, engine: Engine | None = None) -> None:
        """Train the tokenizer and build the token stores, where they are not there yet.

        Whoever comes second waits at a lock file. Safe to call again: it opens what is ready.

        Args:
            engine: What tokenizes; None: data.n_processes processes of this machine.
        """
        if self.named_by is not None:
            announce_addresses((*self.sources, *self.texts.read.held_out), self.named_by)
            self.named_by = None
        self.texts.prepare(engine)

    def setup(self, stage: str) -> None:
        self.prepare_data()
        if stage == 'fit':
            self.texts.check_training()
            trainer = self.trainer
            if trainer is None:  # its loaders are used by themselves: one epoch
                return
            self._asked_length = trainer.max_steps, trainer.max_epochs
            set_run_length(trainer, self._step_size.accumulation, self.run_steps(*self._asked_length))

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        super().load_state_dict(state_dict)
        trainer = self.trainer
        if self._asked_length is not None and trainer is not None and trainer.state.fn == 'fit':
            set_max_steps(trainer, self.run_steps(*self._asked_length))

    def train_dataloader(self) -> DataLoader[Batch]:
        run = self._run
        self._start = leave_out(run.start, run.of_rank(), self.skip, self.skip_rows)
        batches = self._run.of_rank()
        if self.trainer is not None:
            end = self.trainer.max_steps if self.trainer.max_steps >= 0 else _ENDLESS
        else:
            end = _ENDLESS if self.stream is not None else self.run_steps(-1, 1)
        end = max(run.step, end)
        run.passes.end_at(None if end == _ENDLESS else end)
        if self.texts.read.max_source_epochs is not None:
            check_epochs(self.texts.read, run.passes, None if end == _ENDLESS else batches.place(end))
        per_step = run.size.accumulation
        return self._loader(batches, run.step * per_step, (end - run.step) * per_step)

    def val_dataloader(self) -> list[DataLoader[Batch]] | DataLoader[Batch]:
        return self._eval_loaders('val', 'val')

    def test_dataloader(self) -> list[DataLoader[Batch]] | DataLoader[Batch]:
        return self._eval_loaders('test', 'test')

    def predict_dataloader(self) -> list[DataLoader[Batch]] | DataLoader[Batch]:
        return self._eval_loaders(self.predict_split, 'predict')

    def _eval_loaders(self, split: str, stage: str) -> list[DataLoader[Batch]] | DataLoader[Batch]:
        """The loader of a split; where evaluators of the task bring examples of their own, one for each behind it."""
        examples = [self.texts.open_examples(split, stage)]
        if stage != 'predict':
            evaluators = getattr(getattr(self.trainer, 'lightning_module', None), 'evaluators', [])
            examples += [evaluator.examples(self) for evaluator in evaluators if evaluator.has_own_examples]
        loaders = []
        for some in examples:
            batches = EvalBatches(some, self._step_size.per_batch, self._rank, self._step_size.world, self.seed)
            loaders.append(self._loader(batches, 0, len(batches)))
        return loaders if len(loaders) > 1 else loaders[0]

    def _loader(self, batches: Dataset[Batch], start: int, total: int) -> DataLoader[Batch]:
        strategy = getattr(self.trainer, 'strategy', None)
        pins = self._loading.pin_memory and strategy is not None and strategy.root_device.type == 'cuda'
        return loader(batches, start, total, self._loading.num_workers, pins)

    # The run

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _step_size(self) -> StepSize | GroupSize | MixedSize:
        return self._size._replace(world=self.trainer.world_size if self.trainer else 1)

    @property
    def _run(self) -> RunBatches:
        step = self.trainer.global_step if self.trainer else 0
        return RunBatches(self.texts.passes, self._step_size, self.seed, self._rank, step, self._start)

    def run_steps(self, max_steps: int, max_epochs: int | None) -> int:
        """The length of a run in optimizer steps: whichever of steps and passes comes first; -1 is no end."""
        limits = [max_steps] if max_steps >= 0 else []
        if max_epochs is not None and max_epochs >= 0:
            n_examples = max_epochs * self.texts.n_epoch_rows
            limits.append(self._run._replace(start=self._find_start()).n_steps(n_examples))
        return min(limits, default=-1)

    def steps_per_epoch(self) -> float | None:
        """Optimizer steps that read all training examples once; None where no pass is over all of them: in a stream."""
        return None if self.stream is not None else self.texts.n_epoch_rows / self._step_size.per_step

    @property
    def examples_per_batch(self) -> int:
        """Rows or groups of a micro-batch of one device."""
        return self._step_size.per_batch

    def steps_of_tokens(self, n_tokens: int) -> int:
        """The number of optimizer steps that see n_tokens slots, the last one whole."""
        return self._step_size.steps_of_tokens(n_tokens)

    def source_shares(self, step: int, end: int) -> dict[str, float]:
        """What share of the targets of the steps from step to end - 1 each source has; {} where there is one source."""
        return {} if len(self.sources) == 1 else self._run.source_shares(step, end, self.sources)

    def pass_figures(self, step: int) -> dict[str, float]:
        """Where a step ends in the data, by name: epochs (of a stream they are not known), figures of its pass."""
        epochs = {} if self.stream is not None else self._run.epochs(step, self.sources)
        return epochs | self._run.pass_figures(step)

    def places_read(self, first: int, last: int) -> list[list[list[int]]]:
        """The rows that the steps first to last (counted from 1) read, as data.skip_rows names them."""
        return self._run.places_read(first, last)
