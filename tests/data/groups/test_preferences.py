"""Preferences as tensors, worked out by hand: turns, budgets, the order of answers, outcomes, and what is refused."""

import json

import numpy as np
import pytest
import torch

from xlabml.batches import IGNORED
from xlabml.data import Location
from xlabml.data.groups import GROUP, Preferences
from xlabml.data.order import example_keys
from xlabml.errors import DataError, SettingsError

RECORDS = [
    {'prompt': 'a cat', 'response_a': 'the dog', 'response_b': 'a mat', 'winner': 'a'},
    {'prompt': 'the dog sat', 'response_a': 'a mat', 'response_b': 'the cat', 'winner': 'b'},
    {'prompt': 'the mat', 'response_a': 'a cat sat', 'response_b': '', 'winner': 'tie'},
]
WINNERS = {'a': 'winner_model_a', 'b': 'winner_model_b', 'tie': 'winner_tie'}


def make_form(**options):
    return Preferences(**{'label': 'winner', **options})


def exchange(record):
    outcome = {'a': 'b', 'b': 'a', 'tie': 'tie'}[record['winner']]
    both = {'response_a': record['response_b'], 'response_b': record['response_a']}
    return {**record, **both, 'winner': outcome}


def read(groups, *numbers):
    numbers = np.array(numbers)
    return groups.batch(numbers, example_keys(0, 0, numbers), float(len(numbers)))


def segments(batch):
    """The ids of each segment by example and role."""
    starts = batch.layout.starts.tolist()
    flat = batch.ids.flatten().tolist()
    places = zip(batch.example.tolist(), batch.role.tolist(), starts, starts[1:])
    return {(example, role): flat[a:b] for example, role, a, b in places if example >= 0}


def find(groups, text):
    return next(i for i in range(len(groups)) if text in [shown for _, shown in groups.render(i)])


def values(form, record, tmp_path, only=None):
    path = tmp_path / 'records.jsonl'
    path.write_text(json.dumps(record))
    [document] = form.source(Location(str(path), only=only)).documents([GROUP])
    return document


def test_both_orders_are_read_together_or_each_answer_with_its_prompt(make_groups, tokenizer):
    sos, sep, eos = (tokenizer.special_ids.get(name, tokenizer.special_ids['eos']) for name in ('sos', 'sep', 'eos'))
    prompt, a, b = (tokenizer.encode(RECORDS[0][name]) for name in ('prompt', 'response_a', 'response_b'))
    together = make_groups(make_form(), RECORDS)
    batch = read(together, find(together, 'a cat'))
    assert segments(batch) == {
        (0, 0): [sos, *prompt, sep, *a, sep, *b, eos],
        (0, 1): [sos, *prompt, sep, *b, sep, *a, eos],
    }
    apart = make_groups(make_form(together=False), RECORDS)
    batch = read(apart, find(apart, 'the dog'))
    assert segments(batch) == {(0, 0): [sos, *prompt, sep, *a, eos], (0, 1): [sos, *prompt, sep, *b, eos]}
    assert batch.targets.labels.tolist() == [0]
    bare = make_groups(make_form(prompt=None), RECORDS)
    assert segments(read(bare, find(bare, 'the dog')))[0, 0] == [sos, *a, sep, *b, eos]


@pytest.mark.parametrize('together', [True, False])
def test_exchanged_answers_are_the_same_tensors_with_exchanged_roles(make_groups, together):
    form = make_form(together=together)
    one = make_groups(form, RECORDS)
    other = make_groups(form, list(map(exchange, RECORDS)))
    prompts = [record['prompt'] for record in RECORDS]
    name = 'prompt' if together else 'prompt, read with a'
    numbers = [
        [next(i for i in range(3) if (name, text) in groups.render(i)) for text in prompts] for groups in (one, other)
    ]
    here = read(one, *numbers[0])
    there = read(other, *numbers[1])
    assert torch.equal(here.ids, there.ids)
    assert torch.equal(here.layout.starts, there.layout.starts)
    assert torch.equal(here.example, there.example)
    is_text = here.example >= 0
    assert torch.equal(here.role[is_text], 1 - there.role[is_text])
    assert 0 < here.role[is_text][::2].sum() < 3  # some stand in the order of the record, some do not
    assert here.targets.labels.tolist() == [0, 2, 1]
    assert there.targets.labels.tolist() == [2, 0, 1]


