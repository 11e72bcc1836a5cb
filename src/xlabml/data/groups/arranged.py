"""The order of groups: that of the passes that they are drawn from, arranged into steps block by block."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from xlabml.artifacts.hashes import short_hash
from xlabml.data.order import Place
from xlabml.data.rows import Examples, Passes

from .batching import Batching, Known
from .groups import Groups

BLOCK_GROUPS = 16_384
"""About how many groups are arranged together."""

_KEPT_BLOCKS = 2


class Arranged(Passes):
    """Passes whose groups are arranged into steps.

    A pass has as many groups as fill its steps; those that are left over differ from pass to pass. Where there are
    fewer than a step has, the rest of its places is empty.

    Args:
        passes: What is drawn, pass after pass; each has `n_each` groups.
        batching: Arranges them.
        n_groups: Of an optimizer step, over all devices.
        block_groups: About how many are arranged together.
        known: What is known of the groups; None: the examples of the passes say it.
    """

    def __init__(
        self,
        passes: Passes,
        batching: Batching,
        n_groups: int,
        block_groups: int = BLOCK_GROUPS,
        known: Known | None = None,
    ) -> None:
        if known is None:
            examples = passes.open(0)
            assert isinstance(examples, Groups)
            known = examples
        self._known = known
        n_drawn = passes.n_rows(0)  # as many as every pass
        self.passes = passes
        self.batching = batching
        self.unit = n_groups
        self._n_drawn = n_drawn
        self._n_rows = max(1, n_drawn // n_groups) * n_groups
        self.n_each = self._n_rows
        self._block = max(1, block_groups // n_groups) * n_groups
        self._blocks: dict[tuple[int, int], Int64[np.ndarray, ' places']] = {}

    @property
    def fingerprint(self) -> str:
        return short_hash([self.passes.fingerprint, self.batching.settings(), self.unit])

    def n_rows(self, pass_index: int) -> int:
        return self._n_rows

    def open(self, pass_index: int) -> Examples:
        return self.passes.open(pass_index)

    def order(self, pass_index: int, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        found = np.empty(len(places), np.int64)
        blocks = places // self._block
        for block in np.unique(blocks).tolist():
            here = blocks == block
            found[here] = self._arrange(pass_index, block)[places[here] - block * self._block]
        return found

    def name(self, document: int) -> str:
        return self.passes.name(document)

    def epochs(self, end: Place) -> Sequence[float | None]:
        return self.passes.epochs(end)

    def _arrange(self, pass_index: int, block: int) -> Int64[np.ndarray, ' places']:
        """The groups at the places of a block."""
        key = pass_index, block
        if key not in self._blocks:
            start = block * self._block
            end = min(start + self._block, self._n_rows)
            # The last block chooses among those that are left over, too.
            last = self._n_drawn if end == self._n_rows else end
            numbers = self.passes.order(pass_index, np.arange(start, last))
            while len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)))
            n_batches = (end - start) // self.unit
            self._blocks[key] = self.batching.arrange(numbers, self.unit, n_batches, self._known)
        return self._blocks[key]
