"""The order of several sets of groups in turn: a step of the first, one of the second …, and of the first again."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from xlabml.artifacts.hashes import short_hash
from xlabml.data.order import Place
from xlabml.data.rows import Examples, Passes

_STEPS = 1 << 16


class InTurn(Passes):
    """Passes of several sets, whose steps come in turn, whatever the sizes of the sets.

    The k-th step of a set has the k-th stretch of its own passes: nothing is drawn, and any step is found in constant
    time. A pass is about 65,536 steps, a multiple of the number of sets, so that the turns go on from pass to pass.

    Args:
        examples: Of all sets, one set after the other.
        starts: The number of the first group of each set among them.
        passes: Of each set, over its own groups, with the same number of groups a step.
    """

    def __init__(self, examples: Examples, starts: Sequence[int], passes: Sequence[Passes]) -> None:
        self.examples = examples
        self.starts = list(starts)
        self.passes = list(passes)
        self.unit = passes[0].unit
        self._n_steps = max(1, _STEPS // len(passes)) * len(passes)
        self.n_each = self._n_steps * self.unit

    @property
    def fingerprint(self) -> str:
        return short_hash(['in turn', *(passes.fingerprint for passes in self.passes)])

    def n_rows(self, pass_index: int) -> int:
        return self._n_steps * self.unit

    def open(self, pass_index: int) -> Examples:
        return self.examples

    def order(self, pass_index: int, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        steps, offsets = np.divmod(places, self.unit)
        turns, of_set = np.divmod(pass_index * self._n_steps + steps, len(self.passes))
        found = np.full(len(places), -1)
        for number, (start, passes) in enumerate(zip(self.starts, self.passes)):
            here = of_set == number
            own = passes.order_throughout(turns[here] * self.unit + offsets[here])
            found[here] = np.where(own >= 0, own + start, -1)
        return found

    def name(self, document: int) -> str:
        return self.examples.name(document)

    def epochs(self, end: Place) -> Sequence[float | None]:
        n_steps = end.pass_index * self._n_steps + end.row // self.unit
        n_sets = len(self.passes)
        found: list[float | None] = []
        for number, passes in enumerate(self.passes):
            n_turns = (n_steps + n_sets - 1 - number) // n_sets
            found.append(n_turns * self.unit / len(passes.open(0)))
        return found