def test_equal_answers_are_one_segment_and_an_empty_one_stays(make_groups, tokenizer):
    same = {'prompt': 'a cat', 'response_a': 'the dog', 'response_b': 'the dog', 'winner': 'a'}
    empty = {'prompt': 'the mat', 'response_a': '', 'response_b': 'a cat', 'winner': 'b'}
    blank = {'prompt': 'the mat', 'response_a': 'a cat', 'response_b': ' \n ', 'winner': 'a'}
    groups = make_groups(make_form(together=False), [same, empty, blank])
    number = find(groups, 'the dog')
    batch = read(groups, number, 1 - number)
    found = segments(batch)
    assert set(found) == {(0, 0), (1, 0), (1, 1)}
    sep = tokenizer.special_ids.get('sep', tokenizer.special_ids['eos'])
    assert found[1, 0][-2:] == [sep, tokenizer.special_ids['eos']]
    described = '\n'.join(groups.describe())
    assert 'answers: 2 are empty; in 1 records both are the same, 1 of them with a winner' in described
    assert 'label: a 2, tie 0, b 1' in described


def test_turns_are_parsed_dropped_whole_and_cut_in_the_middle_and_that_is_shown(make_groups, tokenizer):
    record = {
        'prompt': json.dumps(['the cat sat', 'a mat']),
        'response_a': json.dumps(['on the dog', 'the cat sat on the mat ' * 4]),
        'response_b': json.dumps([None, 'a dog']),
        'winner': 'a',
    }
    form = make_form(turns=True)
    groups = make_groups(form, [record], max_len=24)
    shown = dict(groups.render(0))
    assert shown['prompt'] == '[1 turns dropped] | a mat'
    assert shown['b'].startswith('[1 turns dropped] | a dog')
    long = tokenizer.encode('the cat sat on the mat ' * 4)
    others = [len(tokenizer.encode(text)) for text in ('a mat', 'a dog')]
    n_read = 24 - 4 - sum(others)
    assert f'[{len(long) - n_read} tokens cut]' in shown['a']
    batch = read(groups, 0)
    [first, second] = [segments(batch)[0, role] for role in (0, 1)]
    assert len(first) == len(second) == 24
    assert [*long[: n_read - n_read // 2], *long[-(n_read // 2) :]] == first[2 + others[0] : 2 + others[0] + n_read]
    dropped = sum(len(tokenizer.encode(text)) for text in ('the cat sat', 'on the dog'))
    assert batch.targets.n_cut.tolist() == [len(long) - n_read + dropped]
    assert '100.0% are cut, 1 turns dropped' in '\n'.join(groups.describe())
    whole = make_groups(form, [record], max_len=200)
    eos = tokenizer.special_ids['eos']
    prompt = [*tokenizer.encode('the cat sat'), eos, *tokenizer.encode('a mat')]
    assert segments(read(whole, 0))[0, 0][1 : 1 + len(prompt)] == prompt


def test_a_score_reads_nothing_of_the_other_answer(make_groups):
    long = 'the cat sat on the mat ' * 5
    records = [{**RECORDS[0], 'response_b': text} for text in ('a mat', long)]
    found = []
    for record in records:
        groups = make_groups(make_form(together=False), [record], max_len=16)
        found.append(segments(read(groups, 0))[0, 0])
    assert found[0] == found[1]


def test_outcomes_are_read_as_people_have_them(tmp_path):
    record = {'prompt': 'a', 'response_a': 'b', 'response_b': 'c'}

    def outcome(form, **columns):
        group = values(form, {**record, **columns}, tmp_path).columns[GROUP]
        return group.get('label', group.get('target'))

    assert outcome(make_form(), winner='tie') == 'tie'
    named = make_form(names={'a': 'model_a', 'b': 'model_b', 'tie': ['tie', 'tie (bothbad)']})
    assert outcome(named, winner='tie (bothbad)') == 'tie'
    assert outcome(named, winner='model_b') == 'b'
    columns = dict(zip(WINNERS.values(), (0, 1, 0)))
    assert outcome(Preferences(winners=WINNERS), **columns) == 'b'
    shares = dict(zip(WINNERS.values(), (0.5, 0.125, 0.375)))
    assert outcome(Preferences(probabilities=WINNERS), **shares) == {'a': 0.5, 'b': 0.125, 'tie': 0.375}
    counts = dict(zip(WINNERS.values(), (6, 2, 0)))
    assert outcome(Preferences(counts=WINNERS), **counts) == {'a': 0.75, 'b': 0.25, 'tie': 0.0}
    assert outcome(Preferences(counts={'a': 'x', 'b': 'y'}), x=1, y=3) == {'a': 0.25, 'b': 0.75}


def test_rows_to_predict_need_no_outcome(tmp_path):
    record = {'prompt': 'a', 'response_a': 'b', 'response_b': 'c'}
    assert 'label' not in values(make_form(), record, tmp_path, only='predict').columns[GROUP]
    with pytest.raises(SettingsError, match="has no column 'winner'"):
        values(make_form(), record, tmp_path)


def test_an_example_without_an_outcome_counts_nothing(make_groups):
    form = make_form()
    groups = make_groups(form, RECORDS)
    groups.index.labels = np.full(3, IGNORED)
    assert read(groups, 0).targets.labels.tolist() == [IGNORED]
    assert groups.render(0)[-1] == ('label', '')


def test_copies_are_the_same_in_either_order(tmp_path):
    contents = {values(make_form(), record, tmp_path).content for record in (RECORDS[0], exchange(RECORDS[0]))}
    assert len(contents) == 1
    other = values(make_form(), {**RECORDS[0], 'winner': 'b'}, tmp_path).content
    assert other not in contents
    form = Preferences(probabilities=WINNERS)
    soft = [
        {**record, **dict(zip(WINNERS.values(), shares))}
        for record, shares in ((RECORDS[0], (0.5, 0.2, 0.3)), (exchange(RECORDS[0]), (0.2, 0.5, 0.3)))
    ]
    assert len({values(form, record, tmp_path).content for record in soft}) == 1


def test_halves_of_characters_and_numbers_become_text(tmp_path):
    record = {**RECORDS[0], 'prompt': '["\\ud83d", "\\ud83d\\ude00"]', 'response_a': 7, 'response_b': ['x', 'y']}
    record['response_b'] = '["x", "y"]'
    document = values(make_form(turns=True), {**record, 'response_a': '[]'}, tmp_path)
    assert document.text == '\ufffd😀xy'
    assert document.columns[GROUP]['roles'] == [0, 0, 1, 2, 2]
    lists = values(make_form(), {**RECORDS[0], 'response_a': 7, 'response_b': ['x', 'y']}, tmp_path)
    assert lists.text == 'a cat7xy'


@pytest.mark.parametrize(
    ('options', 'changed', 'message'),
    [
        ({}, {'winner': 'model_a'}, r"row 0: the column 'winner' holds 'model_a', which is no outcome \(a: a; tie"),
        ({}, {'prompt': '["one", "two"]'}, r'looks like a JSON list of turns .* set data\.examples\.turns to true'),
        ({'turns': True}, {'prompt': '["one", "two'}, r"row 0: the column 'prompt' holds no JSON list of turns"),
        ({'turns': True}, {'response_a': '[1]'}, 'a turn is no text'),
        ({'turns': True}, {'response_a': '{"a": 1}'}, 'it is no list'),
        ({'label': None, 'winners': WINNERS}, dict(zip(WINNERS.values(), (1, 1, 0))), 'exactly one must be 1'),
        ({'label': None, 'winners': WINNERS}, dict(zip(WINNERS.values(), (0, 0, 0))), '0 in winner_model_a, 0 in'),
        ({'label': None, 'probabilities': WINNERS}, dict(zip(WINNERS.values(), (0.5, 0.1, 0.1))), 'with the sum 0.7'),
        ({'label': None, 'probabilities': WINNERS}, dict(zip(WINNERS.values(), (1.5, -0.5, 0))), 'each must be 0 or'),
        ({'label': None, 'counts': WINNERS}, dict(zip(WINNERS.values(), (0, 0, 0))), 'one of them above 0'),
    ],
)
def test_a_record_that_is_broken_is_named(tmp_path, options, changed, message):
    form = make_form(**options)
    record = {**RECORDS[0], **changed}
    if options.get('turns'):
        texts = ('prompt', 'response_a', 'response_b')
        record |= {name: json.dumps([record[name]]) for name in texts if name not in changed}
    with pytest.raises(DataError, match=message):
        values(form, record, tmp_path)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'label': None}, 'names no outcome'),
        ({'counts': WINNERS}, 'names label and counts'),
        ({'label': None, 'winners': {'a': 'x', 'tie': 'y'}}, r'data\.examples\.winners names a, tie; name a and b'),
        ({'names': {'a': 'x', 'b': 'x'}}, "has 'x' twice"),
        ({'label': None, 'winners': WINNERS, 'names': {'a': 'x', 'b': 'y'}}, 'leave names out'),
        ({'a': 'prompt'}, "has the column 'prompt' twice"),
        ({'room': [1.0, 1.0]}, 'give a number above 0 for each of prompt, a, b'),
        ({'room': [1.0, 1.0, 1.0], 'together': False}, 'for each of prompt, an answer'),
        ({'cut': 'start'}, 'it must be end or middle'),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_form(**options)


def test_a_length_without_room_and_ties_alone_are_refused(make_groups):
    with pytest.raises(SettingsError, match=r'data\.max_len is 6'):
        make_groups(make_form(), RECORDS, max_len=6)
    with pytest.raises(SettingsError, match='all 1 training documents are ties'):
        make_groups(make_form(), RECORDS[2:])


def test_classes_have_one_order_and_their_counts_are_found(make_corpus):
    form = make_form()
    facts = form.facts(make_corpus(form, RECORDS))
    assert facts == {
        'classes': ['a', 'tie', 'b'],
        'class_counts': [1.0, 1.0, 1.0],
        'n_texts': 2,
        'max_windows': 1,
        'preference': 'together',
    }
    assert make_form(together=False).facts(make_corpus(form, RECORDS))['preference'] == 'apart'
