"""The rows that a run is given: all there are, epoch after epoch, or a mixture of sources by weight."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from xlabml.data import Mixture, Rows, Source, TrainBatches, check_held_out
from xlabml.errors import SettingsError

from .run_length import StepSize
from .texts import Texts


class TrainingRows:
    """The train split of texts that lie in stores, as an endless sequence of rows.

    Args:
        texts: Where the rows come from.
        weights: What share of the training tokens each source gives; None: what it holds.
        max_source_epochs: How often each source may be gone through; None: any number of times.
        held_out: Sources none of whose documents may be trained on.
        max_len: Slots in a row.
        seed: What the order is drawn from.
    """

    start: Mapping[str, Any] = {'step': 0, 'row': 0, 'skipped': []}
    """Where a run begins. `skipped` are the steps that it leaves out: first and last as asked; of the endless sequence,
    the first place that is left out and the one after the last."""

    def __init__(
        self,
        texts: Texts,
        weights: Sequence[float] | None,
        max_source_epochs: Sequence[float] | None,
        held_out: Sequence[Source],
        max_len: int,
        seed: int,
    ) -> None:
        self.texts, self.weights, self.max_source_epochs = texts, weights, max_source_epochs
        self.held_out, self.max_len, self.seed = held_out, max_len, seed

    @property
    def rows(self) -> Rows:
        """The rows of one data epoch."""
        return self.texts.rows('train', counted_once=False)

    @property
    def n_epoch_rows(self) -> int:
        """How many rows one data epoch has: those of all sources that are used."""
        counts = np.diff(self.rows.plan.source_rows).tolist()
        return sum(n for i, n in enumerate(counts) if self.weights is None or self.weights[i])

    @cached_property
    def _mixture(self) -> Mixture | None:
        plan = self.rows.plan
        return None if self.weights is None else Mixture(plan.source_rows, plan.source_counted, self.weights)

    @property
    def fingerprint(self) -> str:
        """A short name for the rows of one data epoch."""
        return self.rows.fingerprint

    def settings(self) -> dict[str, Any]:
        """Plain values that the sequence follows from, by the names that the user knows."""
        return {'data.weights': self.weights, 'seed_everything': self.seed}

    def check(self) -> None:
        """Raise ValueError if a held-out document is trained on, or if there is less text than fills one row."""
        for source in self.held_out:
            check_held_out(self.texts.corpus, source)
        n_used = self.rows.plan.n_used
        if n_used < self.max_len:
            raise SettingsError(
                f'the split train has {n_used:,} tokens, which do not fill one row of data.max_len, {self.max_len}; '
                f'give it more text, or set data.max_len to {n_used} or less'
            )

    def check_epochs(self, size: StepSize, start: Mapping[str, Any], end: int | None) -> None:
        """Raise ValueError if a run goes through a source more often than it may.

        Args:
            end: How many steps the run has; None: only a clock ends it.
        """
        if self.max_source_epochs is None:
            return
        if end is None:
            raise SettingsError(
                'data.max_source_epochs is set, but nothing but trainer.max_time ends the run: how often it goes '
                'through a source is not known; set trainer.max_steps too, or leave data.max_source_epochs out'
            )
        batches = self.batches(size, 0, start)
        n_rows = int(batches.places(np.array([batches.row(end)]))[0])
        sources, mixture = self.texts.sources, self._mixture
        epochs = [n_rows / len(self.rows)] * len(sources) if mixture is None else mixture.epochs(n_rows)
        for source, asked, cap in zip(sources, epochs, self.max_source_epochs):
            if asked > cap + 1e-9:
                raise SettingsError(
                    f'this run would go {asked:.2f} times through {source}, but data.max_source_epochs allows {cap:g}; '
                    f'set trainer.max_steps to {cap / asked:.1%} of what it is, give the source a smaller share in '
                    'data.weights, or allow more'
                )

    def batches(self, size: StepSize, rank: int, start: Mapping[str, Any]) -> TrainBatches:
        """The micro-batches of a rank, from the place that a run goes on from."""
        return TrainBatches(
            self.rows,
            rows_per_step=size.rows_per_step,
            rows_per_batch=size.rows_per_batch,
            rank=rank,
            world=size.world,
            seed=self.seed,
            first_step=start['step'],
            first_row=start['row'],
            mixture=self._mixture,
            skipped=[(first, end) for _, _, first, end in start['skipped']],
            longest=size.longest,
        )

    def leave_out(self, asked: Sequence[list[int]], size: StepSize, start: Mapping[str, Any]) -> dict[str, Any]:
        """Where a run begins that leaves out the rows of these steps too; those it left out before stay as they are.

        Raises:
            ValueError: Such a step is trained already.
        """
        batches, step = self.batches(size, 0, start), start['step']
        skipped, known = [list(old) for old in start['skipped']], [old[:2] for old in start['skipped']]
        for first, last in asked:
            if [first, last] in known:
                continue
            if first <= step:
                raise SettingsError(
                    f'data.skip has [{first}, {last}], but the checkpoint has trained {step} steps already; '
                    f'go on from one of step {first - 1} or before, or leave the pair out'
                )
            ends = np.array([batches.row(first - 1), batches.row(last) - 1])
            place, last_place = batches.places(ends).tolist()
            skipped.append([first, last, place, last_place + 1])
        return {**start, 'skipped': skipped}

    def pairs_to_skip(
        self, first: int, last: int, size: StepSize, start: Mapping[str, Any], here: Mapping[str, Any]
    ) -> list[list[int]]:
        """What to ask of a run for it to leave out what another one does, and the rows of some steps of that.

        Args:
            first: The first of these steps, counted from 1, as the other run reads them.
            last: The last.
            start: Where the run begins; it counts its steps without what is asked of it.
            here: Where the other one began.
        """
        now, then = self.batches(size, 0, here), self.batches(size, 0, start)
        known = [old[:2] for old in start['skipped']]
        asked = [pair for *pair, _, _ in here['skipped'] if pair not in known]
        places = now.places(np.array([now.row(first - 1), now.row(last) - 1])).tolist()
        first, last = (then.step_at(place) + 1 for place in places)
        while [first, last] in known:  # asked for once more, it would do nothing
            last += 1
        return [*asked, [first, last]]

    def shares(self, size: StepSize, start: Mapping[str, Any], step: int, end: int) -> dict[str, float]:
        """What share of the targets of the steps from step to end - 1 each source gives; {} where there is one."""
        if len(self.texts.sources) == 1:
            return {}
        counts = self.batches(size, 0, start).source_targets(max(step, start['step']), end)
        return {f'{source}': count / sum(counts) for source, count in zip(self.texts.sources, counts)}

    def place(self, size: StepSize, start: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Where a run that began at start stands before a step: a record free of rank, worker and micro-batch."""
        row = start['row'] + size.rows_between(start['step'], step)
        return {'step': step, 'row': row, 'skipped': start['skipped']}

    def name(self, document: int) -> str:
        """A document's name for people, by the number that a training batch gives."""
        return self.texts.corpus.name(document)
