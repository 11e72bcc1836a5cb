"""Preferences as examples of a classifier: a prompt and two answers, and which of them is better.

An example has two segments, which stand in the order of the hashes of the two answers, whichever is A: a record and
the one with exchanged answers are the same tensors but for the roles of the segments. Where both answers are the same,
there is one segment, of role 0, which stands for both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt64

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import Batch, ClassTargets, Layout
from xlabml.blank import is_blank
from xlabml.budget import Part, fit_turns, join_fields, split_ratios
from xlabml.data.corpus import Corpus
from xlabml.data.order import scramble
from xlabml.data.rows import Reading, ranges
from xlabml.data.sources import Source
from xlabml.errors import SettingsError
from xlabml.plain import Plain

from .batching import Batching, InOrder
from .dropping import check_dropout
from .formats import GroupFormat
from .groups import TextLimits
from .labelled import Fields, LabelledGroups
from .labelled_records import count_classes
from .preference_records import OUTCOMES, TIE, OutcomeColumns, PreferenceRecords
from .records import Columns
from .text_rows import TextRows, fill_rows

_N_SEGMENTS = 2
_KINDS = ('label', 'winners', 'probabilities', 'counts')


class _Read(NamedTuple):
    """What is read of a document: of each of its segments, in the order of their roles, the turns of each field."""

    turns: tuple[list[list[int]], ...]
    kept: tuple[list[list[Part]], ...]


class PreferenceGroups(LabelledGroups):
    """The preferences of a split.

    Read together, an example is (prompt, A, B) as role 0 and (prompt, B, A) as role 1; else (prompt, A) as role 0 and
    (prompt, B) as role 1. A segment is sos, its fields with sep between them, eos; eos stands between two turns.

    Args:
        corpus: As in LabelledGroups, like the next five.
        documents: The documents of the split.
        reading: Has the tokenizer.
        limits: Has the roles, those of A and B last.
        fields: The ratios are those of the fields of a segment.
        split: The name of the split, for messages.
        together: Whether A and B are read together.
    """

    def __init__(
        self,
        corpus: Corpus,
        documents: Int64[np.ndarray, ' groups'],
        reading: Reading,
        limits: TextLimits,
        fields: Fields,
        split: str,
        together: bool,
    ) -> None:
        self._together = together
        super().__init__(corpus, documents, reading, limits, fields, split)
        self._a = len(limits.roles) - 2
        self._room = room_of(limits.max_len, len(fields.room))

    @property
    def fingerprint(self) -> str:
        return short_hash([super().fingerprint, self._together])

    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        """Examples as a batch: none crosses a row. Arguments as in Groups.batch."""
        keys = keys[numbers >= 0]
        numbers = numbers[numbers >= 0]
        documents = self.documents[numbers]
        reads = [self._read(document) for document in documents.tolist()]
        example, role = self._order(documents)
        segments = [self._segment(reads[i], its) for i, its in zip(example.tolist(), role.tolist())]
        lengths = np.array([len(segment) for segment in segments], np.int64)

        # Rows hold whole examples.
        asked = self.limits.row_slots
        row_slots = None if asked is None else max(asked, _N_SEGMENTS * self.limits.max_len)
        of_examples = np.bincount(example, lengths, len(numbers)).astype(np.int64)
        row, row_slots, n_rows = fill_rows(of_examples, row_slots)
        longest = min(self.limits.max_len, row_slots)
        rows = TextRows.of(lengths, row[example], n_rows, row_slots, longest)
        ids = np.full(n_rows * row_slots, self._pad, np.int64)
        if segments:
            ids[ranges(rows.begins, lengths)] = np.concatenate(segments)

        documents_there = rows.spread(documents[example], -1)
        n_cut = torch.tensor([self._n_cut(read) for read in reads], dtype=torch.long)
        targets = ClassTargets(torch.from_numpy(self.targets(numbers)), torch.ones(len(numbers)), n_cut)
        batch = Batch(
            torch.from_numpy(ids.reshape(n_rows, row_slots)),
            Layout(torch.from_numpy(rows.starts), longest, torch.from_numpy(documents_there >= 0)),
            torch.from_numpy(documents_there),
            torch.from_numpy(rows.spread(example, -1)),
            torch.from_numpy(rows.spread(role, 0)),
            targets,
            n_counted,
            seed,
        )
        return self._without_some(batch, keys)

    def render(self, number: int) -> list[tuple[str, str]]:
        """The fields of an example as the model reads them, and its outcome."""
        if not 0 <= number < len(self):
            raise SettingsError(f'there is no example {number}; examples are 0 to {len(self) - 1}')
        document = int(self.documents[number])
        found = [('example', self.corpus.name(document))]
        read = self._read(document)
        for role, (turns, kept) in enumerate(zip(read.turns[: 1 if self._together else None], read.kept)):
            for field, (texts, parts) in enumerate(zip(turns, kept)):
                name = self._field_name(role, field)
                found.append((name, self._show(texts, parts)))
        target = self.targets(np.array([number]))[0]
        if target.ndim:
            label = ', '.join(f'{name} {share:g}' for name, share in zip(OUTCOMES, target.tolist()) if share)
        else:
            label = OUTCOMES[int(target)] if target >= 0 else ''
        return [*found, ('label', label)]

    def texts_of(self, documents: Int64[np.ndarray, ' e']) -> list[tuple[str, ...]]:
        """The whole texts of some documents, of each by field: the turns of a field are lines of its text."""
        found = []
        for document in documents.tolist():
            fields: list[list[str]] = [[] for _ in self.limits.roles]
            first = int(self.index.offsets[document])
            end = int(self.index.offsets[document + 1])
            for text, role in zip(range(first, end), self.index.roles[first:end].tolist()):
                fields[role].append(self._decode(text))
            found.append(tuple('\n'.join(turns) for turns in fields))
        return found

    def describe(self) -> list[str]:
        """What the examples of each source are like: lengths of fields, what is cut, what cannot be told apart."""
        lines = []
        for first, end, store in zip(self._starts, self._starts[1:], self.corpus.stores):
            documents = self.documents[first:end]
            if not len(documents):
                continue
            lines.append(f'{store.manifest["source"]}: {end - first:,} preferences')
            lines += self._describe_fields(documents)
            hashes = self._answers(documents)
            n_empty = sum(map(is_blank, (answer for texts in self.texts_of(documents) for answer in texts[self._a :])))
            same = hashes[:, 0] == hashes[:, 1]
            targets = self.targets(np.arange(first, end))
            decided = targets != OUTCOMES.index(TIE) if targets.ndim == 1 else targets[:, OUTCOMES.index(TIE)] < 1
            lines.append(
                f'  answers: {n_empty:,} are empty; in {same.sum():,} records both are the same'
                + (f', {(same & decided).sum():,} of them with a winner' if same.any() else '')
            )
            counts = np.bincount(targets[targets >= 0], minlength=3) if targets.ndim == 1 else targets.sum(0)
            shown = ', '.join(f'{name} {count:,.6g}' for name, count in zip(OUTCOMES, counts.tolist()))
            lines.append(f'  label: {shown}')
        return lines

    def _n_cut(self, read: _Read) -> int:
        """Tokens of a document that are not read; of a prompt that is read twice, where most is cut."""
        cut = [
            [int(self.index.lengths[texts].sum()) - _n_read(parts) for texts, parts in zip(*one)] for one in zip(*read)
        ]
        if self._together:
            return sum(cut[0])
        return max(sum(one[:-1]) for one in cut) + sum(one[-1] for one in cut)

    def _order(
        self, documents: Int64[np.ndarray, ' e']
    ) -> tuple[Int64[np.ndarray, ' segments'], Int64[np.ndarray, ' segments']]:
        """The example and the role of each segment, as they stand.

        Where both answers are the same there is one segment: exchanged, it would be the same.
        """
        hashes = self._answers(documents)
        example = []
        role = []
        for i, (a, b) in enumerate(hashes.tolist()):
            order = [0] if a == b else [0, 1] if a < b else [1, 0]
            example += [i] * len(order)
            role += order
        return np.array(example, np.int64), np.array(role, np.int64)

    def _segment(self, read: _Read, role: int) -> Int64[np.ndarray, ' slots']:
        """The slots of a segment."""
        tokens = [[self._tokens(text) for text in turns] for turns in read.turns[role]]
        return join_fields(tokens, read.kept[role], self._ends[0], self._sep, self._ends[1])

    def _read(self, document: int) -> _Read:
        """What is read of a document."""
        first = int(self.index.offsets[document])
        end = int(self.index.offsets[document + 1])
        of_role: list[list[int]] = [[] for _ in self.limits.roles]
        for text, role in zip(range(first, end), self.index.roles[first:end].tolist()):
            of_role[role].append(text)
        *prompt, a, b = of_role
        turns = ([*prompt, a, b], [*prompt, b, a]) if self._together else ([*prompt, a], [*prompt, b])
        lengths = [[self.index.lengths[texts].tolist() for texts in fields] for fields in turns]
        kept = [fit_turns(some, self._room, self.fields.room, self.fields.cuts_middle) for some in lengths]
        return _Read(turns, (kept[0], kept[1]))

    def _tokens(self, text: int) -> Int64[np.ndarray, ' n']:
        begin = int(self.index.begins[text])
        return self.corpus.tokens_at(np.arange(begin, begin + int(self.index.lengths[text])))

    def _answers(self, documents: Int64[np.ndarray, ' e']) -> UInt64[np.ndarray, 'e 2']:
        """A hash of both answers of each document."""
        texts, n_texts = self._texts(documents)
        place = np.repeat(np.arange(len(documents)), n_texts)
        role = self.index.roles[texts].astype(np.int64)
        is_answer = role >= self._a
        at = (place * _N_SEGMENTS + role - self._a)[is_answer]
        turn = texts[is_answer] - _first_of_runs(at, texts[is_answer])
        hashes = np.zeros(len(documents) * _N_SEGMENTS, np.uint64)
        with np.errstate(over='ignore'):
            np.add.at(hashes, at, scramble(self.index.hashes[texts[is_answer]] + scramble(turn.astype(np.uint64))))
        return hashes.reshape(-1, _N_SEGMENTS)

    def _describe_fields(self, documents: Int64[np.ndarray, ' e']) -> list[str]:
        names = self.limits.roles
        lengths: dict[str, list[int]] = {name: [] for name in names}
        n_cut = dict.fromkeys(names, 0)
        n_dropped = dict.fromkeys(names, 0)
        n_turns = dict.fromkeys(names, 0)
        for document in documents.tolist():
            read = self._read(document)
            seen: dict[str, tuple[int, int]] = {}
            for role, (turns, kept) in enumerate(zip(read.turns[: 1 if self._together else None], read.kept)):
                for field, (texts, parts) in enumerate(zip(turns, kept)):
                    name = self._field_name(role, field).partition(',')[0]
                    cut = len(texts) - len(parts), int(sum(self.index.lengths[texts])) - _n_read(parts)
                    seen[name] = max(seen.get(name, (0, 0)), cut)
                    if role == 0 or field == len(turns) - 1:
                        n_turns[name] += len(texts)
                        lengths[name].append(int(sum(self.index.lengths[texts])))
            for name, (turns_dropped, tokens_cut) in seen.items():
                n_dropped[name] += turns_dropped
                n_cut[name] += tokens_cut > 0
        lines = []
        for name in names:
            median, most, longest = np.percentile(lengths[name], [50, 90, 99]).round().astype(int).tolist()
            lines.append(
                f'  {name}: {n_turns[name] / len(documents):.3g} turns; tokens: median {median}, 90 % up to {most}, '
                f'99 % up to {longest}, most {max(lengths[name])}; {n_cut[name] / len(documents):.1%} are cut, '
                f'{n_dropped[name]:,} turns dropped'
            )
        return lines

    def _field_name(self, role: int, field: int) -> str:
        """The name of a field: of a prompt that is read with each answer, with which."""
        roles = self.limits.roles
        if self._together:
            return roles[field]
        answer = roles[self._a + role]
        return answer if field == self._a else f'{roles[field]}, read with {answer}'

    def _show(self, texts: list[int], parts: list[Part]) -> str:
        shown = []
        if n_dropped := len(texts) - len(parts):
            shown.append(f'[{n_dropped} turns dropped]')
        for part in parts:
            tokens = self._tokens(texts[part.turn])
            text = self.tokenizer.decode(tokens[: part.head].tolist())
            if n_cut := len(tokens) - part.head - part.tail:
                text += f' [{n_cut} tokens cut] ' + self.tokenizer.decode(tokens[len(tokens) - part.tail :].tolist())
            shown.append(text)
        return ' | '.join(shown)

    def _check_labels(self) -> None:
        """Refuse training data that are ties alone; classes are found by name when records are read."""
        if self._split_name != 'train' or not self.index.classes:
            return
        labels = self.labels(np.arange(len(self)))
        if len(labels) and (labels == OUTCOMES.index(TIE)).all():
            raise SettingsError(
                f'all {len(labels):,} training documents are ties, of which nothing is learned; check data.examples'
            )


class Preferences(GroupFormat):
    """A prompt, answers A and B, and which is better, for `model: Classifier`; classes are a, tie, b.

    The settings name the columns; no other is read. One of label, winners, probabilities and counts is named.

    Args:
        prompt: The column of the prompt; null: there is none.
        a: The column of answer A.
        b: The column of answer B.
        label: The column that says which is better.
        names: What that column says, by outcome, as in {a: model_a, b: model_b, tie: [tie, both_bad]}; null: a, b, tie.
        winners: Columns of 0 and 1, by outcome, as in {a: winner_model_a, b: winner_model_b, tie: winner_tie}.
        probabilities: Columns of probabilities, by outcome.
        counts: Columns of how many raters said so, by outcome.
        turns: Whether texts are JSON lists of turns; null: they are not, and what looks like one is refused. A list
            that is no text is one of turns in any case.
        together: Whether prompt, A and B are read together, in both orders; else each answer is read with its prompt
            only, and a score of it is compared (`model.ties`): exactly free of the order.
        room: The ratio of the tokens that each text may take where they are too long together: of the prompt, A and B;
            apart, of the prompt and an answer. Null: alike.
        cut: Whether a text that is too long loses its middle or its end. Where there are several turns, the oldest are
            dropped whole first.
        batching: Which examples come together in a step; null: `InOrder`.
        token_dropout: The ratio of the tokens that are left out of each text in training, as in LabelledTexts.

    Raises:
        ValueError: No column of outcomes is named, or several, or the rest does not go together.
    """

    targets: ClassVar[type] = ClassTargets

    def __init__(
        self,
        prompt: str | None = 'prompt',
        a: str = 'response_a',
        b: str = 'response_b',
        label: str | None = None,
        names: dict[str, str | list[str]] | None = None,
        winners: dict[str, str] | None = None,
        probabilities: dict[str, str] | None = None,
        counts: dict[str, str] | None = None,
        turns: bool | None = None,
        together: bool = True,
        room: list[float] | None = None,
        cut: str = 'middle',
        batching: Callable[[], Batching] | None = None,
        token_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.token_dropout = check_dropout(token_dropout)
        self.outcomes = OutcomeColumns(
            label,
            {} if label is None else check_names(names),
            *(
                check_columns(f'data.examples.{name}', by)
                for name, by in zip(_KINDS[1:], (winners, probabilities, counts))
            ),
        )
        named = [name for name in _KINDS if getattr(self.outcomes, name)]
        if len(named) != 1:
            what = f'data.examples names {" and ".join(named)}' if named else 'data.examples names no outcome'
            raise ValueError(
                f'{what}; name one of {", ".join(_KINDS)}, as in --data.examples.label winner, or '
                '--data.examples.winners {a: winner_model_a, b: winner_model_b, tie: winner_tie}'
            )
        if names is not None and label is None:
            raise ValueError('data.examples.names says what the column of label holds; name that, or leave names out')
        texts = {'a': (a,), 'b': (b,)} if prompt is None else {'prompt': (prompt,), 'a': (a,), 'b': (b,)}
        for name in (column for (column,) in texts.values()):
            if [column for (column,) in texts.values()].count(name) > 1:
                raise ValueError(f'data.examples has the column {name!r} twice among prompt, a and b')
        if cut not in ('end', 'middle'):
            raise ValueError(f'data.examples.cut is {cut!r}; it must be end or middle')
        n_fields = len(texts) - (0 if together else 1)
        found = [1.0] * n_fields if room is None else room
        if len(found) != n_fields or not all(share > 0 for share in found):
            fields = [*texts] if together else [*[*texts][:-2], 'an answer']
            raise ValueError(f'data.examples.room is {room}; give a number above 0 for each of {", ".join(fields)}')
        self.turns = turns
        self.together = together
        self.room = split_ratios(found)
        self.cut = cut
        self.batching = (InOrder if batching is None else batching)()
        self._records = Columns(
            texts, label, may_be_empty=True, optional=tuple(texts), others=tuple(self.outcomes.columns)
        )

    @property
    def records(self) -> Columns:
        return self._records

    def source(self, source: Source) -> Source:
        if source.only == 'predict':  # nothing is learned from its outcomes, which need not be there
            return PreferenceRecords(source, self.records._replace(label=None, others=()), OutcomeColumns(), self.turns)
        return PreferenceRecords(source, self.records, self.outcomes, self.turns)

    def limits(self, max_len: int, row_slots: int | None) -> TextLimits:
        room = room_of(max_len, len(self.room))
        if min(self.room) * room < 1:
            raise SettingsError(
                f'data.max_len is {max_len}, of which a text with the ratio {min(self.room):.2g} (data.examples.room) '
                'has no token; make it larger'
            )
        n = len(self.roles)
        return TextLimits(self.roles, (room,) * n, (None,) * n, max_len, row_slots)

    def facts(self, corpus: Corpus) -> dict[str, Plain]:
        """`classes`, their `class_counts` in the training split, and `preference`: together or apart."""
        counts, _ = count_classes(corpus, corpus.documents('train'))
        return {
            'classes': list(OUTCOMES),
            'class_counts': [round(counts.get(name, 0.0), 3) for name in OUTCOMES],
            'max_windows': 1,
            'n_texts': _N_SEGMENTS,
            'preference': 'together' if self.together else 'apart',
        }

    def examples(self, corpus: Corpus, split: str, stage: str, pass_index: int, reading: Reading) -> PreferenceGroups:
        limits = self.limits(reading.plan.length, reading.device_tokens)
        fields = Fields(self.room, True, self.cut == 'middle', OUTCOMES)
        found = PreferenceGroups(corpus, corpus.documents(split), reading, limits, fields, split, self.together)
        if stage == 'train':
            found.token_dropout = self.token_dropout
        return found

    def settings(self) -> dict[str, Any]:
        own = {'outcomes': self.outcomes.plain(), 'turns': self.turns is True, 'together': self.together}
        dropped = {'token_dropout': self.token_dropout} if self.token_dropout else {}
        return {**super().settings(), **own, 'room': list(self.room), 'cut': self.cut, **dropped}


def room_of(max_len: int, n_fields: int) -> int:
    """Slots of a segment without its start, its end, and what stands between its fields."""
    return max_len - n_fields - 1


def check_names(names: Mapping[str, str | Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """What a column says of each outcome.

    Raises:
        ValueError: An outcome is none, or a name stands for two.
    """
    if names is None:
        return {outcome: (outcome,) for outcome in OUTCOMES}
    found = {
        outcome: (said,) if isinstance(said, str) else tuple(map(str, said))
        for outcome, said in check_columns('data.examples.names', names).items()
    }
    every = [name for some in found.values() for name in some]
    for name in every:
        if every.count(name) > 1:
            raise ValueError(f'data.examples.names has {name!r} twice')
    return found


def check_columns(setting: str, by_outcome: Mapping[str, Any] | None) -> dict[str, Any]:
    """A value for a, for b, and for tie or not.

    Raises:
        ValueError: There is no a or no b, or something else.
    """
    if by_outcome is None:
        return {}
    if {'a', 'b'} - set(by_outcome) or set(by_outcome) - set(OUTCOMES):
        raise ValueError(
            f'{setting} names {", ".join(by_outcome) or "none"}; name a and b, and tie where there are any'
        )
    return {outcome: by_outcome[outcome] for outcome in OUTCOMES if outcome in by_outcome}


def _n_read(parts: Sequence[Part]) -> int:
    return sum(part.head + part.tail for part in parts)


def _first_of_runs(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each place, the value at the first place of its run of equal keys."""
    if not len(keys):
        return values
    is_first = np.concatenate([[True], keys[1:] != keys[:-1]])
    return values[is_first][np.cumsum(is_first) - 1]
