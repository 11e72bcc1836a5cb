"""Several formats in one run, each step of one of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xlabml.data.corpus import Corpus
from xlabml.data.groups import GroupFormat, GroupRecords, GroupSets
from xlabml.data.groups.formats import Objective
from xlabml.data.order import Interleaving, mix
from xlabml.data.rows import Epochs, Examples, Format, Passes, Reading
from xlabml.data.sources import Source
from xlabml.errors import SettingsError

from .examples import MixedExamples, Part
from .passes import StepMixture


class FormatMixture(Format):
    """Several formats in one run, for a task that trains on each (`JointModel`): every step is of one format.

    A step of rows has data.batch_tokens, one of groups data.batch_groups, over all devices. Each device has its share
    of a step in one batch; data.device_batch_tokens bounds what of it is in memory at a time, for rows as for groups,
    since chunks are computed again in the backward pass.

    Args:
        formats: What an example is, for each.
        weights: How often a step is of each format: its share of the steps, once they are scaled to sum to 1. None:
            equally often.
        reads: For each format, the numbers of the sources in data.sources that it reads, from 0. Formats of rows may
            share a source; a source that is read as rows and as groups is named twice in data.sources. None: each
            format reads the source in its place.

    Raises:
        ValueError: There are none, or they have not a weight and sources each.
    """

    targets = object  # each of `parts` has its own, at which tasks look
    sized_by = 'steps'
    unused = ('weights', 'max_source_epochs', 'stream', 'held_out')

    def __init__(
        self,
        formats: list[Callable[[], Format]],
        weights: list[float] | None = None,
        reads: list[list[int]] | None = None,
    ) -> None:
        self.parts = tuple(make() for make in formats)
        if not self.parts:
            raise ValueError('data.examples.formats is empty; name at least one format')
        n = len(self.parts)
        for name, given in (('weights', weights), ('reads', reads)):
            if given is not None and len(given) != n:
                raise ValueError(f'data.examples.{name} has {len(given)} entries for {n} formats; give one for each')
        if weights is not None and not all(0 < weight < np.inf for weight in weights):
            raise ValueError(f'data.examples.weights are {weights}; give numbers above 0')
        if weights is not None and min(weights) * Interleaving.period < sum(weights):
            raise ValueError(
                f'data.examples.weights are {weights}; the least is below one step in {Interleaving.period:,}: leave '
                'that format out, or make its weight larger'
            )
        self.weights = [1.0] * n if weights is None else [float(weight) for weight in weights]
        self.reads = [[i] for i in range(n)] if reads is None else [list(some) for some in reads]
        for form, some in zip(self.parts, self.reads):
            if not some or min(some) < 0 or len(set(some)) < len(some):
                raise ValueError(
                    f'data.examples.reads has {some} for {type(form).__name__}; give numbers of data.sources, from 0, '
                    'each once'
                )
            if isinstance(form, FormatMixture):
                raise ValueError('data.examples.formats has a FormatMixture; name its formats here')

    @property
    def unused_settings(self) -> tuple[str, ...]:
        of_all = set.intersection(*(set(form.unused_settings) for form in self.parts))
        return (*self.unused, *sorted(of_all - {*self.unused}))

    def sources(self, sources: Sequence[Source]) -> list[Source]:
        found: dict[int, Source] = {}
        for form, some in zip(self.parts, self.reads):
            if max(some) >= len(sources):
                raise SettingsError(
                    f'{type(form).__name__} reads source {max(some)} (data.examples.reads), but data.sources has '
                    f'{len(sources)}, 0 to {len(sources) - 1}; without reads there is one for each format, in their '
                    'order'
                )
            for number, made in zip(some, form.sources([sources[i] for i in some])):
                if not _is_same(found.setdefault(number, made), made):
                    raise SettingsError(
                        f'source {number} of data.sources, {sources[number]}, is read in two ways, the second of them '
                        f'by {type(form).__name__}; name it once more in data.sources, and its new number in '
                        'data.examples.reads'
                    )
        if missing := sorted(set(range(len(sources))) - set(found)):
            raise SettingsError(
                f'source {missing[0]} of data.sources, {sources[missing[0]]}, is read by no format; leave it out, or '
                'name it in data.examples.reads'
            )
        return [found[number] for number in range(len(sources))]

    def columns_of(self, source: int) -> tuple[str, ...]:
        found = [form.columns_of(some.index(source)) for form, some in zip(self.parts, self.reads) if source in some]
        return tuple(name for names in found for name in names)

    def examples(self, corpus: Corpus, split: str, stage: str, pass_index: int, reading: Reading) -> MixedExamples:
        per_step = [_per_step(form, reading) for form in self.parts]
        first = corpus.first_documents
        parts = []
        n_sets = 0
        for form, some, n in zip(self.parts, self.reads, per_step):
            own = corpus.of_stores(some)
            found = form.examples(own, split, stage, pass_index, reading)
            shift = first[some] - own.first_documents
            is_causal = bool(getattr(form, 'is_causal', True))
            parts.append(Part(found, n, shift, own.first_documents, is_causal, n_sets))
            n_sets += _n_sets(form)
        slots = reading.device_tokens
        return MixedExamples(corpus, parts, max(per_step), None if slots is None else slots // reading.plan.length)

    def arrange(self, passes: Passes, reading: Reading) -> StepMixture:
        examples = passes.open(0)
        assert isinstance(examples, MixedExamples)
        each = [
            form.arrange(Epochs(part.examples, mix(reading.seed, number)), reading)
            for number, (form, part) in enumerate(zip(self.parts, examples.parts))
        ]
        return StepMixture(examples, each, self.weights, self.reads)

    def use_prompts(self, prompts: Mapping[str, str]) -> None:
        """As in GroupFormat, for each format of groups."""
        for form in self.parts:
            if isinstance(form, GroupFormat | GroupSets):
                form.use_prompts(prompts)

    def require(self, objectives: Sequence[Objective], examples: Examples, n_together: int) -> None:
        """As in GroupFormat, for each format of groups: one objective for all, or one for each data set of groups.

        Raises:
            SettingsError: There are others; or as in GroupFormat.
        """
        assert isinstance(examples, MixedExamples)
        n_sets = sum(map(_n_sets, self.parts))
        if n_sets and len(objectives) not in (1, n_sets):
            raise SettingsError(
                f'model.objectives has {len(objectives)} objectives for {n_sets} data sets of groups in '
                'data.examples.formats; give one for each'
            )
        each = list(objectives) * (n_sets if len(objectives) == 1 else 1)
        for form, part in zip(self.parts, examples.parts):
            if isinstance(form, GroupFormat | GroupSets):
                form.require(each[part.first_set : part.first_set + _n_sets(form)], part.examples, n_together)

    def settings(self) -> dict[str, Any]:
        formats = [form.settings() for form in self.parts]
        return {'class': type(self).__name__, 'formats': formats, 'weights': self.weights, 'reads': self.reads}


def _n_sets(form: Format) -> int:
    if isinstance(form, GroupSets):
        return len(form.sets)
    return int(isinstance(form, GroupFormat))


def _per_step(form: Format, reading: Reading) -> int:
    """Examples of an optimizer step of a format, over all devices."""
    found = reading.n_groups if form.sized_by == 'groups' else reading.n_rows
    assert found is not None, 'the data module sets both'
    return found


def _is_same(a: Source, b: Source) -> bool:
    """Whether two formats read a source as the same documents."""
    are_records = isinstance(a, GroupRecords) and isinstance(b, GroupRecords)
    return a is b or (are_records and type(a) is type(b) and a.columns == b.columns)  # type: ignore[attr-defined]
