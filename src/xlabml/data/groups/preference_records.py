"""Records of preferences as people have them: a prompt and two answers, each a text or turns, and who won."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xlabml.data.sources import Document, Source
from xlabml.errors import DataError

from .labelled_records import TARGET
from .records import Columns, GroupRecords, as_label, as_number

A = 'a'
TIE = 'tie'
B = 'b'
OUTCOMES = (A, TIE, B)
"""What may come of a comparison, in the order of the classes."""

_MIRRORED = {A: B, B: A, TIE: TIE}
_SUM_ERROR = 1e-3
_MOST_SHOWN = 60


class OutcomeColumns(NamedTuple):
    """Where the outcome of a record stands; one of these is named, or none where nothing is learned from the records.

    Args:
        label: The column of one name.
        names: What that column says of each outcome, by outcome.
        winners: For each outcome a column that is 1 where it is the outcome, and else 0.
        probabilities: For each outcome the column of its probability.
        counts: For each outcome the column of the number of raters who said so.
    """

    label: str | None = None
    names: Mapping[str, tuple[str, ...]] = {}
    winners: Mapping[str, str] = {}
    probabilities: Mapping[str, str] = {}
    counts: Mapping[str, str] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns."""
        several = [name for by in (self.winners, self.probabilities, self.counts) for name in by.values()]
        return tuple(several if self.label is None else [self.label, *several])

    def plain(self) -> dict[str, Any]:
        """Plain values, as JSON returns them."""
        found = {name: dict(value) if isinstance(value, Mapping) else value for name, value in self._asdict().items()}
        return {**found, 'names': {outcome: list(names) for outcome, names in self.names.items()}}

    def read(self, known: Mapping[str, object], where: str) -> dict[str, Any]:
        """The outcome of a record: `label`, or TARGET, the share of each; {} where no column is named.

        Raises:
            DataError: A column holds something else.
        """
        if self.label is not None:
            said = str(as_label(known[self.label], self.label, where))
            found = next((outcome for outcome, names in self.names.items() if said in names), None)
            if found is None:
                listed = '; '.join(f'{outcome}: {", ".join(names)}' for outcome, names in self.names.items())
                raise DataError(
                    f'{where}: the column {self.label!r} holds {said!r:.80}, which is no outcome ({listed}); mend the '
                    'record, or name what the column says in data.examples.names'
                )
            return {'label': found}
        if self.winners:
            values = self._numbers(self.winners, known, where)
            if sorted(values.values()) != [0.0] * (len(values) - 1) + [1.0]:
                raise DataError(
                    f'{where}: the columns of data.examples.winners hold {_shown(self.winners, values)}; exactly one '
                    'must be 1 and the others 0 (probabilities and counts have settings of their own)'
                )
            return {'label': next(outcome for outcome, value in values.items() if value)}
        if self.probabilities:
            values = self._numbers(self.probabilities, known, where)
            total = sum(values.values())
            if min(values.values()) < 0 or abs(total - 1) > _SUM_ERROR:
                raise DataError(
                    f'{where}: the columns of data.examples.probabilities hold {_shown(self.probabilities, values)}, '
                    f'with the sum {total:g}; each must be 0 or more, and their sum 1'
                )
            return {TARGET: {outcome: value / total for outcome, value in values.items()}}
        if self.counts:
            values = self._numbers(self.counts, known, where)
            total = sum(values.values())
            if min(values.values()) < 0 or not total:
                raise DataError(
                    f'{where}: the columns of data.examples.counts hold {_shown(self.counts, values)}; each must be 0 '
                    'or more, and one of them above 0'
                )
            return {TARGET: {outcome: value / total for outcome, value in values.items()}}
        return {}

    @staticmethod
    def _numbers(columns: Mapping[str, str], known: Mapping[str, object], where: str) -> dict[str, float]:
        return {outcome: as_number(known[name], name, where) for outcome, name in columns.items()}


