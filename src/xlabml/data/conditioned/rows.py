"""Rows of documents with metadata, and their passes: each draws anew what is kept, and has a plan of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import Batch
from xlabml.data.corpus import Corpus
from xlabml.data.order import Place, permute
from xlabml.data.rows import Part, Passes, PlanRows, Rows
from xlabml.errors import SettingsError
from xlabml.tokenizer import Tokenizer

from .view import ConditionedView

_MEASURED_DOCUMENTS = 1 << 16
"""Of how many documents realised rates are measured, at the most."""

_BLOCK_DOCUMENTS = 1 << 14
_KEPT_PASSES = 2


class ConditionedRows(Rows):
    """The rows of a split whose documents have metadata.

    Numbers from len(self) on are the same rows once more, without any metadata: its slots are empty.

    Args:
        corpus: Holds the tokens.
        plan: The pieces in each row.
        tokenizer: The one that the stores were made with.
        view: The token sequences.
        blank: The same without metadata.
        split: Whose documents they are.
    """

    view: ConditionedView

    def __init__(
        self,
        corpus: Corpus,
        plan: PlanRows,
        tokenizer: Tokenizer,
        view: ConditionedView,
        blank: ConditionedView,
        split: str,
    ) -> None:
        super().__init__(corpus, plan, tokenizer, view)
        self._split = split
        self._blank = Rows(corpus, plan, tokenizer, blank)

    @property
    def documents(self) -> Int64[np.ndarray, ' documents']:
        """Those of the split: found anew each time, since several passes are open and none needs them to be read."""
        return self.corpus.documents(self._split)

    def source_of(self, numbers: Int64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        return super().source_of(numbers % len(self))

    def counts(self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        is_blank = numbers >= len(self)
        if not is_blank.any():
            return super().counts(numbers, keys)
        found = super().counts(np.where(is_blank, -1, numbers), keys)
        return found + self._blank.counts(np.where(is_blank, numbers - len(self), -1), keys)

    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        is_blank = numbers >= len(self)
        if not is_blank.any():
            return super().batch(numbers, keys, n_counted, seed)
        # A step is either before the cooldown or in it, so that no batch has rows of both kinds.
        assert (is_blank | (numbers < 0)).all()
        return self._blank.batch(np.where(is_blank, numbers - len(self), -1), keys, n_counted, seed)

    def measure(self) -> dict[str, float]:
        """The share of the documents that have each type in this pass, of those where it is present, and of those that
        have any: `metadata/title`, and `metadata/any`; from at most 65,536 documents."""
        documents = self.documents
        some = documents[:: max(1, len(documents) // _MEASURED_DOCUMENTS)]
        n_types = len(self.view.form.types)
        n_present = np.zeros(n_types, np.int64)
        n_kept = np.zeros(n_types, np.int64)
        n_any = 0
        for start in range(0, len(some), _BLOCK_DOCUMENTS):
            block = some[start : start + _BLOCK_DOCUMENTS]
            kept = self.view.kept(block)
            n_present += self.view.present(block).sum(0)
            n_kept += kept.sum(0)
            n_any += int(kept.any(1).sum())
        found = {'metadata/any': n_any / max(1, len(some))}
        for kind, kept_here, present in zip(self.view.form.types, n_kept.tolist(), n_present.tolist()):
            found[f'metadata/{kind.key}'] = kept_here / max(1, present)
        return found

    def describe(self) -> list[str]:
        """How often each type is there, kept and cut, and what was left out of the records, for people."""
        rates = self.measure()
        documents = self.documents
        some = documents[:: max(1, len(documents) // _BLOCK_DOCUMENTS)]
        present = self.view.present(some).mean(0).tolist()
        lines = [f'{len(documents):,} documents, {rates["metadata/any"]:.1%} with metadata']
        for kind, share in zip(self.view.form.types, present):
            lines.append(f'  {kind.key}: {share:.1%} have it, of these {rates[f"metadata/{kind.key}"]:.1%} keep it')
        if n_cut := self.view.n_cut(some):
            lines.append(f'  {n_cut:,} of {len(some):,} have more than half a window of metadata, which is cut')
        for reason, seen in self.view.index.lost.items():
            rows = ', '.join(seen['rows'])
            lines.append(f'  {reason}: {seen["count"]:,} items left out (rows {rows} …)')
        return lines

    def render(self, number: int) -> list[tuple[str, str]]:
        return [(name, ''.join(part.text for part in parts)) for name, parts in self.paint(number)]

    def paint(self, number: int) -> list[tuple[str, list[Part]]]:
        """The documents of a row, each its name and its targets, parted by what they are."""
        found = []
        for _, document, begin, length in self.plan.pieces(number):
            where = [np.array([value], np.int64) for value in (document, begin, length)]
            roles = self.view.roles(where[0], where[1], where[2])
            inputs, targets, _ = self.view.read(where[0], where[1], where[2], np.zeros(1, np.uint64))
            said = np.append(inputs[1:], targets[-1])  # what stands at each slot's target, counted or not
            is_text = said >= 0
            kinds = np.stack([roles != -1, targets >= 0], 1)
            starts = np.flatnonzero(np.append(True, (kinds[1:] != kinds[:-1]).any(1)))
            parts = []
            for start, end in zip(starts.tolist(), [*starts[1:].tolist(), length]):
                ids = said[start:end][is_text[start:end]].tolist()
                parts.append(Part(self.tokenizer.decode(ids), bool(kinds[start, 0]), bool(kinds[start, 1])))
            found.append((self.corpus.name(document), parts))
        return found


class DrawnPasses(Passes):
    """Epochs, each with rows of its own, since what their documents keep is drawn anew.

    Args:
        make: Makes the rows of a pass.
        seed: The seed of the orders.
        cooldown_ratio: The share of the run at its end whose rows have no metadata.
        settings: Plain values that the rows of all passes follow from.
    """

    def __init__(
        self,
        make: Callable[[int], ConditionedRows],
        seed: int,
        cooldown_ratio: float,
        settings: Mapping[str, Any],
    ) -> None:
        self._make = make
        self.seed = seed
        self.cooldown_ratio = cooldown_ratio
        self._settings = dict(settings)
        self._rows: dict[int, ConditionedRows] = {}
        self._sizes: dict[int, int] = {}
        self._cooldown_step: int | None = None

    @property
    def fingerprint(self) -> str:
        return short_hash([self.open(0).fingerprint, self._settings, self.seed])

    def n_rows(self, pass_index: int) -> int:
        if pass_index not in self._sizes:
            self.open(pass_index)
        return self._sizes[pass_index]

    def open(self, pass_index: int) -> ConditionedRows:
        if pass_index not in self._rows:
            made = self._make(pass_index)
            while len(self._rows) >= _KEPT_PASSES:
                self._rows.pop(next(iter(self._rows)))
            self._rows[pass_index] = made
            self._sizes[pass_index] = len(made)
        return self._rows[pass_index]

    def order(self, pass_index: int, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        return permute(places, self.n_rows(pass_index), self.seed, pass_index)

    def at_steps(
        self, pass_index: int, numbers: Int64[np.ndarray, ' rows'], steps: Int64[np.ndarray, ' rows']
    ) -> Int64[np.ndarray, ' rows']:
        if self._cooldown_step is None:
            return numbers
        return np.where(steps >= self._cooldown_step, numbers + self.n_rows(pass_index), numbers)

    def end_at(self, n_steps: int | None) -> None:
        if not self.cooldown_ratio:
            return
        if n_steps is None:
            raise SettingsError(
                'data.examples.cooldown_ratio is a share of the run, but nothing but trainer.max_time ends it; set '
                'trainer.max_steps too, or leave cooldown_ratio out'
            )
        self._cooldown_step = n_steps - round(n_steps * self.cooldown_ratio)

    def figures(self, pass_index: int) -> dict[str, float]:
        return self.open(pass_index).measure()

    def name(self, document: int) -> str:
        return self.open(0).name(document)

    def epochs(self, end: Place) -> Sequence[float | None]:
        n_sources = len(self.open(0).source_starts) - 1
        return [end.pass_index + end.row / self.n_rows(end.pass_index)] * n_sources

    def memory(self, place: Place) -> dict[str, Any]:
        return {'pass_rows': [self.n_rows(number) for number in range(place.pass_index)]}

    def recall(self, state: Mapping[str, object]) -> None:
        rows = state.get('pass_rows')
        if isinstance(rows, list) and all(type(n) is int and n > 0 for n in rows):
            self._sizes = {**dict(enumerate(rows)), **self._sizes}
