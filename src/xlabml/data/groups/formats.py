"""Formats of groups: the texts of a record that belong together, each tokenized apart."""

import textwrap
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from jaxtyping import Int64

from xlabml.batches import PairTargets
from xlabml.data.corpus import Corpus
from xlabml.data.rows import Examples, Format, Passes, Reading
from xlabml.data.sources import Source
from xlabml.errors import SettingsError

from .arranged import Arranged
from .batching import Batching, InOrder, NoDuplicates
from .few_shot import check_per_class, draw_per_class
from .groups import Groups, Prompts, TextLimits
from .index import describe_verified, make_index
from .records import GROUP, Columns, GroupRecords

_INSTEAD = {'anchor': 'query', 'positive': 'document', 'negatives': 'document'}
_KINDS = (('anchor', 'positive', 'negatives'), ('anchor', 'positive'), ('a', 'b'), ('text',))


Objective: TypeAlias = tuple[str, tuple[str, ...]]
"""The name of an objective, and what an example must have beside its first text: out of positive, negative, score,
label and teacher."""

_NEEDS = {
    'positive': 'a second text (data.examples.roles: positive, or b)',
    'negative': 'negatives (data.examples.roles.negatives)',
    'score': 'scores (data.examples.score, or scores)',
    'label': 'labels (data.examples.label)',
    'teacher': "a teacher's vectors (data.examples.vectors)",
}
_N_AROUND = 2
"""Tokens around a text: its start and its end."""


class GroupFormat(Format):
    """The base of formats whose examples are groups of whole texts.

    Attributes:
        prompts: Texts that are put before those of a role; a task sets them.
        batching: Which groups come together in a step.
        per_class: How many documents of each class are trained on; None: all are.
        draw: Which draw that is.
    """

    targets: ClassVar[type] = PairTargets
    sized_by = 'groups'
    columns = (GROUP,)
    unused: ClassVar[tuple[str, ...]] = ('plan', 'batch_tokens', 'stream')
    batching: Batching
    per_class: int | None = None
    draw: int = 0

    def __init__(self) -> None:
        self.prompts = Prompts()

    @property
    @abstractmethod
    def records(self) -> Columns:
        """Which columns of a record hold what."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the texts, in the order of their numbers."""
        return tuple(self.records.texts)

    @abstractmethod
    def limits(self, max_len: int, row_slots: int | None) -> TextLimits:
        """How much of a record goes into an example.

        Args:
            max_len: The most slots of a text.
            row_slots: Slots of a row; None: one row a batch.
        """

    def source(self, source: Source) -> Source:
        return GroupRecords(source, self.records)

    def verify(self, corpus: Corpus, reading: Reading) -> list[str] | None:
        return describe_verified(corpus, reading.folder)

    def examples(self, corpus: Corpus, split: str, stage: str, pass_index: int, reading: Reading) -> Groups:
        limits = self.limits(reading.plan.length, reading.device_tokens)
        index = make_index(corpus, reading.folder)
        return Groups(corpus, index, self.documents(corpus, split), reading.tokenizer, limits, self.prompts)

    def documents(self, corpus: Corpus, split: str) -> Int64[np.ndarray, ' documents']:
        """The documents of a split: of training those that are drawn, where some are."""
        documents = corpus.documents(split)
        if self.per_class is None or split != 'train':
            return documents
        return draw_per_class(corpus, documents, self.per_class, self.draw)

    def arrange(self, passes: Passes, reading: Reading) -> Passes:
        assert reading.n_groups is not None
        examples = passes.open(0)
        assert isinstance(examples, Groups)
        self.batching.check(examples, reading.n_groups)
        return Arranged(passes, self.batching, reading.n_groups)

    def use_prompts(self, prompts: Mapping[str, str]) -> None:
        """Put a network's prompts before the texts: that of a role's name, else query for anchors, document for the
        texts that they are compared with."""
        found = {role: prompts.get(role, prompts.get(_INSTEAD.get(role, ''), '')) for role in self.roles}
        self.prompts.texts = {role: text for role, text in found.items() if text}

    def require(self, objectives: Sequence[Objective], examples: Examples, n_together: int) -> None:
        """See that the groups have what the objective needs.

        Args:
            objectives: The one of this set.
            examples: The train split.
            n_together: Groups of a step that are compared with one another.

        Raises:
            SettingsError: A role or a column is not named; a group has no negatives, nor other groups beside it; all
                records have one label, or, where single texts are compared, fewer than two classes have two texts; or
                there are several objectives.
        """
        if len(objectives) != 1:
            raise SettingsError(
                f'model.objectives has {len(objectives)} objectives, but data.examples is one set of groups; name one, '
                'or several sets (GroupSets)'
            )
        (objective, needs) = objectives[0]
        groups = examples
        records = self.records
        known = {
            'positive': len(self.roles) > 1,
            'negative': len(self.roles) > 2,
            'score': bool(records.score or records.scores),
            'label': records.label is not None,
            'teacher': bool(records.vectors),
        }
        for need in needs:
            if not known.get(need, True):
                raise SettingsError(
                    f'model.objective is {objective}, which needs {_NEEDS[need]}; name it, or choose another objective'
                )
        assert isinstance(groups, Groups)
        if 'negative' in needs and not (groups.index.roles == len(self.roles) - 1).any():
            raise SettingsError(
                f'model.objective is {objective}, which needs negatives, but no record has one in the columns of '
                'data.examples.roles.negatives; mine some, or choose another objective'
            )
        if needs == ('positive',) and len(self.roles) < 3 and min(n_together, len(groups)) < 2:
            raise SettingsError(
                f'model.objective is {objective}, whose negatives are the other groups of a step, but there is one '
                'group at a time: set data.batch_groups to more (on each device, without model.gather), or name '
                'negatives in data.examples.roles'
            )
        if 'label' in needs:
            counts = np.bincount(groups.labels(np.arange(len(groups))), minlength=len(groups.classes))
            shown = ', '.join(f'{name} {count}' for name, count in zip(groups.classes, counts.tolist()) if count)
            least = 2 if self.roles == ('text',) else 1
            if (counts >= least).sum() < 2:
                raise SettingsError(
                    f'model.objective is {objective}, which needs {"two texts in each of " * (least > 1)}two classes '
                    f'or more, but the labels of the train split are {textwrap.shorten(shown, 80)}; check the column '
                    f'{records.label!r} of data.examples.label'
                )

    def settings(self) -> dict[str, Any]:
        few = {} if self.per_class is None else {'per_class': self.per_class, 'draw': self.draw}
        return {'class': type(self).__name__, **self.records.plain(), 'batching': self.batching.settings(), **few}