class PreferenceRecords(GroupRecords):
    """Records of a prompt and two answers, each a text or a list of turns.

    Two records are copies where both have the same prompt, answers and outcome, in either order of the answers.

    Args:
        source: Gives the records.
        columns: Which of their columns hold texts.
        outcomes: Which hold the outcome.
        turns: Whether texts are JSON lists of turns; None: they are not, and what looks like one is refused.
    """

    def __init__(self, source: Source, columns: Columns, outcomes: OutcomeColumns, turns: bool | None) -> None:
        super().__init__(source, columns)
        self.outcomes = outcomes
        self.turns = turns

    def fingerprint(self) -> dict[str, Any]:
        own = {'class': 'PreferenceRecords', 'outcomes': self.outcomes.plain(), 'turns': self.turns is True}
        return {**super().fingerprint(), **own}

    def _document(self, row: int, known: Mapping[str, object], columns: Sequence[str], where: str) -> Document:
        texts = {
            name: parse_turns(known[name], self.turns, name, where)
            for names in self.columns.texts.values()
            for name in names
        }
        found = super()._document(row, {**known, **texts}, columns, where)
        return found._replace(columns={**found.columns, **{name: known[name] for name in columns if name in texts}})

    def _values(self, known: Mapping[str, object], roles: list[int], where: str) -> dict[str, Any]:
        return self.outcomes.read(known, where)

    def _content(self, texts: list[str], group: dict[str, Any]) -> list[Any]:
        roles = group['roles']
        second = len(self.columns.texts) - 1
        first = second - 1
        of_role = {role: [text for text, its in zip(texts, roles) if its == role] for role in sorted(set(roles))}
        outcome = group.get('label', group.get(TARGET))
        prompt = [of_role[role] for role in sorted(of_role) if role < first]
        if of_role[first] <= of_role[second]:
            return [prompt, of_role[first], of_role[second], outcome]
        return [prompt, of_role[second], of_role[first], mirror(outcome)]


def mirror(outcome: Any) -> Any:
    """The outcome of a record whose answers have changed places."""
    if isinstance(outcome, dict):
        return {_MIRRORED[name]: share for name, share in outcome.items()}
    return outcome if outcome is None else _MIRRORED[outcome]


def parse_turns(value: object, turns: bool | None, column: str, where: str) -> list[object]:
    """The turns of a text; a missing one (null, as some files have it) is empty.

    Args:
        value: As it stands in a column: a text, or a list.
        turns: As in PreferenceRecords.
        column: Its name, for messages.
        where: The record, for messages.

    Raises:
        DataError: It should be a JSON list of texts and is not, or the other way round.
    """
    if isinstance(value, str) and (turns or (turns is None and value.startswith('["') and value.endswith(']'))):
        value = _parse(value, column, where, is_asked=turns is True)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a column of a CSV file whose answers are all numbers
    if not isinstance(value, list):
        return [value]
    return [_mend('' if turn is None else turn) for turn in value] or ['']


def _parse(text: str, column: str, where: str, is_asked: bool) -> list[Any] | str:
    """A JSON list of turns."""
    shown = text if len(text) <= _MOST_SHOWN else f'{text[:_MOST_SHOWN]}…'
    try:
        found = json.loads(text, strict=False)
        problem = 'it is no list' if not isinstance(found, list) else ''
        if not problem and not all(turn is None or isinstance(turn, str) for turn in found):
            problem = 'a turn is no text'
    except ValueError as error:
        found = None
        problem = str(error)
    if not is_asked:
        if problem:
            return text
        raise DataError(
            f'{where}: the column {column!r} holds what looks like a JSON list of turns ({shown!r}); set '
            'data.examples.turns to true where it is one, or to false where texts are to be read as they stand'
        )
    if problem:
        raise DataError(
            f'{where}: the column {column!r} holds no JSON list of turns ({problem}): {shown!r}; mend the record, or '
            'set data.examples.turns to false'
        )
    return found


def _mend(turn: object) -> object:
    """A turn whose halves of characters (lone surrogates, which JSON's escapes can have) are replaced."""
    if not isinstance(turn, str):
        return turn
    return turn.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def _shown(columns: Mapping[str, str], values: Mapping[str, float]) -> str:
    return ', '.join(f'{values[outcome]:g} in {name}' for outcome, name in columns.items())
