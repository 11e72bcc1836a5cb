"""The format of texts that know where they come from: rows of next tokens behind and among metadata."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from xlabml.data.corpus import Corpus
from xlabml.data.rows import Concat, Epochs, Passes, Reading, RowFormat, open_plan
from xlabml.data.rows.plans import Chunk
from xlabml.data.sources import Source
from xlabml.errors import SettingsError
from xlabml.metadata import GlobalType, MetadataType, Preprocessor, Schema
from xlabml.plain import Plain

from .composition import Form, Keep
from .index import make_index, values_of, verify_index
from .records import METADATA, ConditionedRecords
from .rows import ConditionedRows, DrawnPasses
from .sampling import Independent, Sampling, document_draws, uses_metadata
from .view import ConditionedView, Counted

MAX_VALUES = 100
"""A type with more different values in training has none that a model is asked to choose among."""


_COUNTED_DOCUMENTS = 16_384  # as bigscience has it


class Conditioned(RowFormat):
    """Rows of whole texts with metadata before, inside or behind them; the tokens of the text are to be predicted.

    What each document keeps is drawn anew in every pass: a share of them has none, so that the model works without.
    Evaluations keep all. A plan must not cut where no prefix is: with `every_window` it is `Pack`, or `Chunk` without
    overlap.
    Sources: bigscience's metadata, https://github.com/bigscience-workshop/metadata; CTRL, Keskar et al. 2019,
    https://arxiv.org/abs/1909.05858; MeCo, Gao et al. 2025, https://arxiv.org/abs/2501.01956 (the cooldown).

    Args:
        types: Which metadata there is, in the order in which it stands before a text.
        schema: How records hold it: a column for each type (`columns`), a list of items with their keys in the column
            metadata (`v1`), or a list of items for each type in a column metadata_… (`v2`).
        keep_ratio: The share of the documents that have metadata in a pass of training.
        sampling: Which types these keep.
        every_window: Whether each window of a long document has the prefix; else the first one.
        separator: Stands between two entries of a prefix.
        end: Stands behind the last one.
        cooldown_ratio: The share of a run, at its end, that is trained without any metadata.
        choices: The values that training has seen of each type of few values, by key: what `--rank-meta` chooses among.
            null: those of the train split.
        preprocessors: Make columns of records, or their text, one after the other, in prepare_data; with `columns`.
    """

    columns = (METADATA,)
    unused: ClassVar[tuple[str, ...]] = ('batch_groups', 'stream', 'weights')
    from_data: ClassVar[tuple[str, ...]] = ('choices',)

    def __init__(
        self,
        types: list[MetadataType],
        schema: Schema = 'columns',
        keep_ratio: float = 0.5,
        sampling: Callable[[], Sampling] = Independent,
        every_window: bool = True,
        separator: str = ' | ',
        end: str = ' ||| ',
        cooldown_ratio: float = 0.0,
        choices: dict[str, list[str]] | None = None,
        preprocessors: list[Preprocessor] | None = None,
    ) -> None:
        if not types:
            raise SettingsError('data.examples.types is empty; name at least one type, such as Title')
        twice = [key for key, n in Counter((kind.key, kind.is_local) for kind in types).items() if n > 1]
        if twice:
            raise SettingsError(f'data.examples.types has {twice[0][0]} twice; list each type once')
        for name, ratio in (('keep_ratio', keep_ratio), ('cooldown_ratio', cooldown_ratio)):
            if not 0 <= ratio <= 1:
                raise SettingsError(f'data.examples.{name} is {ratio}; give a share from 0 to 1')
        if preprocessors and schema != 'columns':
            raise SettingsError(
                f'data.examples.preprocessors make columns, but data.examples.schema is {schema}; set it to columns'
            )
        self.types = types
        self.preprocessors = preprocessors or []
        self.schema: Schema = schema
        self.keep_ratio = keep_ratio
        self.sampling = sampling()
        self.every_window = every_window
        self.separator = separator
        self.end = end
        self.cooldown_ratio = cooldown_ratio
        self.choices = choices
        self.sampling.check(self.keys)

    @property
    def keys(self) -> list[str]:
        """The names of the types."""
        return [kind.key for kind in self.types]

    @property
    def form(self) -> Form:
        """How metadata stands in a sequence."""
        return Form(self.types, self.separator, self.end, self.every_window)

    def settings(self) -> dict[str, Any]:
        return {
            'class': type(self).__name__,
            'types': [{**kind.settings(), 'trainable': kind.is_target} for kind in self.types],
            'schema': self.schema,
            'keep_ratio': self.keep_ratio,
            'sampling': self._sampling_settings(),
            'every_window': self.every_window,
            'separator': self.separator,
            'end': self.end,
            'cooldown_ratio': self.cooldown_ratio,
            **({'preprocessors': [one.settings() for one in self.preprocessors]} if self.preprocessors else {}),
        }

    def _sampling_settings(self) -> dict[str, Any]:
        given = {name: value for name, value in vars(self.sampling).items() if value is not False}
        return {'class': type(self.sampling).__name__, **given}

    def source(self, source: Source) -> Source:
        return ConditionedRecords(source, self.types, self.schema, self.preprocessors)

    def facts(self, corpus: Corpus) -> dict[str, Plain]:
        """The values of each type of a whole text that has few, in training."""
        found: dict[str, set[str]] = {kind.key: set() for kind in self.types if isinstance(kind, GlobalType)}
        is_train = np.zeros(len(corpus), bool)
        is_train[corpus.documents('train')] = True
        for document, values in enumerate(values_of(corpus)):
            if is_train[document]:
                for key in found.keys() & values.keys():
                    found[key].add(values[key])
                    if len(found[key]) > MAX_VALUES:  # no more are kept of it, so that memory does not grow
                        del found[key]
        return {'choices': {key: sorted(found[key]) for key in self.keys if len(found.get(key, ())) > 1}}

    def view(self, corpus: Corpus, stage: str, pass_index: int, reading: Reading) -> ConditionedView:
        if stage != 'train':
            return self.fixed_view(corpus, reading, self.keys)
        sampling = self.sampling.of_shares(partial(self._shares, corpus, reading), self.keys)
        draws = Draws(corpus, self.keep_ratio, sampling, self.keys, reading.seed, pass_index)
        drawn = {'keep_ratio': self.keep_ratio, 'sampling': self._sampling_settings()}
        return self._view(corpus, reading, draws, {**drawn, 'seed': reading.seed, 'pass': pass_index}, 'trained')

    def _shares(self, corpus: Corpus, reading: Reading) -> Float64[np.ndarray, ' k']:
        """Of the documents of training, how many have each type."""
        documents = corpus.documents('train')
        every = -(-len(documents) // _COUNTED_DOCUMENTS)
        return self.fixed_view(corpus, reading, self.keys).present(documents[::every]).mean(0)

    def fixed_view(
        self,
        corpus: Corpus,
        reading: Reading,
        keys: list[str],
        counted: Counted = 'text',
        donors: Int64[np.ndarray, ' documents'] | None = None,
    ) -> ConditionedView:
        """Documents that keep the types of some names, wherever they have them.

        Args:
            corpus: The documents.
            reading: The tokenizer and the length of a row.
            keys: The names; []: none, and documents are as without metadata.
            counted: Which tokens are targets.
            donors: Documents whose prefix others get, by number; None: each has its own.
        """
        # What comes behind a text tells nothing about it, and is no part of an evaluation of texts.
        is_kept = [kind.key in keys and (counted == 'all' or not getattr(kind, 'after', False)) for kind in self.types]
        keep = Fixed(tuple(is_kept))
        identity: dict[str, Any] = {'kept': is_kept}
        if donors is not None:
            identity['donors'] = 'shuffled'
        return self._view(corpus, reading, keep, identity, counted, donors)

    def _view(
        self,
        corpus: Corpus,
        reading: Reading,
        keep: Keep,
        identity: dict[str, Any],
        counted: Counted,
        donors: Int64[np.ndarray, ' documents'] | None = None,
    ) -> ConditionedView:
        self._check_plan(reading)
        index = make_index(corpus, reading.tokenizer, reading.folder)
        length = reading.plan.length
        return ConditionedView(
            corpus, reading.tokenizer, index, self.form, length, keep, identity, counted, donors=donors
        )

    def _check_plan(self, reading: Reading) -> None:
        plan = reading.plan
        overlaps = isinstance(plan, Chunk) and plan.stride_tokens != plan.length
        if self.every_window and (isinstance(plan, Concat) or overlaps):
            how = 'Chunk with stride_tokens' if overlaps else 'Concat'
            raise SettingsError(
                f'data.plan is {how}, whose windows do not begin where a prefix could stand; choose Pack, or set '
                'data.examples.every_window to false'
            )

    def examples(self, corpus: Corpus, split: str, stage: str, pass_index: int, reading: Reading) -> ConditionedRows:
        return self.rows(self.view(corpus, stage, pass_index, reading), corpus, split, stage, reading)

    def verify(self, corpus: Corpus, reading: Reading) -> list[str] | None:
        index = verify_index(corpus, reading.folder)
        if index is None:
            return None
        return [f'metadata: {index.folder} is as it was written ({len(index.types):,} items)']

    def rows(self, view: ConditionedView, corpus: Corpus, split: str, stage: str, reading: Reading) -> ConditionedRows:
        """The rows of a split by a view of its documents."""
        plan = open_plan(reading.plan, corpus, split, stage != 'train', reading.folder, view=view)
        return ConditionedRows(corpus, plan, reading.tokenizer, view, view.blank(), split)

    def arrange(self, passes: Passes, reading: Reading) -> Passes:
        if type(passes) is not Epochs:
            raise SettingsError(
                'data.weights cannot be used with data.examples Conditioned, whose rows are laid out anew in each '
                'pass; leave it out'
            )
        first = passes.examples
        assert isinstance(first, ConditionedRows)
        make = partial(self._rows_of_pass, first.corpus, reading)
        return DrawnPasses(make, reading.seed, self.cooldown_ratio, self.settings())

    def _rows_of_pass(self, corpus: Corpus, reading: Reading, pass_index: int) -> ConditionedRows:
        return self.examples(corpus, 'train', 'train', pass_index, reading)


class Draws(NamedTuple):
    """What documents keep in a pass of training.

    Args:
        corpus: The documents.
        keep_ratio: The share of them that has metadata.
        sampling: Which types these keep.
        keys: The names of the types.
        seed: The seed of the data.
        pass_index: The pass.
    """

    corpus: Corpus
    keep_ratio: float
    sampling: Sampling
    keys: list[str]
    seed: int
    pass_index: int

    def __call__(self, documents: Int64[np.ndarray, ' d'], present: Bool[np.ndarray, 'd k']) -> Bool[np.ndarray, 'd k']:
        draws = document_draws(self.corpus.words(documents), self.seed, self.pass_index)
        is_used = uses_metadata(draws, self.keep_ratio)
        return self.sampling.draw(draws, present, self.keys) & is_used[:, None]


class Fixed(NamedTuple):
    """The same types of all documents.

    Args:
        is_kept: Of each type.
    """

    is_kept: tuple[bool, ...]

    def __call__(self, documents: Int64[np.ndarray, ' d'], present: Bool[np.ndarray, 'd k']) -> Bool[np.ndarray, 'd k']:
        return present & np.array(self.is_kept)


def shuffle_documents(documents: Int64[np.ndarray, ' d'], n: int, seed: int) -> Int64[np.ndarray, ' n']:
    """For each document of a corpus the one whose prefix it gets: another of the same split.

    Args:
        documents: Those of the split.
        n: All documents.
        seed: Of the drawing.
    """
    donors = np.arange(n)
    order = np.random.default_rng(seed).permutation(len(documents))
    donors[documents[order]] = documents[np.roll(order, 1)]
    return donors
