"""Texts with labels as examples of a classifier: one text or two, within a budget of tokens that both share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt64
from torch import Tensor

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import IGNORED, Batch, ClassTargets, Layout
from xlabml.budget import share_room, share_window, split_ratios
from xlabml.data.corpus import Corpus
from xlabml.data.rows import Reading, ranges
from xlabml.data.sources import Source
from xlabml.errors import SettingsError
from xlabml.plain import Plain

from .batching import Batching, InOrder
from .dropping import check_dropout, drop_tokens
from .few_shot import check_per_class, of_classes
from .formats import GroupFormat
from .groups import Groups, TextLimits
from .index import make_index
from .labelled_records import TARGET, LabelColumns, LabelledRecords, count_classes
from .records import GROUP, Columns
from .text_rows import TextRows, fill_rows

_MOST_NAMED = 5


class Fields(NamedTuple):
    """How the texts of an example become segments.

    Args:
        room: The ratio of the tokens that each text may take, where together they are too long.
        is_joined: Whether they are one segment, with a separator between them.
        cuts_middle: Whether tokens are cut out of a text's middle; else off its end.
        classes: In the order of their numbers; None: the label is a number.
    """

    room: tuple[float, ...]
    is_joined: bool
    cuts_middle: bool
    classes: tuple[str, ...] | None


class LabelledGroups(Groups):
    """The labelled texts of a split. An example is a segment: sos, text, eos, or sos, text, sep, pair, eos; with texts
    that are not joined, a segment for each.

    Args:
        corpus: As in Groups, like the next four.
        index: Of the corpus.
        documents: The documents of the split.
        reading: Has the tokenizer.
        limits: How much of a record goes into an example.
        fields: How its texts become segments.
        split: The name of the split, for messages.

    Attributes:
        token_dropout: The ratio of the tokens that are left out of each text.

    Raises:
        SettingsError: A document has a label that is none of the classes, or a class has no document to train on.
    """

    token_dropout = 0.0

    def __init__(
        self,
        corpus: Corpus,
        documents: Int64[np.ndarray, ' groups'],
        reading: Reading,
        limits: TextLimits,
        fields: Fields,
        split: str,
    ) -> None:
        super().__init__(corpus, make_index(corpus, reading.folder), documents, reading.tokenizer, limits)
        self.fields = fields
        self._split_name = split
        ids = reading.tokenizer.special_ids
        self._sep = ids.get('sep', ids['eos'])
        self._n_texts = len(limits.roles)
        self._number_of: Int64[np.ndarray, ' classes'] | None = None
        known = list(fields.classes or [])
        if fields.classes is not None and self.index.classes:
            places = {name: i for i, name in enumerate(known)}
            self._number_of = np.array([places.get(name, IGNORED) for name in self.index.classes], np.int64)
            self._check_labels()

    @property
    def fingerprint(self) -> str:
        dropped = [self.token_dropout] if self.token_dropout else []
        return short_hash([super().fingerprint, *self.fields, *dropped])

    @property
    def texts_fingerprint(self) -> str:
        return short_hash([super().texts_fingerprint, *self.classes])

    @property
    def classes(self) -> list[str]:
        return list(self.fields.classes or [])

    def labels(self, numbers: Int64[np.ndarray, ' groups']) -> Int64[np.ndarray, ' groups']:
        """The class of each example; IGNORED where it has no single one."""
        found = self.index.labels[self.documents[numbers]]
        return found if self._number_of is None else np.where(found >= 0, self._number_of[found.clip(0)], IGNORED)

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
        text = self._fields_of(documents)  # e f
        kept = self._kept(documents)  # e f
        n_fields = self._n_texts
        per_example = 1 if self.fields.is_joined else n_fields
        around = 1 + n_fields if self.fields.is_joined else 2
        n_slots = (kept.sum(1, keepdims=True) if self.fields.is_joined else kept) + around  # e segments

        # Slots: rows hold whole examples.
        asked = self.limits.row_slots
        row_slots = None if asked is None else max(asked, per_example * self.limits.max_len)
        row, row_slots, n_rows = fill_rows(n_slots.sum(1), row_slots)
        longest_segment = min(self.limits.max_len, row_slots)
        rows = TextRows.of(n_slots.ravel(), np.repeat(row, per_example), n_rows, row_slots, longest_segment)
        begins = rows.begins.reshape(-1, per_example)
        ids = np.full(n_rows * row_slots, self._pad, np.int64)
        ids[begins] = self._ends[0]
        ids[begins + n_slots - 1] = self._ends[1]
        starts = begins + 1  # of each field's tokens, e f
        if self.fields.is_joined:
            starts = starts + np.cumsum(kept + 1, axis=1) - (kept + 1)
            ids[starts[:, 1:] - 1] = self._sep

        # Tokens: the beginning of each text, and its end where its middle is cut out.
        head, tail = self._halves(text, kept)
        first = self.index.begins[text]
        last = first + self.index.lengths[text] - tail
        ids[ranges(starts.ravel(), head.ravel())] = self.corpus.tokens_at(ranges(first.ravel(), head.ravel()))
        ids[ranges((starts + head).ravel(), tail.ravel())] = self.corpus.tokens_at(ranges(last.ravel(), tail.ravel()))

        example = np.repeat(np.arange(len(numbers)), per_example)
        role = np.tile(np.arange(per_example), len(numbers))
        n_cut = (self.index.lengths[text] - kept).sum(1)
        batch = self._as_batch(
            ids.reshape(n_rows, row_slots), rows, example, role, numbers, torch.from_numpy(n_cut), n_counted, seed
        )
        return self._without_some(batch, keys)

    def _without_some(self, batch: Batch, keys: UInt64[np.ndarray, ' e']) -> Batch:
        """A batch without the tokens that are left out."""
        if not self.token_dropout:
            return batch
        return drop_tokens(batch, keys, self.token_dropout, (*self._ends, self._sep), self._pad)

    def _as_batch(
        self,
        ids: Int64[np.ndarray, 'rows slots'],
        rows: TextRows,
        example: Int64[np.ndarray, ' t'],
        role: Int64[np.ndarray, ' t'],
        numbers: Int64[np.ndarray, ' e'],
        n_cut: Int[Tensor, ' e'],
        n_counted: float,
        seed: int,
    ) -> Batch:
        """Texts that are laid into rows, as a batch.

        Args:
            ids: The tokens of all rows.
            rows: Where the texts stand.
            example: Of each text.
            role: Of each text.
            numbers: Of the examples.
            n_cut: Tokens of each example that are not read.
            n_counted: As in Groups.batch, like the last.
            seed: Of dropout.
        """
        documents = rows.spread(self.documents[numbers][example], -1)
        longest = min(self.limits.max_len, ids.shape[1])
        targets = ClassTargets(torch.from_numpy(self.targets(numbers)), torch.ones(len(numbers)), n_cut)
        return Batch(
            torch.from_numpy(ids),
            Layout(torch.from_numpy(rows.starts), longest, torch.from_numpy(documents >= 0)),
            torch.from_numpy(documents),
            torch.from_numpy(rows.spread(example, -1)),
            torch.from_numpy(rows.spread(role, 0)),
            targets,
            n_counted,
            seed,
        )

    def targets(self, numbers: Int64[np.ndarray, ' e']) -> np.ndarray:
        """The label of each example: a class, or a number for each column, in float32."""
        if self.index.classes:
            return self.labels(numbers)
        classes = self.fields.classes
        found = np.zeros((len(numbers), 1 if classes is None else len(classes)), np.float32)
        places = {name: i for i, name in enumerate(classes or ())}
        for i, document in enumerate(self.documents[numbers].tolist()):
            target = self.corpus.columns(document)[GROUP].get(TARGET, {})
            if classes is None:
                found[i, 0] = target or 0.0  # none: it is only predicted
                continue
            for name, share in target.items():
                if name not in places:
                    raise self._unknown(f'document {self.corpus.name(document)}', [name])
                found[i, places[name]] = share
        return found

    def render(self, number: int) -> list[tuple[str, str]]:
        """The texts of an example as the model reads them, and its label."""
        if not 0 <= number < len(self):
            raise SettingsError(f'there is no example {number}; examples are 0 to {len(self) - 1}')
        documents = self.documents[[number]]
        found = [('example', self.corpus.name(int(documents[0])))]
        text = self._fields_of(documents)
        kept = self._kept(documents)
        heads, tails = self._halves(text, kept)
        for i, role in enumerate(self.limits.roles):
            begin = int(self.index.begins[text[0, i]])
            length = int(self.index.lengths[text[0, i]])
            head = int(heads[0, i])
            tail = int(tails[0, i])
            shown = self.tokenizer.decode(self.corpus.tokens_at(np.arange(begin, begin + head)).tolist())
            if n_cut := length - head - tail:
                end = np.arange(begin + length - tail, begin + length)
                shown += f' [{n_cut} tokens cut] ' + self.tokenizer.decode(self.corpus.tokens_at(end).tolist())
            found.append((role, shown.rstrip() if n_cut else shown))
        target = self.targets(np.array([number]))[0]
        classes = self.fields.classes
        if classes is None:
            label = f'{float(target[0]):g}'
        elif target.ndim:
            label = ', '.join(f'{name} {share:g}' for name, share in zip(classes, target.tolist()) if share)
        else:
            label = classes[int(target)] if target >= 0 else ''
        return [*found, ('label', label)]

    def _fields_of(self, documents: Int64[np.ndarray, ' e']) -> Int64[np.ndarray, 'e f']:
        """The number of each text of each document: each has one of every role."""
        return self.index.offsets[documents][:, None] + np.arange(self._n_texts)

    def _kept(self, documents: Int64[np.ndarray, ' e']) -> Int64[np.ndarray, 'e f']:
        """How many tokens of each text an example has."""
        lengths = self.index.lengths[self._fields_of(documents)]
        if not self.fields.is_joined:
            return np.minimum(lengths, self.limits.max_len - 2)
        return share_room(lengths, self.limits.max_len - 1 - self._n_texts, self.fields.room)

    def _halves(self, text: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens are taken of the beginning of each text, and of its end."""
        is_cut = self.index.lengths[text] > kept
        tail = np.where(is_cut & self.fields.cuts_middle, kept // 2, 0)
        return kept - tail, tail

    def _cut(self, text: Int64[np.ndarray, ' t']) -> Int64[np.ndarray, ' t']:
        documents = np.searchsorted(self.index.offsets, text, 'right') - 1
        kept = self._kept(documents)
        return self.index.lengths[text] - kept[np.arange(len(text)), text - self.index.offsets[documents]]

    def _check_labels(self) -> None:
        """See that every label is one of the classes, and that there is something to learn of each class."""
        assert self._number_of is not None
        labels = self.index.labels[self.documents]
        counts = np.bincount(labels[labels >= 0], minlength=len(self.index.classes))
        unknown = [
            f'{name!r} ({count:,} documents)'
            for name, count, number in zip(self.index.classes, counts.tolist(), self._number_of.tolist())
            if count and number < 0
        ]
        if unknown:
            raise self._unknown(f'the split {self._split_name}', unknown)
        if self._split_name != 'train':
            return
        there = {name for name, count in zip(self.index.classes, counts.tolist()) if count}
        absent = [repr(name) for name in self.classes if name not in there]
        if absent:
            raise SettingsError(
                f'no training document has the label {", ".join(absent[:_MOST_NAMED])}, which data.examples.classes '
                'names; leave it out there and in model.classes, or train on documents of it'
            )

    def _unknown(self, where: str, names: list[str]) -> SettingsError:
        shown = ', '.join(names[:_MOST_NAMED]) + (
            f' and {len(names) - _MOST_NAMED} more' if names[_MOST_NAMED:] else ''
        )
        classes = self.classes
        known = ', '.join(classes[:_MOST_NAMED]) + (' …' if classes[_MOST_NAMED:] else '')
        return SettingsError(
            f'{where} has a label that is none of the {len(classes)} classes ({known}): {shown}; classes are those of '
            'the training split where data.examples.classes is not set. Mend the label, move documents of it into '
            'train (data.stratify holds each class to the shares), or leave them out (data.examples.leave_out_unknown)'
        )


class LabelledTexts(GroupFormat):
    """One text with a label, or two, for classifiers; the settings name the columns; no other is read.

    Exactly one of label, labels, ratings, probabilities and number is named.

    Args:
        text: The column of the text.
        pair: The column of a second text; None: there is none.
        label: The column of the class, a name or a whole number.
        labels: The column of a list of classes, for several labels an example.
        ratings: The column of a list of classes, what each rater said: the model learns their shares.
        probabilities: A column for each class, of its name, with its probability.
        number: The column of a number, for a regression.
        classes: The classes in the order of their numbers; None: those of the training split, numbers by size, then
            names by the alphabet.
        joined: Whether two texts are read together, with a separator between them; else each is encoded alone.
        room: The ratio of the tokens that each of two joined texts may take where they are too long together; what one
            leaves over is the other's. None: half each.
        cut: Whether a text that is too long loses its end or its middle.
        leave_out_empty: Whether records with an empty text or without a label are left out and counted; else they are
            refused.
        leave_out_unknown: Whether examples to evaluate on, of a class that no training document has, are left out and
            named in a warning; else they are refused.
        batching: Which examples come together in a step; None: `InOrder`. `PerClass` has as many of each class.
        max_windows: The most windows of data.max_len tokens that a longer text is read in; what lies behind is cut.
            1: the text itself is cut. `model.windows` says how they are put together. Of two texts the pair is read in
            windows, and the text stands in each of them, within its share of the room.
        window_overlap: Tokens that a window shares with the one before.
        per_class: How many documents of each class are trained on, drawn from the training split; None: all.
        draw: Which draw that is; the draw of fewer is a part of it.
        token_dropout: The ratio of the tokens that are left out of each text in training, 0..1, drawn anew in each
            pass: no word alone is enough then, and steps are shorter. A text keeps one at least.

    Raises:
        ValueError: No column of a label is named, or several, or the rest does not go together.
    """

    targets = ClassTargets
    from_data = ('classes',)

    def __init__(
        self,
        text: str = 'text',
        pair: str | None = None,
        label: str | None = None,
        labels: str | None = None,
        ratings: str | None = None,
        probabilities: list[str] | None = None,
        number: str | None = None,
        classes: list[str] | None = None,
        joined: bool = True,
        room: list[float] | None = None,
        cut: str = 'end',
        leave_out_empty: bool = False,
        leave_out_unknown: bool = False,
        batching: Callable[[], Batching] | None = None,
        max_windows: int = 1,
        window_overlap: int = 0,
        per_class: int | None = None,
        draw: int = 0,
        token_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.token_dropout = check_dropout(token_dropout)
        _check_windows(max_windows, window_overlap, joined or pair is None, cut)
        self.max_windows = max_windows
        self.window_overlap = window_overlap
        check_per_class(per_class, draw, label)
        self.per_class = per_class
        self.draw = draw
        self.label_columns = LabelColumns(label, labels, ratings, tuple(probabilities or ()), number)
        self.classes = classes
        n_texts = 1 if pair is None else 2
        found = [1 / n_texts] * n_texts if room is None else room
        _check(self.label_columns, text, pair, found, cut)
        self.room = split_ratios(found)
        self.joined = joined or pair is None
        self.cut = cut
        self.leave_out_unknown = leave_out_unknown
        self.batching = (InOrder if batching is None else batching)()
        texts = {'text': (text,)} if pair is None else {'text': (text,), 'pair': (pair,)}
        self._records = Columns(texts, label, leave_out=leave_out_empty, others=self.label_columns.others)

    @property
    def records(self) -> Columns:
        return self._records

    def source(self, source: Source) -> Source:
        if source.only == 'predict':  # nothing is learned from its labels, which need not be there
            return LabelledRecords(source, self.records._replace(label=None, others=()), LabelColumns())
        return LabelledRecords(source, self.records, self.label_columns)

    def limits(self, max_len: int, row_slots: int | None) -> TextLimits:
        n = len(self.roles)
        if max_len < 2 * n + 1:
            raise SettingsError(f'data.max_len is {max_len}, which has no room for {n} texts; make it larger')
        n_tokens = int(share_window(np.full((1, n), max_len), max_len, self.room)[1][0])
        if self.max_windows > 1 and self.window_overlap >= n_tokens:
            raise SettingsError(
                f'data.examples.window_overlap is {self.window_overlap}, but a window has {n_tokens} tokens of the '
                f'{self.roles[-1]} (data.max_len{", data.examples.room" if n > 1 else ""}); give fewer'
            )
        return TextLimits(self.roles, (max_len - 2,) * n, (None,) * n, max_len, row_slots)

    def facts(self, corpus: Corpus) -> dict[str, Plain]:
        """`classes` of the training split and their `class_counts`, `n_texts`, how many are encoded apart,
        `max_windows`, and `preference`: none."""
        counts, is_number = (
            ({}, {})
            if self.label_columns.number is not None
            else count_classes(corpus, self.documents(corpus, 'train'))
        )
        asked: Sequence[str] | None = self.classes
        if asked is None and self.label_columns.probabilities:
            asked = self.label_columns.probabilities
        if asked is None:
            asked = sorted(counts, key=lambda name: (not is_number[name], int(name) if is_number[name] else 0, name))
        return {
            'classes': list(asked),
            'class_counts': [round(counts.get(name, 0.0), 3) for name in asked],
            'n_texts': 1 if self.joined else len(self.roles),
            'max_windows': self.max_windows,
            'preference': 'none',
        }

    def examples(self, corpus: Corpus, split: str, stage: str, pass_index: int, reading: Reading) -> LabelledGroups:
        limits = self.limits(reading.plan.length, reading.device_tokens)
        classes: tuple[str, ...] | None = None
        if self.label_columns.number is None:
            found = self.facts(corpus)['classes'] if self.classes is None else self.classes
            assert isinstance(found, list)
            classes = tuple(map(str, found))
        fields = Fields(self.room, self.joined, self.cut == 'middle', classes)
        documents = self.documents(corpus, split)
        if self.leave_out_unknown and split != 'train' and classes is not None:
            documents = of_classes(corpus, documents, classes, split)
        arguments = (corpus, documents, reading, limits, fields, split)
        if self.max_windows == 1:
            groups = LabelledGroups(*arguments)
        else:
            from .windowed import WindowedGroups  # which is derived from the class above

            groups = WindowedGroups(*arguments, self.max_windows, self.window_overlap)
        if stage == 'train':
            groups.token_dropout = self.token_dropout
        return groups

    def settings(self) -> dict[str, Any]:
        labels = self.label_columns._asdict()
        labels['probabilities'] = list(self.label_columns.probabilities)
        own = {'labels': labels, 'joined': self.joined, 'room': list(self.room), 'cut': self.cut}
        windows = {} if self.max_windows == 1 else {'windows': [self.max_windows, self.window_overlap]}
        dropped = {'token_dropout': self.token_dropout} if self.token_dropout else {}
        return {**super().settings(), **own, **windows, **dropped}


def _check_windows(max_windows: int, overlap: int, is_joined: bool, cut: str) -> None:
    if max_windows < 1 or overlap < 0:
        raise SettingsError(
            f'data.examples has max_windows {max_windows} and window_overlap {overlap}; give 1 or more, and 0 or more'
        )
    if max_windows == 1 and overlap:
        raise SettingsError(
            f'data.examples.window_overlap is {overlap}, but there are no windows; set max_windows, or leave it out'
        )
    if max_windows > 1 and (not is_joined or cut != 'end'):
        other = f'cut is {cut}' if is_joined else 'joined is false'
        raise SettingsError(
            f'data.examples.max_windows is {max_windows}, but {other}: windows are of one segment, of whose last text '
            'the end is cut behind the last one; leave one of them out'
        )


def _check(labels: LabelColumns, text: str, pair: str | None, room: list[float], cut: str) -> None:
    named = [name for name, value in labels._asdict().items() if value]
    if len(named) != 1:
        what = f'data.examples names {" and ".join(named)}' if named else 'data.examples names no label'
        raise ValueError(
            f'{what}; name the column of one of label, labels, ratings, probabilities and number, as in '
            '--data.examples.label stars'
        )
    if pair == text:
        raise ValueError(f'data.examples has the column {text!r} as text and as pair')
    if cut not in ('end', 'middle'):
        raise ValueError(f'data.examples.cut is {cut!r}; it must be end or middle')
    n_texts = 1 if pair is None else 2
    if len(room) != n_texts or not all(share > 0 for share in room):
        raise ValueError(f'data.examples.room is {room}; give a number above 0 for each of the {n_texts} texts')
