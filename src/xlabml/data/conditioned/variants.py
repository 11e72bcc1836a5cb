"""The same documents several times, each time with other metadata: what an evaluation compares."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64, UInt64

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
    """Rows of several views of the same documents, one after the other.

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
        self._starts = np.cumsum([0, *map(len, self._rows)])

    def __len__(self) -> int:
        return int(self._starts[-1])

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
        for first, end, rows in zip(self._starts, self._starts[1:], self._rows):
            is_here = (numbers >= first) & (numbers < end)
            found[is_here] = rows.counts(numbers[is_here] - first, keys[is_here])
        return found

    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        number_of = np.searchsorted(self._starts, numbers, 'right') - 1
        number_of[numbers < 0] = number_of.max(initial=0)  # padding goes with the last rows
        made = []
        for i in np.unique(np.maximum(number_of, 0)).tolist():
            here = np.maximum(number_of, 0) == i
            own = np.where(numbers[here] < 0, -1, numbers[here] - self._starts[i])
            batch = self._rows[i].batch(own, keys[here], n_counted, seed)
            documents = batch.documents.where(batch.documents < 0, batch.documents + i * self.n_documents)
            made.append(batch._replace(documents=documents))
        return join_batches(made)

    def name(self, document: int) -> str:
        i, document = divmod(document, self.n_documents)
        return f'{self._rows[i].name(document)} ({self.names[i]})'

    def render(self, number: int) -> list[tuple[str, str]]:
        i = int(np.searchsorted(self._starts, number, 'right')) - 1
        return self._rows[i].render(number - int(self._starts[i]))


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
