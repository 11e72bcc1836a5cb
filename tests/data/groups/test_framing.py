"""Pipelines frame the texts of an example exactly as the formats of the data do."""

from pathlib import Path

import numpy as np
import pytest

from xlabml.data.groups import LabelledTexts, Preferences
from xlabml.data.order import example_keys
from xlabml.errors import CheckpointError, RequestError
from xlabml.pipelines.framing import Framing, read_framing

LONG = 'the cat sat on the mat and a dog sat on the cat '
LABELLED = [
    {'text': 'a cat', 'stars': 'good', 'pair': 'the dog'},
    {'text': LONG, 'stars': 'bad', 'pair': 'a mat'},
    {'text': 'the mat', 'stars': 'good', 'pair': LONG},
    {'text': LONG, 'stars': 'bad', 'pair': LONG * 2},
]
PREFERENCES = [
    {'prompt': 'a cat', 'response_a': 'the dog', 'response_b': 'a mat', 'winner': 'a'},
    {
        'prompt': ['a cat', LONG, 'the'],
        'response_a': [LONG, 'a', 'mat'],
        'response_b': ['dog', 'a', LONG],
        'winner': 'b',
    },
    {'prompt': LONG, 'response_a': '', 'response_b': LONG * 2, 'winner': 'a'},
    {'prompt': 'the mat', 'response_a': 'a cat', 'response_b': 'a cat', 'winner': 'tie'},
]


def examples_of(groups):
    """Of each example the segments with their roles, however they stand; what is cut; and the texts."""
    numbers = np.arange(len(groups))
    batch = groups.batch(numbers, example_keys(0, 0, numbers), float(len(numbers)))
    flat = batch.ids.flatten().tolist()
    starts = batch.layout.starts.tolist()
    places = list(zip(batch.example.tolist(), batch.role.tolist(), starts, starts[1:]))
    for i in numbers.tolist():
        yield {(role, *flat[a:b]) for example, role, a, b in places if example == i}, int(batch.targets.n_cut[i]), i


def check(groups, framing, tokenizer, texts_of):
    for segments, n_cut, number in examples_of(groups):
        fields = framing.fields_of(texts_of(number), 'example')
        tokens = [[tokenizer.encode(turn) for turn in turns] for turns in fields]
        found, cut = framing.segments(tokens, groups.limits.max_len, tokenizer.special_ids)
        assert {(segment.role, *segment.ids) for segment in found} == segments
        assert cut == n_cut


@pytest.mark.parametrize(
    ('options', 'kind', 'n_texts'),
    [
        ({'cut': 'middle'}, 'one', 1),
        ({'pair': 'pair', 'room': [0.3, 0.7]}, 'joined', 1),
        ({'pair': 'pair', 'cut': 'middle'}, 'joined', 1),
        ({'pair': 'pair', 'joined': False}, 'apart', 2),
        ({'max_windows': 9}, 'one', 1),
        ({'max_windows': 2, 'window_overlap': 5}, 'one', 1),
        ({'pair': 'pair', 'max_windows': 9, 'window_overlap': 2}, 'joined', 1),
        ({'pair': 'pair', 'max_windows': 2, 'room': [0.3, 0.7]}, 'joined', 1),
    ],
)
def test_texts_are_framed_as_in_training(make_groups, tokenizer, options, kind, n_texts):
    groups = make_groups(LabelledTexts(label='stars', **options), LABELLED, max_len=16)
    framing = read_framing({'init_args': {'label': 'stars', **options}}, n_texts, None, Path('x'))
    assert framing.kind == kind
    check(groups, framing, tokenizer, lambda number: groups.texts_of(groups.documents[[number]])[0])


@pytest.mark.parametrize('together', [True, False])
def test_preferences_are_framed_as_in_training(make_groups, tokenizer, together):
    options = {'label': 'winner', 'together': together, 'room': [1.0, 2.0, 2.0][: 3 if together else 2]}
    groups = make_groups(Preferences(**options), PREFERENCES, max_len=24)
    framing = read_framing({'init_args': options}, 2, 'together' if together else 'scored', Path('x'))
    assert framing.columns == ('prompt', 'response_a', 'response_b')

    def texts_of(number):
        record = PREFERENCES[int(groups.name(int(groups.documents[number])))]
        return tuple(record[name] for name in ('prompt', 'response_a', 'response_b'))

    check(groups, framing, tokenizer, texts_of)
    assert [texts[0] for texts in groups.texts_of(groups.documents)][1].count('\n') == 2


def test_one_answer_is_framed_as_either_of_two(tokenizer):
    framing = Framing('scored', ('prompt', 'a', 'b'), ('prompt', 'a', 'b'), None, (0.5, 0.5), True)
    both = [[tokenizer.encode(text)] for text in (LONG, 'a cat', LONG * 2)]
    found, _ = framing.segments(both, 16, tokenizer.special_ids)
    alone = framing.of_one_answer()
    assert alone.fields == ('prompt', 'a')
    for segment in found:
        [same], _ = alone.segments([both[0], both[1 + segment.role]], 16, tokenizer.special_ids)
        assert same.ids == segment.ids


def test_what_is_no_example_is_refused():
    pair = read_framing({'init_args': {'text': 'review', 'pair': 'title'}}, 1, None, Path('x'))
    assert pair.columns == ('review', 'title')
    for example, message in (
        ('a', r'row 3 has 1 texts, but this classifier reads 2 \(text, pair\)'),
        (('a', ''), "the pair of row 3 is ''"),
        ({'text': 'a'}, "row 3 has no 'pair'"),
        (5, 'row 3 is 5'),
    ):
        with pytest.raises(RequestError, match=message):
            pair.fields_of(example, 'row 3')
    with pytest.raises(CheckpointError, match='room'):
        read_framing({'init_args': {'pair': 'b', 'room': [1, 'x']}}, 1, None, Path('x'))
