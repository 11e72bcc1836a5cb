"""Several data sets of groups in one run, each with its own roles: every step is of one set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import Batch, PairTargets
from xlabml.data.corpus import Corpus
from xlabml.data.order import mix, permute
from xlabml.data.rows import Epochs, Examples, Format, Passes, Reading
from xlabml.data.sources import Source
from xlabml.errors import SettingsError

from .arranged import Arranged
from .batching import Batching, Known, Numbers
from .formats import GroupFormat, Objective
from .groups import Groups
from .in_turn import InTurn
from .index import describe_verified, make_index
from .records import GROUP


class SetExamples(Examples):
    """The groups of several sets, one set after the other.

    Args:
        sets: Those of each set.
        unit: In an evaluation each set begins at a multiple of it, so that no batch is of two sets; the places between
            them are empty.
    """

    def __init__(self, sets: Sequence[Groups], unit: int = 1) -> None:
        self.sets = list(sets)
        self._starts = np.cumsum([0, *(-(-len(groups) // unit) * unit for groups in sets)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def fingerprint(self) -> str:
        return short_hash([groups.fingerprint for groups in self.sets])

    @property
    def source_starts(self) -> list[int]:
        return self._starts.tolist()

    @property
    def source_counted(self) -> list[int]:
        return list(map(len, self.sets))

    def locate(self, numbers: Numbers) -> tuple[Int64[np.ndarray, ' _'], Int64[np.ndarray, ' _']]:
        """The set of each number, and the number of the group there; -1 where the place is empty."""
        of_set = np.maximum(0, np.searchsorted(self._starts, numbers, 'right') - 1)
        inside = numbers - self._starts[of_set]
        sizes = np.array(list(map(len, self.sets)))
        return of_set, np.where((numbers >= 0) & (inside < sizes[of_set]), inside, -1)

    def counts(self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        return (self.locate(numbers)[1] >= 0).astype(np.int64)

    def batch(
        self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e'], n_counted: float, seed: int = 0
    ) -> Batch:
        of_set, inside = self.locate(numbers)
        chosen = np.unique(of_set[inside >= 0])
        assert len(chosen) <= 1, 'a batch is of one set'
        return self.sets[int(chosen[0]) if len(chosen) else 0].batch(inside, keys, n_counted, seed)

    def name(self, document: int) -> str:
        return self.sets[0].name(document)

    def describe(self) -> list[str]:
        return [line for groups in self.sets for line in groups.describe()]

    def render(self, number: int) -> list[tuple[str, str]]:
        of_set, inside = self.locate(np.array([number]))
        return self.sets[int(of_set[0])].render(int(inside[0]))


class _BySet(Batching):
    """The groups of each set as that set has them arranged; the fullest steps are taken, in an order of their own."""

    def __init__(self, batchings: Sequence[Batching], examples: SetExamples) -> None:
        self.batchings = list(batchings)
        self._examples = examples

    def batches(self, numbers: Numbers, n_groups: int, n_batches: int, known: Known) -> list[Numbers]:
        """Arrange each set by itself."""
        of_set, inside = self._examples.locate(numbers)
        found: list[Numbers] = []
        for number, (batching, groups) in enumerate(zip(self.batchings, self._examples.sets)):
            here = inside[of_set == number]
            first = self._examples.source_starts[number]
            some = batching.batches(here, n_groups, -(-len(here) // n_groups), groups)
            found += [batch + first for batch in some]
        fullest = sorted(found, key=lambda batch: -len(batch))[:n_batches]
        seed = mix(*numbers[:4].tolist(), len(numbers))
        return [fullest[i] for i in permute(np.arange(len(fullest)), len(fullest), seed, 0).tolist()]

    def settings(self) -> dict[str, Any]:
        return {'class': 'BySet', 'batchings': [batching.settings() for batching in self.batchings]}


class GroupSets(Format):
    """Several data sets of groups, each with roles of its own; `model.objectives` may give each its objective.

    Every step is of one set. The sets come in the shares that they have of the data, or those of data.weights (equal
    weights: as often each), in an order that is drawn; or strictly in turn.

    Args:
        sets: The groups of each source of data.sources, in their order.
        in_turn: Whether the sets come strictly in turn (round-robin), a step of each, whatever their sizes; small ones
            are gone through more often. data.weights are not used then.

    Raises:
        ValueError: There are none.
    """

    targets = PairTargets
    sized_by = 'groups'
    columns = (GROUP,)
    unused = ('plan', 'batch_tokens', 'stream', 'held_out')

    def __init__(self, sets: list[Callable[[], GroupFormat]], in_turn: bool = False) -> None:
        self.sets = [make() for make in sets]
        self.in_turn = in_turn
        if not self.sets:
            raise ValueError('data.examples.sets is empty; name the groups of each source')

    @property
    def unused_settings(self) -> tuple[str, ...]:
        return (*self.unused, 'weights') if self.in_turn else self.unused

    def sources(self, sources: Sequence[Source]) -> list[Source]:
        if len(sources) != len(self.sets):
            raise SettingsError(
                f'data.examples.sets has {len(self.sets)} sets for the {len(sources)} sources of data.sources; '
                'give one for each'
            )
        return [form.source(source) for form, source in zip(self.sets, sources)]

    def verify(self, corpus: Corpus, reading: Reading) -> list[str] | None:
        return describe_verified(corpus, reading.folder)

    def examples(self, corpus: Corpus, split: str, stage: str, pass_index: int, reading: Reading) -> SetExamples:
        index = make_index(corpus, reading.folder)
        found = []
        for number, (form, documents) in enumerate(zip(self.sets, corpus.by_store(corpus.documents(split)))):
            limits = form.limits(reading.plan.length, reading.device_tokens)
            found.append(Groups(corpus, index, documents, reading.tokenizer, limits, form.prompts, number))
        return SetExamples(found, 1 if stage == 'train' else reading.n_groups or 1)

    def arrange(self, passes: Passes, reading: Reading) -> Passes:
        assert reading.n_groups is not None
        examples = passes.open(0)
        assert isinstance(examples, SetExamples)
        for form, groups in zip(self.sets, examples.sets):
            form.batching.check(groups, reading.n_groups)
        if self.in_turn:
            return self._in_turn(passes, examples, reading)
        batching = _BySet([form.batching for form in self.sets], examples)
        # _BySet hands each batching its own set, in place of the one that is named here.
        return Arranged(passes, batching, reading.n_groups, known=examples.sets[0])

    def _in_turn(self, passes: Passes, examples: SetExamples, reading: Reading) -> InTurn:
        assert isinstance(passes, Epochs)  # there are no weights
        for number, groups in enumerate(examples.sets):
            if not len(groups):
                raise SettingsError(
                    f'data.examples.in_turn is set, but set {number} of data.examples.sets has no group in the split '
                    'train; give its source more documents, or leave the set out'
                )
        each = [
            form.arrange(Epochs(groups, mix(passes.seed, number)), reading)
            for number, (form, groups) in enumerate(zip(self.sets, examples.sets))
        ]
        return InTurn(examples, examples.source_starts[:-1], each)

    def use_prompts(self, prompts: Mapping[str, str]) -> None:
        """As in GroupFormat, for each set."""
        for form in self.sets:
            form.use_prompts(prompts)

    def require(self, objectives: Sequence[Objective], examples: Examples, n_together: int) -> None:
        """As in GroupFormat, for each set: one objective for all, or one for each.

        Raises:
            SettingsError: There are others; or as in GroupFormat.
        """
        assert isinstance(examples, SetExamples)
        if len(objectives) not in (1, len(self.sets)):
            raise SettingsError(
                f'model.objectives has {len(objectives)} objectives for {len(self.sets)} sets of groups; give one for '
                'each'
            )
        each = list(objectives) * (len(self.sets) if len(objectives) == 1 else 1)
        for form, groups, objective in zip(self.sets, examples.sets, each):
            form.require([objective], groups, n_together)

    def settings(self) -> dict[str, Any]:
        in_turn = {'in_turn': True} if self.in_turn else {}
        return {'class': type(self).__name__, 'sets': [form.settings() for form in self.sets], **in_turn}
