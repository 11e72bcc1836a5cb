"""The examples of several formats, numbered so that the batches of a step are of one format."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import Batch, MaskedTargets, PairTargets, TokenTargets
from xlabml.data.corpus import Corpus
from xlabml.data.rows import Examples, Rows
from xlabml.errors import SettingsError

from .chunks import join_chunks

_EMPTY = -2
"""The number of an empty place of the first format; those of the others lie below."""


class Part(NamedTuple):
    """The examples of one format.

    Args:
        examples: Of a split.
        per_step: How many an optimizer step has, over all devices.
        shift: What is added to the number of a document, by the store that it is in; the stores begin at `first`.
        first: The first document of each store, by the numbers that the examples have for them.
        is_causal: Whether a target is the token after its input; of groups it is not read.
        first_set: The number of its first data set of groups.
    """

    examples: Examples
    per_step: int
    shift: Int64[np.ndarray, ' stores']
    first: Int64[np.ndarray, ' stores']
    is_causal: bool
    first_set: int


class MixedExamples(Examples):
    """The examples of several formats, one format after the other.

    Numbers come in blocks of `unit`, a step each. A format with n examples a step has them at the places i · unit / n
    of a block, rounded down, so that any number of devices that divides n gets equally many; the other places are
    empty.

    Args:
        corpus: All documents, whose numbers a batch has.
        parts: Of each format.
        unit: Places of a step: at least the examples of every format's step.
        chunk_rows: Rows that a device holds at a time; None: all of a batch.
    """

    def __init__(self, corpus: Corpus, parts: Sequence[Part], unit: int, chunk_rows: int | None = None) -> None:
        self.corpus = corpus
        self.parts = list(parts)
        self.unit = unit
        self._chunk_rows = chunk_rows
        self.n_steps = [-(-len(part.examples) // part.per_step) for part in parts]
        self._starts = np.cumsum([0, *self.n_steps]) * unit

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def fingerprint(self) -> str:
        return short_hash([[part.examples.fingerprint, part.per_step] for part in self.parts])

    @property
    def source_starts(self) -> list[int]:
        found: list[int] = []
        for number, part in enumerate(self.parts):
            inside = np.array(part.examples.source_starts[:-1])
            found += self.numbers_of(number, np.minimum(inside, len(part.examples))).tolist()
        return [*found, len(self)]

    @property
    def source_counted(self) -> list[int]:
        return [counted for part in self.parts for counted in part.examples.source_counted]

    def numbers_of(self, part: int, inside: Int64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        """The numbers of a format's own examples; -1, an empty place, becomes a negative one that says the format."""
        n = self.parts[part].per_step
        step, place = np.divmod(inside, n)
        return np.where(inside < 0, _EMPTY - part, self._starts[part] + step * self.unit + place * self.unit // n)

    def locate(self, numbers: Int64[np.ndarray, ' e']) -> tuple[Int64[np.ndarray, ' e'], Int64[np.ndarray, ' e']]:
        """The format of each number, and the number of the example there; -1 where the place is empty."""
        of_part = np.where(numbers > _EMPTY, np.searchsorted(self._starts, numbers, 'right') - 1, _EMPTY - numbers)
        of_part = np.clip(of_part, 0, len(self.parts) - 1)
        per_step = np.array([part.per_step for part in self.parts])[of_part]
        sizes = np.array([len(part.examples) for part in self.parts])[of_part]
        step, offset = np.divmod(numbers - self._starts[of_part], self.unit)
        place = -(-offset * per_step // self.unit)
        inside = step * per_step + place
        is_there = (numbers >= 0) & (place < per_step) & (place * self.unit // per_step == offset) & (inside < sizes)
        return of_part, np.where(is_there, inside, -1)

    def counts(self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        of_part, inside = self.locate(numbers)
        found = np.zeros(len(numbers), np.int64)
        for number in np.unique(of_part[inside >= 0]).tolist():
            here = (of_part == number) & (inside >= 0)
            found[here] = self.parts[number].examples.counts(inside[here], keys[here])
        return found

    def batch(
        self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e'], n_counted: float, seed: int = 0
    ) -> Batch:
        of_part, inside = self.locate(numbers)
        chosen = np.unique(of_part[inside >= 0])
        assert len(chosen) <= 1, 'a batch is of one format'
        # Also the places of a batch that is empty say their format, so that all ranks agree on it.
        number = int(chosen[0]) if len(chosen) else int(of_part[0])
        part = self.parts[number]
        is_there = inside >= 0
        # As many as a full batch of these places has, so that shapes do not change.
        n = max(1, len(numbers) * part.per_step // self.unit)
        batch = self._read(part, inside[is_there], keys[is_there], n, n_counted, seed)
        store = np.searchsorted(part.first, batch.documents.numpy(), 'right') - 1
        moved = batch.documents + batch.documents.new_tensor(part.shift[np.maximum(store, 0)])
        targets = batch.targets
        if isinstance(targets, TokenTargets) and not part.is_causal:
            targets = MaskedTargets(*targets)
        if isinstance(targets, PairTargets):
            targets = targets._replace(set=targets.set + part.first_set)
        return batch._replace(documents=moved.where(batch.documents >= 0, -1), targets=targets)

    def _read(
        self,
        part: Part,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n: int,
        n_counted: float,
        seed: int,
    ) -> Batch:
        if not isinstance(part.examples, Rows):
            return part.examples.batch(numbers, keys, n_counted, seed)
        size = n if self._chunk_rows is None else min(n, self._chunk_rows)
        n_padded = -(-n // size) * size
        numbers = np.append(numbers, np.full(n_padded - len(numbers), -1))
        keys = np.append(keys, np.zeros(n_padded - len(keys), np.uint64))
        chunks = [slice(first, first + size) for first in range(0, n_padded, size)]
        return join_chunks([part.examples.batch(numbers[some], keys[some], n_counted, seed) for some in chunks])

    def name(self, document: int) -> str:
        return self.corpus.name(document)

    def describe(self) -> list[str]:
        return [line for part in self.parts for line in part.examples.describe()]

    def render(self, number: int) -> list[tuple[str, str]]:
        """An example for people; of an empty place, the last one before it."""
        if not 0 <= number < len(self):
            raise SettingsError(f'there is no example {number}; they are 0 to {len(self) - 1}')
        before = np.arange(max(0, number - self.unit), number + 1)
        of_part, inside = self.locate(before)
        last = int(np.flatnonzero(inside >= 0)[-1])
        return self.parts[int(of_part[last])].examples.render(int(inside[last]))