class TextGroups(GroupFormat):
    """Texts in roles, for embedders: which column has which role is said, and what is not named is not read.

    `{anchor: question, positive: answer, negatives: [hard_1, hard_2]}`, `{a: first, b: second}` or `{text: body}`; a
    role's column holds a text, or a list of texts.

    Args:
        roles: For each role, its column or columns: anchor and positive, and negatives or none; or a and b; or text.
            One column as anchor and as positive is SimCSE: dropout makes two vectors of each text.
        label: The column of a class, a name or a whole number.
        score: The column of a number that says how alike a and b are.
        scores: The columns of a teacher's scores: one for each positive and negative, in their order, or lists of them.
        vectors: The columns of a teacher's vectors: one for each text, in the order of the roles, or lists of them.
        score_range: The least and the largest `score`, as [0, 5]; they become 0 and 1.
        max_tokens: The most tokens of a text, by role; what is behind is cut off. None: as many as data.max_len holds.
        n_positives: How many positives an example has, drawn anew in each pass; None: all that a record has.
        n_negatives: How many negatives an example has, drawn likewise; None: all.
        instructions: Whether a text may be a pair [instruction, text], as GritLM's files have them: the instruction
            stands before the text as a prompt does.
        leave_out_empty: Whether records with an empty text are left out and counted; else they are refused.
        batching: Which groups come together in a step; None: `NoDuplicates` for anchors, `InOrder` for others.
        per_class: How many groups of each class are trained on, drawn from the training split; None: all.
        draw: Which draw that is, as in LabelledTexts.

    Raises:
        ValueError: The roles are none of these, or what belongs to them is not theirs.
    """

    def __init__(
        self,
        roles: dict[str, str | list[str]],
        label: str | None = None,
        score: str | None = None,
        scores: str | list[str] | None = None,
        vectors: str | list[str] | None = None,
        score_range: list[float] | None = None,
        max_tokens: dict[str, int] | None = None,
        n_positives: int | None = 1,
        n_negatives: int | None = None,
        instructions: bool = False,
        leave_out_empty: bool = False,
        batching: Callable[[], Batching] | None = None,
        per_class: int | None = None,
        draw: int = 0,
    ) -> None:
        super().__init__()
        check_per_class(per_class, draw, label)
        self.per_class = per_class
        self.draw = draw
        low, high = check_range(score_range)
        _check_roles(roles, label, score, scores)
        self.max_tokens = dict(max_tokens or {})
        for role, n in self.max_tokens.items():
            if role not in roles:
                raise ValueError(f'data.examples.max_tokens has {role!r}; the roles are {", ".join(roles)}')
            if n < 1:
                raise ValueError(f'data.examples.max_tokens.{role} is {n}; it must be at least 1')
        for name, count in (('n_positives', n_positives), ('n_negatives', n_negatives)):
            if count is not None and count < 1:
                raise ValueError(f'data.examples.{name} is {count}; give 1 or more, or null for all')
        kind = next(kind for kind in _KINDS if set(kind) == set(roles))
        self._drawn: dict[str, int | None] = {'positive': n_positives, 'negatives': n_negatives}
        self._records = Columns(
            {role: tuple(_names(roles[role])) for role in kind},
            label,
            score,
            tuple(_names(scores)),
            tuple(_names(vectors)),
            (low, high),
            instructions,
            optional=('negatives',),
            leave_out=leave_out_empty,
        )
        default = NoDuplicates if 'anchor' in roles else InOrder
        self.batching = (default if batching is None else batching)()

    @property
    def records(self) -> Columns:
        return self._records

    def limits(self, max_len: int, row_slots: int | None) -> TextLimits:
        room = max_len - _N_AROUND
        for role, n in self.max_tokens.items():
            if n > room:
                raise SettingsError(
                    f'data.examples.max_tokens.{role} is {n}, but data.max_len, {max_len}, has room for {room} tokens '
                    'of a text; make one of them fit'
                )
        most = tuple(self.max_tokens.get(role, room) for role in self.roles)
        return TextLimits(self.roles, most, tuple(map(self._drawn.get, self.roles)), max_len, row_slots)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), 'max_tokens': self.max_tokens, 'drawn': self._drawn}


