"""Sizes that begin small and double, stage by stage: pure functions of the step, sums included."""

from bisect import bisect_right
from itertools import pairwise


class Doubling:
    """A whole number that begins at start and has doubled to full by a step, after stages of as many steps each.

    Stage i of k is the steps steps * i // k to steps * (i + 1) // k - 1: so many rows a step, or slots a document's
    part may have, come in few sizes, and where a step stands in the data is found in constant time.

    Args:
        start: What it is at step 0: full over a power of two.
        full: What it is from the step `steps` on.
        steps: At least one for each time that it doubles; meaningless where start is full.
    """

    def __init__(self, start: int, full: int, steps: int = 0) -> None:
        n_doublings = count_doublings(start, full)
        assert n_doublings is not None, f'{full} is not {start} doubled'
        assert steps >= n_doublings, f'{n_doublings} stages need as many steps, not {steps}'
        self.start = start
        self.full = full
        self._begins = [steps * i // max(1, n_doublings) for i in range(n_doublings + 1)]

    def __call__(self, step: int) -> int:
        """What it is at a step."""
        return self.start << bisect_right(self._begins, step) - 1

    def before(self, step: int) -> int:
        """The sum over all steps before this one."""
        stages = pairwise([*self._begins, max(step, self._begins[-1])])
        return sum((min(step, end) - begin << i) * self.start for i, (begin, end) in enumerate(stages) if begin < step)

    def reach(self, total: int) -> int:
        """The first step before which the sum is at least so much."""
        for i, (begin, end) in enumerate(pairwise(self._begins)):
            size = self.start << i
            if total <= size * (end - begin):
                return begin + -(-total // size)
            total -= size * (end - begin)
        return self._begins[-1] + -(-total // self.full)


def count_doublings(start: int, full: int) -> int | None:
    """How often start has to be doubled to be full; None: it never is."""
    ratio, rest = divmod(full, start)
    return ratio.bit_length() - 1 if not rest and ratio and not ratio & (ratio - 1) else None
