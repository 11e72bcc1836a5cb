"""The same documents several times, each time with other metadata: what an evaluation compares."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import Batch
from xlabml.data.corpus import Corpus
from xlabml.data.rows import Examples, Reading, Rows, join_batches
from xlabml.errors import SettingsError
from xlabml.metadata import GlobalType

from .formats import MAX_VALUES, Conditioned, shuffle_documents
from .index import value_of
from .view import ConditionedView

WITHOUT = 'without'
"""The name of the documents without metadata."""

ALL = 'all'
"""The name of those with all that they have."""

SHUFFLED = 'shuffled'
"""The name of those with the prefix of another document."""

TOGETHER = 'together'
"""The name of those with all, whose metadata is counted as well."""

_MOST_COUNTED = 1 << 16  # documents of training by which values are counted


class Variants(Examples):
    """Rows of several views of the same documents, side by side: a share of the rows has about that share of each view.

    Document d of the i-th view has the number i * n_documents + d in a batch.

    Args:
        views: By name.
        corpus: The documents.
        documents: Those that are evaluated.
        reading: The tokenizer, and how rows are laid out.
    """

    def __init__(
        self,
        views: Mapping[str, ConditionedView],
        corpus: Corpus,
        documents: Int64[np.ndarray, ' documents'],
        reading: Reading,
    ) -> None:
        self.names = list(views)
        self.n_documents = len(corpus)
        self._rows = []
        for view in views.values():
            n_tokens = view.lengths(documents, reading.plan.length) - 1  # a plan adds the end of text
            plan = reading.plan.build(n_tokens, documents, counted_once=True)
            self._rows.append(Rows(corpus, plan, reading.tokenizer, view))
        sizes = [len(rows) for rows in self._rows]
        done = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes])
        order = np.argsort(done, kind='stable')
        self._view_of = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._row_of = np.concatenate([np.arange(n) for n in sizes])[order]

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def fingerprint(self) -> str:
        return short_hash([self.names, [rows.fingerprint for rows in self._rows]])

    @property
    def source_starts(self) -> list[int]:
        return [0, len(self)]

    @property
    def source_counted(self) -> list[int]:
        return [sum(rows.plan.n_counted for rows in self._rows)]

    def counts(
        self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']
    ) -> Float64[np.ndarray, ' e'] | Int64[np.ndarray, ' e']:
        found = np.zeros(len(numbers), np.int64)
        for i, here, own in self._by_view(numbers):
            found[here] = self._rows[i].counts(own, keys[here])
        return found

    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        made = []
        for i, here, own in self._by_view(numbers):
            batch = self._rows[i].batch(own, keys[here], n_counted, seed)
            documents = batch.documents.where(batch.documents < 0, batch.documents + i * self.n_documents)
            made.append(batch._replace(documents=documents))
        return join_batches(made)

    def name(self, document: int) -> str:
        i, document = divmod(document, self.n_documents)
        return f'{self._rows[i].name(document)} ({self.names[i]})'

    def render(self, number: int) -> list[tuple[str, str]]:
        return self._rows[self._view_of[number]].render(int(self._row_of[number]))

    def _by_view(
        self, numbers: Int64[np.ndarray, ' e']
    ) -> Iterator[tuple[int, Bool[np.ndarray, ' e'], Int64[np.ndarray, ' own']]]:
        """Of each view that some rows are of: its number, which they are, and their numbers in it."""
        view_of = self._view_of[numbers]  # padding, -1, is of the last row's
        for i in np.unique(view_of).tolist():
            here = view_of == i
            yield i, here, np.where(numbers >= 0, self._row_of[numbers], -1)[here]


def some_documents(corpus: Corpus, split: str, most: int | None) -> Int64[np.ndarray, ' documents']:
    """The documents of a split, or at most some of them, evenly spread."""
    documents = corpus.documents(split)
    if most is None or len(documents) <= most:
        return documents
    return documents[np.arange(most) * len(documents) // most]


def make_variants(
    form: Conditioned,
    corpus: Corpus,
    documents: Int64[np.ndarray, ' documents'],
    reading: Reading,
    sets: Sequence[Sequence[str]] = (),
    seed: int = 0,
) -> Variants:
    """Documents without metadata, with all, with each type alone; and two controls: with that of another document, and
    with their own counted as well.

    Args:
        form: The format that they are trained in.
        corpus: All documents.
        documents: Those to compare.
        reading: The tokenizer, and how rows are laid out.
        sets: Further types that are kept together.
        seed: Of which document's metadata each gets.

    Raises:
        SettingsError: A set names a type that does not stand before texts.
    """
    before = [kind.key for kind in form.types if not getattr(kind, 'after', False)]
    for key in (key for some in sets for key in some):
        if key not in before:
            raise SettingsError(
                f'MetadataBits.sets names {key!r}, which is none of the types of data.examples before or in a text '
                f'({", ".join(before)}); name some of these'
            )
    views = {
        WITHOUT: form.fixed_view(corpus, reading, []),
        ALL: form.fixed_view(corpus, reading, before),
        **{key: form.fixed_view(corpus, reading, [key]) for key in dict.fromkeys(before) if len(before) > 1},
        **{'+'.join(some): form.fixed_view(corpus, reading, list(some)) for some in sets},
        TOGETHER: form.fixed_view(corpus, reading, before, 'all'),
    }
    if len(documents) > 1:
        donors = shuffle_documents(documents, len(corpus), seed)
        views[SHUFFLED] = form.fixed_view(corpus, reading, before, donors=donors)
    return Variants(views, corpus, documents, reading)


class ValueChoice(NamedTuple):
    """Documents, each with every value of a type.

    Args:
        rows: The rows, a kind for each value.
        values: The values, in order.
        counts: How many documents of training have each.
        truth: The number of the value that each document of the corpus has, by its number.
    """

    rows: Variants
    values: list[str]
    counts: Int64[np.ndarray, ' k']
    truth: dict[int, int]


def make_value_choice(
    form: Conditioned, corpus: Corpus, key: str, documents: Int64[np.ndarray, ' documents'], reading: Reading
) -> ValueChoice:
    """Documents that have a type of few values, with each of them in place of their own, and nothing else before them.

    Args:
        form: The format that the model is trained in.
        corpus: All documents.
        key: The name of the type.
        documents: Those to ask; the ones without a value, or with one that training has not seen, are left out.
        reading: The tokenizer, and how rows are laid out.

    Raises:
        SettingsError: There is no such type before texts, or it has no or many values in training.
    """
    known = [kind.key for kind in form.types if isinstance(kind, GlobalType) and not kind.after]
    if key not in known:
        raise SettingsError(
            f'MetadataPosterior.key is {key!r}, which is none of the types of data.examples that stand before a text '
            f'({", ".join(known)}); name one of these'
        )
    counts: Counter[str] = Counter()
    donors: dict[str, int] = {}
    for document in some_documents(corpus, 'train', _MOST_COUNTED).tolist():
        value = value_of(corpus, document, key)
        if value is not None:
            counts[value] += 1
            donors.setdefault(value, document)
    if not 1 <= len(counts) <= MAX_VALUES:
        raise SettingsError(
            f'MetadataPosterior.key is {key!r}, of which documents of training have {len(counts):,} different values; '
            f'name a type of at most {MAX_VALUES}'
        )
    values = sorted(counts)
    number = {value: i for i, value in enumerate(values)}
    having = {document: value_of(corpus, document, key) or '' for document in documents.tolist()}
    truth = {document: number[value] for document, value in having.items() if value in number}
    if not truth:
        raise SettingsError(
            f'none of the {len(documents)} documents that MetadataPosterior would read has a {key} that training has '
            'seen; give it more in val_documents, or name another type'
        )
    views = {
        value: form.fixed_view(corpus, reading, [key], donors=np.broadcast_to(donors[value], len(corpus)))
        for value in values
    }
    rows = Variants(views, corpus, np.array(list(truth), np.int64), reading)
    return ValueChoice(rows, values, np.array([counts[value] for value in values]), truth)