def check_range(score_range: list[float] | None) -> tuple[float, float]:
    """The least and the largest score.

    Raises:
        ValueError: They are not two numbers that rise.
    """
    found = [0.0, 1.0] if score_range is None else score_range
    if len(found) != 2 or not found[0] < found[1]:
        raise ValueError(f'data.examples.score_range is {found}; give the least and the largest score, as in [0, 5]')
    return found[0], found[1]


def _names(columns: str | list[str] | None) -> list[str]:
    if columns is None:
        return []
    return [columns] if isinstance(columns, str) else list(columns)


def _check_roles(
    roles: Mapping[str, str | list[str]], label: str | None, score: str | None, scores: str | list[str] | None
) -> None:
    if not any(set(kind) == set(roles) for kind in _KINDS):
        raise ValueError(
            f'data.examples.roles names {", ".join(roles) or "none"}; name anchor and positive (and negatives), a and '
            'b, or text'
        )
    for role, columns in roles.items():
        names = _names(columns)
        if not names or not all(names):
            raise ValueError(f'data.examples.roles.{role} names no column')
        if len(names) > 1 and role not in ('positive', 'negatives'):
            raise ValueError(
                f'data.examples.roles.{role} has {len(names)} columns, but a record has one text of that role'
            )
    used: dict[str, str] = {}
    for role, columns in roles.items():
        for name in _names(columns):
            if used.setdefault(name, role) != role and {used[name], role} != {'anchor', 'positive'}:
                raise ValueError(f'data.examples.roles has the column {name!r} as {used[name]} and as {role}')
    if score is not None and 'a' not in roles:
        raise ValueError('data.examples.score goes with the roles a and b; a teacher has data.examples.scores')
    if scores is not None and 'anchor' not in roles:
        raise ValueError('data.examples.scores go with positives and negatives; two texts a and b have a score')
    if label is not None and 'anchor' in roles:
        raise ValueError('data.examples.label goes with the roles a and b, or text; leave it out')
