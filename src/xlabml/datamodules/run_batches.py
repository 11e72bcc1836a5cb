"""The batches of a run from where it begins, and what follows from them: places, shares of sources, steps."""

from collections.abc import Sequence
from typing import NamedTuple

from xlabml.data import BatchSequence, Passes, Source

from .run_length import GroupSize, MixedSize, StepSize
from .starts import Start


class RunBatches(NamedTuple):
    """What a run reads.

    Args:
        passes: The examples, pass after pass.
        size: How many a step sees, and how they are dealt out.
        seed: The seed of the batches' seeds, and of what examples draw.
        rank: Of this process.
        step: The optimizer steps made so far.
        start: Where the run begins.
    """

    passes: Passes
    size: StepSize | GroupSize | MixedSize
    seed: int
    rank: int
    step: int
    start: Start

    def of_rank(self) -> BatchSequence:
        """The batches of this rank."""
        return self._sequence(self.size.per_batch, self.rank, self.size.world)

    def of_all_ranks(self) -> BatchSequence:
        """The batches of all ranks together, a step each."""
        return self._sequence(self.size.per_step, 0, 1)

    def _sequence(self, per_batch: int, rank: int, world: int) -> BatchSequence:
        start = self.start
        return BatchSequence(
            self.passes,
            self.size.per_step,
            per_batch,
            self.seed,
            rank,
            world,
            start.step,
            start.place,
            start.stretches,
        )

    def stands_at(self) -> Start:
        """Where a run would begin that resumes now."""
        return self.start._replace(step=self.step, place=self.of_all_ranks().place(self.step))

    def n_steps(self, n_examples: int) -> int:
        """The number of optimizer steps of a run that ends after n_examples, the last step whole.

        Examples count where they were read: steps before a checkpoint may have been of another size.
        """
        return self.start.step + self.size.steps(max(0, n_examples - self.start.n_read(self.passes)))

    def source_shares(self, step: int, end: int, sources: Sequence[Source]) -> dict[str, float]:
        """What share of the targets of the steps from step to end - 1 each source has."""
        counts = self.of_all_ranks().source_targets(max(step, self.start.step), end, len(sources))
        return {f'{source}': count / sum(counts) for source, count in zip(sources, counts)}

    def pass_figures(self, step: int) -> dict[str, float]:
        """Figures of the examples of the pass in which a step ends, by name."""
        if type(self.passes).figures is Passes.figures:
            return {}
        return self.passes.figures(self.of_all_ranks().place(max(step, self.start.step)).pass_index)

    def epochs(self, step: int, sources: Sequence[Source]) -> dict[str, float]:
        """How often the sources were read before a step: `epochs`, or one figure for each where they differ."""
        found = self.passes.epochs(self.of_all_ranks().place(max(step, self.start.step)))
        if None not in found and len(set(found)) == 1:
            return {'epochs': float(found[0] or 0.0)}
        return {f'epochs/{source}': n for source, n in zip(sources, found) if n is not None}

    def places_read(self, first: int, last: int) -> list[list[list[int]]]:
        """The rows that the steps first to last (counted from 1) read, as data.skip_rows names them."""
        start, end = self.of_all_ranks().places_read(first - 1, last)
        return [[list(start), [end.pass_index, end.row - 1]]]
