"""The same documents several times, each time with other metadata: what an evaluation compares."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import Batch
from xlabml.data.corpus import Corpus
from xlabml.data.rows import Examples, Reading, Rows, join_batches

from .formats import Conditioned, shuffle_documents
from .view import ConditionedView

WITHOUT = 'without'
"""The name of the documents without metadata."""

ALL = 'all'
"""The name of those with all that they have."""

SHUFFLED = 'shuffled'
"""The name of those with the prefix of another document."""

TOGETHER = 'together'
"""The name of those with all, whose metadata is counted as well."""


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


def make_variants(
    form: Conditioned, corpus: Corpus, split: str, reading: Reading, most: int | None = None, seed: int = 0
) -> Variants:
    """The documents of a split without metadata, with all, with each type alone; and two controls: with that of another
    document, and with their own counted as well.

    Args:
        form: The format that they are trained in.
        corpus: The documents.
        split: Whose documents.
        reading: The tokenizer, and how rows are laid out.
        most: No more documents than these, evenly spread; None: all.
        seed: Of which document's metadata each gets.
    """
    documents = corpus.documents(split)
    if most is not None and len(documents) > most:
        documents = documents[np.arange(most) * len(documents) // most]
    before = [kind.key for kind in form.types if not getattr(kind, 'after', False)]
    views = {
        WITHOUT: form.fixed_view(corpus, reading, []),
        ALL: form.fixed_view(corpus, reading, before),
        **{key: form.fixed_view(corpus, reading, [key]) for key in dict.fromkeys(before) if len(before) > 1},
        TOGETHER: form.fixed_view(corpus, reading, before, 'all'),
    }
    if len(documents) > 1:
        donors = shuffle_documents(documents, len(corpus), seed)
        views[SHUFFLED] = form.fixed_view(corpus, reading, before, donors=donors)
    return Variants(views, corpus, documents, reading)
