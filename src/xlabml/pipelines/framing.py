"""The texts of an example as a classifier was trained to read them: one, two together or apart, or a preference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from xlabml.blank import is_blank
from xlabml.budget import Part, count_windows, fit_turns, join_fields, share_room, share_window, split_ratios
from xlabml.errors import CheckpointError, RequestError
from xlabml.plain import Plain, below

PreferenceKind = Literal['together', 'scored']
Kind = Literal['one', 'joined', 'apart', 'together', 'scored', 'answer']
"""One text; two in a segment; two in a segment each; a preference whose answers are read together, in both orders; a
preference whose answers are read each with the prompt, and have a score; one answer of such, with the prompt."""

Turns: TypeAlias = str | Sequence[str]
"""A text, or its turns."""

Tokens: TypeAlias = Sequence[Sequence[Sequence[int]]]
"""For each field of an example, the tokens of each of its turns."""


class Segment(NamedTuple):
    """A segment of an example.

    Args:
        role: Its part in the example, as in Batch.
        ids: Its tokens, with those around them.
    """

    role: int
    ids: list[int]


class Framing(NamedTuple):
    """How the texts of an example become segments, as the format of the training data has it.

    Args:
        kind: What an example is.
        fields: The names of its texts.
        columns: Those of the training data that its texts stood in.
        has_turns: Whether texts in files are JSON lists of turns; None: what looks like one is refused.
        ratios: Of the tokens of a segment, for each text in it, where they are too long together.
        cuts_middle: Whether tokens are cut out of a text's middle; else off its end.
        max_windows: The most windows of a text alone; 1: it is cut.
        overlap: Tokens that a window shares with the one before.
    """

    kind: Kind = 'one'
    fields: tuple[str, ...] = ('text',)
    columns: tuple[str, ...] = ('text',)
    has_turns: bool | None = False
    ratios: tuple[float, ...] = (1.0,)
    cuts_middle: bool = False
    max_windows: int = 1
    overlap: int = 0

    @property
    def is_preference(self) -> bool:
        return self.kind in ('together', 'scored', 'answer')

    def of_one_answer(self) -> 'Framing':
        """How a prompt with one answer is read, as either answer of a preference is."""
        n = len(self.fields) - 1
        return self._replace(kind='answer', fields=self.fields[:n], columns=self.columns[:n])

    def fields_of(self, example: object, where: str) -> list[list[str]]:
        """The turns of each text of an example.

        Args:
            example: A text; or several in the order of `fields`, or by name; each a text or its turns, where it is
                part of a preference.
            where: The example, for messages.

        Raises:
            RequestError: It has not these texts; or one is empty that must not be.
        """
        names = ', '.join(self.fields)
        if isinstance(example, Mapping):
            missing = [name for name in self.fields if name not in example]
            if missing:
                raise RequestError(f'{where} has no {missing[0]!r}; its texts are {names}')
            values: Sequence[object] = [example[name] for name in self.fields]
        elif isinstance(example, str):
            values = [example]
        elif isinstance(example, Sequence):
            values = example
        else:
            raise RequestError(f'{where} is {example!r:.80}; give strings that are not empty')
        if len(values) != len(self.fields):
            several = 'a tuple' if len(self.fields) > 1 else 'one text'
            raise RequestError(
                f'{where} has {len(values)} texts, but this classifier reads {len(self.fields)} ({names}); '
                f'give {several} for each example'
            )
        found = []
        for name, value in zip(self.fields, values):
            turns = [value] if isinstance(value, str) else value
            is_known = isinstance(turns, Sequence) and all(isinstance(turn, str) for turn in turns)
            if not is_known or (not self.is_preference and (not isinstance(value, str) or is_blank(value))):
                named = where if len(self.fields) == 1 else f'the {name} of {where}'
                raise RequestError(f'{named} is {value!r:.80}; give strings that are not empty')
            assert isinstance(turns, Sequence)
            found.append([*turns] or [''])
        return found

    def segments(self, tokens: Tokens, max_len: int, special: Mapping[str, int]) -> tuple[list[Segment], int]:
        """The segments of an example, and how many tokens of its texts are not read.

        Those of a preference stand in the order of the answers' tokens, whichever is A, so that exchanged answers
        change nothing but roles; equal answers are one segment.

        Args:
            tokens: Of each turn of each text.
            max_len: The longest segment.
            special: The special tokens by name.
        """
        if self.max_windows > 1:
            return self._windows([turns[0] for turns in tokens], max_len, special)
        if self.kind == 'one' or self.kind == 'apart':
            parts = [self._frame([field], max_len, special) for field in tokens]
            return [Segment(role, ids) for role, (ids, _) in enumerate(parts)], sum(n_cut for _, n_cut in parts)
        if self.kind in ('joined', 'answer'):
            ids, n_cut = self._frame(tokens, max_len, special)
            return [Segment(0, ids)], n_cut
        *prompt, a, b = tokens
        n_prompt = len(prompt)
        if self.kind == 'together':
            orders: list[Tokens] = [[*prompt, a, b], [*prompt, b, a]]
        else:
            orders = [[*prompt, a], [*prompt, b]]
        framed = [self._frame(fields, max_len, special) for fields in orders]
        n_cut = framed[0][1]
        if self.kind == 'scored':
            cut = [_n_cut(fields, self._kept(fields, max_len)) for fields in orders]
            n_cut = max(sum(one[:n_prompt]) for one in cut) + sum(one[n_prompt] for one in cut)
        if [*a] == [*b]:
            return [Segment(0, framed[0][0])], n_cut
        found = [Segment(0, framed[0][0]), Segment(1, framed[1][0])]
        return found if [*map(list, a)] < [*map(list, b)] else found[::-1], n_cut

    def _windows(
        self, texts: Sequence[Sequence[int]], max_len: int, special: Mapping[str, int]
    ) -> tuple[list[Segment], int]:
        """A segment for each window of the last text, and how many tokens of all texts are in none."""
        lengths = np.array([list(map(len, texts))])
        shared, rooms = share_window(lengths, max_len, self.ratios)
        room = int(rooms[0])
        n = int(count_windows(lengths[:, -1], rooms, self.max_windows, self.overlap)[0])
        begins = [number * (room - self.overlap) for number in range(n)]
        sep = special.get('sep', special['eos'])
        before = [] if len(texts) == 1 else [*texts[0][: int(shared[0])], sep]
        tokens = texts[-1]
        segments = [[special['sos'], *before, *tokens[begin : begin + room], special['eos']] for begin in begins]
        found = [Segment(number, ids) for number, ids in enumerate(segments)]
        n_cut = max(0, len(tokens) - begins[-1] - room) + sum(map(len, texts[:-1])) - int(shared[0])
        return found, n_cut

    def _kept(self, fields: Tokens, max_len: int) -> list[list[Part]]:
        """What is read of the texts of a segment."""
        lengths = [[len(turn) for turn in turns] for turns in fields]
        room = max_len - len(fields) - 1
        if self.kind != 'joined':
            ratios = self.ratios if len(fields) > 1 else (1.0,)
            return fit_turns(lengths, room, ratios, self.cuts_middle)
        found: list[list[Part]] = []
        kept = share_room(np.array([[turns[0] for turns in lengths]]), room, self.ratios)[0].tolist()
        for (length,), n in zip(lengths, kept):
            tail = n // 2 if self.cuts_middle and n < length else 0
            found.append([Part(0, n - tail, tail)])
        return found

    def _frame(self, fields: Tokens, max_len: int, special: Mapping[str, int]) -> tuple[list[int], int]:
        """The tokens of a segment, and how many of its texts are not read."""
        kept = self._kept(fields, max_len)
        sep = special.get('sep', special['eos'])
        ids = join_fields(fields, kept, special['sos'], sep, special['eos'])
        return ids.tolist(), sum(_n_cut(fields, kept))


def read_framing(examples: Plain, n_texts: int, preference: PreferenceKind | None, path: Path) -> Framing:
    """The framing that a checkpoint was trained with.

    Args:
        examples: Its setting data.examples.
        n_texts: Texts of an example that its network reads apart.
        preference: What its network makes of a preference; None: it is of labelled texts.
        path: Its file, for messages.

    Raises:
        CheckpointError: A value is of no use.
    """
    known = below(examples, 'init_args')
    if preference is not None:
        kind: Kind = preference
        named = {'prompt': 'prompt', 'a': 'response_a', 'b': 'response_b'}
        if known.get('prompt', 'prompt') is None:
            del named['prompt']
        n_shared = len(named) - (preference == 'scored')
    else:
        is_pair = known.get('pair') is not None or n_texts == 2
        named = {'text': 'text', 'pair': 'pair'} if is_pair else {'text': 'text'}
        kind = 'one' if not is_pair else 'apart' if n_texts == 2 else 'joined'
        n_shared = len(named)
    columns = tuple(str(known.get(field) or column) for field, column in named.items())
    room = known.get('room')
    shares = [1.0] * n_shared if room is None else [*room] if isinstance(room, Sequence) else []
    cut = known.get('cut', 'end' if preference is None else 'middle')
    turns = known.get('turns') if preference is not None else False
    ratios = [float(share) for share in shares if isinstance(share, int | float) and share > 0]
    if len(shares) != n_shared or len(ratios) != n_shared or cut not in ('end', 'middle'):
        raise CheckpointError(f'{path} says data.examples has room {room!r:.80} and cut {cut!r:.80}, which is unknown')
    has_turns = turns if isinstance(turns, bool) else None
    windows = [known.get('max_windows', 1), known.get('window_overlap', 0)]
    max_windows, overlap = (value if isinstance(value, int) else -1 for value in windows)
    if max_windows < 1 or overlap < 0 or (max_windows > 1 and kind not in ('one', 'joined')):
        raise CheckpointError(f'{path} says data.examples has max_windows and window_overlap {windows!r:.80}')
    framed = split_ratios(ratios)
    return Framing(kind, tuple(named), columns, has_turns, framed, cut == 'middle', max_windows, overlap)


def _n_cut(fields: Tokens, kept: Sequence[Sequence[Part]]) -> list[int]:
    """Tokens of each text that are not read."""
    found = []
    for turns, parts in zip(fields, kept):
        found.append(sum(map(len, turns)) - sum(part.head + part.tail for part in parts))
    return found
