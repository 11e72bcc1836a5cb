"""The order of several formats: which of them a step is of, and which of its examples come then."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from xlabml.artifacts.hashes import short_hash
from xlabml.data.order import Interleaving, Place
from xlabml.data.rows import Passes

from .examples import MixedExamples


class StepMixture(Passes):
    """Passes of several formats; a pass is a period of 65,536 steps, in which every format has its share.

    The steps of a format are spread evenly, and its k-th step has the k-th stretch of its own passes, however often
    the others came between: nothing is drawn, and any step is found in constant time.

    Args:
        examples: Of all formats.
        passes: Of each format, over its own examples.
        weights: The share of the steps that each format has, once they are scaled to sum to 1.
        reads: The numbers of the sources that each format reads.
    """

    def __init__(
        self,
        examples: MixedExamples,
        passes: Sequence[Passes],
        weights: Sequence[float],
        reads: Sequence[Sequence[int]],
    ) -> None:
        self.examples = examples
        self.passes = list(passes)
        self.weights = list(weights)
        self.reads = [list(some) for some in reads]
        self.unit = examples.unit
        self._steps = Interleaving(np.array(weights, np.float64), weights)
        self.n_each = self._steps.period * self.unit

    @property
    def fingerprint(self) -> str:
        parts = [[some.fingerprint, part.per_step] for some, part in zip(self.passes, self.examples.parts)]
        return short_hash([parts, self.weights, self.unit])

    def n_rows(self, pass_index: int) -> int:
        return self.n_each or 0

    def open(self, pass_index: int) -> MixedExamples:
        return self.examples

    def sources(self, pass_index: int) -> list[int]:
        return [source for some in self.reads for source in some]

    def order(self, pass_index: int, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        steps, offset = np.divmod(places, self.unit)
        of_part = self._steps.sources(steps)
        found = np.full(len(places), -1)
        for number, part in enumerate(self.examples.parts):
            n = part.per_step
            place = -(-offset * n // self.unit)
            here = (of_part == number) & (place < n) & (place * self.unit // n == offset)
            nth = pass_index * self._steps.per_period[number] + self._steps.rank[steps[here]]  # of the format's steps
            own = self.passes[number].order_throughout(nth * n + place[here])
            found[here] = self.examples.numbers_of(number, own)
        return found

    def name(self, document: int) -> str:
        return self.examples.name(document)

    def epochs(self, end: Place) -> Sequence[float | None]:
        """How often each source is read: by the format that reads it most often."""
        steps = self._steps.taken(end.pass_index * self._steps.period + end.row // self.unit)
        found = [0.0] * (1 + max(max(some) for some in self.reads))
        for n_steps, part, some in zip(steps.tolist(), self.examples.parts, self.reads):
            for source in some:
                found[source] = max(found[source], n_steps * part.per_step / max(1, len(part.examples)))
        return found
