"""Labelled texts as tensors, worked out by hand: classes, budgets, cuts, and what is refused."""

import numpy as np
import pytest
import torch

from xlabml.budget import share_room
from xlabml.data.groups import LabelledTexts
from xlabml.data.order import example_keys
from xlabml.errors import DataError, SettingsError

RECORDS = [
    {'text': 'a cat', 'stars': 'good', 'other': 'the dog'},
    {'text': 'the dog sat', 'stars': 'bad', 'other': 'a mat'},
    {'text': 'the cat sat on the mat', 'stars': 'good', 'other': 'the dog sat on the cat'},
]


def read(groups, *numbers):
    numbers = np.array(numbers)
    return groups.batch(numbers, example_keys(0, 0, numbers), float(len(numbers)))


def segments(batch):
    starts = batch.layout.starts.tolist()
    flat = batch.ids.flatten().tolist()
    return [flat[a:b] for a, b, is_text in zip(starts, starts[1:], batch.layout.is_text.tolist()) if is_text]


def find(groups, text):
    return next(i for i in range(len(groups)) if text in [shown for _, shown in groups.render(i)])


def make_form(**options):
    return LabelledTexts(**{'label': 'stars', **options})


def test_an_example_is_a_text_with_its_class(make_groups, tokenizer):
    groups = make_groups(make_form(), RECORDS)
    assert groups.classes == ['bad', 'good']
    numbers = [find(groups, text) for text in ('a cat', 'the dog sat')]
    batch = read(groups, *numbers)
    sos, eos = (tokenizer.special_ids[name] for name in ('sos', 'eos'))
    assert segments(batch) == [[sos, *tokenizer.encode(text), eos] for text in ('a cat', 'the dog sat')]
    assert batch.targets.labels.tolist() == [1, 0]
    assert batch.targets.weights.tolist() == [1, 1]
    assert batch.targets.n_cut.tolist() == [0, 0]
    assert batch.example[batch.example >= 0].tolist() == [0, 1]
    assert batch.documents[batch.example >= 0].tolist() == groups.documents[numbers].tolist()


def test_an_empty_place_is_nothing(make_groups):
    groups = make_groups(make_form(), RECORDS)
    with_hole = read(groups, 0, -1, 1)
    whole = read(groups, 0, 1)
    assert torch.equal(with_hole.ids, whole.ids)
    assert with_hole.targets.labels.tolist() == whole.targets.labels.tolist()
    none = read(groups, -1)
    assert none.targets.labels.shape == (0,)
    assert not (none.example >= 0).any()


def test_two_texts_are_one_segment_with_a_separator_or_two(make_groups, tokenizer):
    ids = tokenizer.special_ids
    joined = make_groups(make_form(pair='other'), RECORDS)
    number = find(joined, 'a cat')
    text, other = tokenizer.encode('a cat'), tokenizer.encode('the dog')
    assert segments(read(joined, number)) == [[ids['sos'], *text, ids.get('sep', ids['eos']), *other, ids['eos']]]
    apart = make_groups(make_form(pair='other', joined=False), RECORDS)
    batch = read(apart, number, 0)
    assert segments(batch)[:2] == [[ids['sos'], *text, ids['eos']], [ids['sos'], *other, ids['eos']]]
    assert batch.role[batch.example >= 0].tolist() == [0, 1, 0, 1]
    assert batch.example[batch.example >= 0].tolist() == [0, 0, 1, 1]


def test_what_is_too_long_is_shared_and_the_rest_is_the_others():
    lengths = np.array([[3, 3], [100, 4], [4, 100], [100, 100], [0, 100], [7, 5]])
    assert share_room(lengths, 10, (0.5, 0.5)).tolist() == [[3, 3], [6, 4], [4, 6], [5, 5], [0, 10], [5, 5]]
    assert share_room(lengths, 10, (0.3, 0.7)).tolist() == [[3, 3], [6, 4], [3, 7], [3, 7], [0, 10], [5, 5]]


@pytest.mark.parametrize('cut', ['end', 'middle'])
def test_the_end_or_the_middle_of_a_text_is_cut_and_that_is_shown(make_groups, tokenizer, cut):
    groups = make_groups(make_form(cut=cut), RECORDS, max_len=8)
    number = next(i for i in range(3) if 'tokens cut' in groups.render(i)[1][1])
    ids = tokenizer.encode('the cat sat on the mat')
    kept = ids[:6] if cut == 'end' else [*ids[:3], *ids[-3:]]
    batch = read(groups, number)
    assert segments(batch)[0][1:-1] == kept
    assert batch.targets.n_cut.tolist() == [len(ids) - 6]
    head = tokenizer.decode(ids[:6] if cut == 'end' else ids[:3])
    assert groups.render(number)[1][1].startswith(f'{head} [{len(ids) - 6} tokens cut]')
    assert groups.render(number)[2] == ('label', 'good')
    lengths = [len(tokenizer.encode(record['text'])) for record in RECORDS]
    assert f'{sum(n > 6 for n in lengths) / 3:.1%} of the texts are cut' in groups.describe()[1]


def test_both_texts_stay_visible_however_long_they_are(make_groups, tokenizer):
    records = [{'text': 'the cat sat ' * 30, 'stars': str(i), 'other': 'on a mat ' * 30} for i in range(2)]
    groups = make_groups(make_form(pair='other'), records, max_len=16)
    batch = read(groups, 0)
    (segment,) = segments(batch)
    assert len(segment) == 16
    assert segment[1:8] == tokenizer.encode(records[0]['text'])[:7]  # 13 tokens: what is odd goes to the first
    assert segment[9:15] == tokenizer.encode(records[0]['other'])[:6]


def test_rows_hold_whole_examples(make_groups):
    records = [{'text': f'the cat sat {i}', 'stars': str(i % 2), 'other': 'the dog sat'} for i in range(20)]
    for form in (make_form(), make_form(pair='other', joined=False)):
        groups = make_groups(form, records, device_tokens=32)
        batch = read(groups, *range(20))
        whole = read(make_groups(form, records), *range(20))
        assert len(batch.ids) > 1
        assert segments(batch) == segments(whole)
        n = len(batch.example) // len(batch.ids)
        rows = [set(batch.example[i * n : (i + 1) * n].tolist()) - {-1} for i in range(len(batch.ids))]
        assert sorted(one for row in rows for one in row) == list(range(20))


def test_classes_are_those_of_the_training_split_numbers_by_size(make_corpus):
    form = make_form()
    corpus = make_corpus(form, [{'text': f't {i}', 'stars': n} for i, n in enumerate([10, 9, 9, 2])])
    assert form.facts(corpus) == {
        'classes': ['2', '9', '10'],
        'class_counts': [1.0, 2.0, 1.0],
        'n_texts': 1,
        'max_windows': 1,
        'preference': 'none',
    }


def test_the_order_of_classes_is_that_of_the_settings(make_groups):
    groups = make_groups(make_form(classes=['good', 'bad']), RECORDS)
    assert read(groups, find(groups, 'a cat')).targets.labels.tolist() == [0]
    assert groups.render(find(groups, 'a cat'))[-1] == ('label', 'good')


def test_a_label_that_is_no_class_and_a_class_without_documents_are_refused_by_name(make_groups):
    with pytest.raises(SettingsError, match=r"the split train has a label .* \(good, fine\): 'bad' \(1 documents\)"):
        make_groups(make_form(classes=['good', 'fine']), RECORDS)
    with pytest.raises(SettingsError, match="no training document has the label 'fine'"):
        make_groups(make_form(classes=['good', 'fine', 'bad']), RECORDS)


def test_raters_and_probabilities_become_shares(make_groups):
    records = [{'text': 'a cat', 'said': ['x', 'y', 'x', 'x'], 'x': 0.25, 'y': '0.75'}]
    rated = make_groups(LabelledTexts(ratings='said'), records)
    assert rated.classes == ['x', 'y']
    assert read(rated, 0).targets.labels.tolist() == [[0.75, 0.25]]
    assert rated.render(0)[-1] == ('label', 'x 0.75, y 0.25')
    soft = make_groups(LabelledTexts(probabilities=['y', 'x']), records)
    assert soft.classes == ['y', 'x']
    assert read(soft, 0).targets.labels.tolist() == [[0.75, 0.25]]


def test_several_labels_and_numbers(make_groups):
    records = [{'text': 'a cat', 'tags': ['b', 'a'], 'n': 1.5}, {'text': 'a dog', 'tags': [], 'n': '-2'}]
    tagged = make_groups(LabelledTexts(labels='tags'), records)
    number = find(tagged, 'a cat')
    assert read(tagged, number, 1 - number).targets.labels.tolist() == [[1, 1], [0, 0]]
    numbered = make_groups(LabelledTexts(number='n'), records)
    assert numbered.classes == []
    number = find(numbered, 'a cat')
    assert read(numbered, number, 1 - number).targets.labels.tolist() == [[1.5], [-2]]
    assert numbered.render(number)[-1] == ('label', '1.5')


@pytest.mark.parametrize(
    ('form', 'record', 'message'),
    [
        (LabelledTexts(label='y'), {'text': 't', 'y': None}, r"row 0: the column 'y' holds None"),
        (LabelledTexts(ratings='y'), {'text': 't', 'y': []}, r"row 0: the column 'y' has no rating"),
        (LabelledTexts(labels='y'), {'text': 't', 'y': 'a'}, r"row 0: the column 'y' holds 'a' where a list"),
        (LabelledTexts(probabilities=['y', 'z']), {'text': 't', 'y': 0.5, 'z': 0.4}, r'row 0: .* with the sum 0\.9'),
        (LabelledTexts(probabilities=['y', 'z']), {'text': 't', 'y': 1.5, 'z': -0.5}, r'row 0: .* must be 0 or more'),
        (LabelledTexts(number='y'), {'text': 't', 'y': 'x'}, r"row 0: the column y holds 'x'"),
        (LabelledTexts(label='y'), {'text': '', 'y': 'a'}, r'row 0: a text of the role text .* is empty'),
        (LabelledTexts(number='y'), {'text': ' \t', 'y': 1}, r'row 0: a text of the role text .* is empty'),
    ],
)
def test_records_that_are_broken_are_refused_by_row(make_groups, form, record, message):
    with pytest.raises(DataError, match=message):
        make_groups(form, [record])


def test_a_column_that_is_not_there_is_refused_by_name(make_groups):
    with pytest.raises(SettingsError, match="no column 'y'; its columns are text"):
        make_groups(LabelledTexts(label='y'), [{'text': 't'}])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'names no label'),
        ({'label': 'a', 'number': 'b'}, 'names label and number'),
        ({'label': 'a', 'pair': 'text'}, "'text' as text and as pair"),
        ({'label': 'a', 'cut': 'start'}, "cut is 'start'"),
        ({'label': 'a', 'room': [0.5, 0.5]}, 'for each of the 1 texts'),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LabelledTexts(**options)


def test_odd_rows_are_left_out_and_said(make_corpus, make_reading):
    records = [{'text': f'the cat sat {i}', 'stars': 'good' if i % 2 else 'bad'} for i in range(40)]
    records += [{'text': f'a dog {i}', 'stars': f'rare {i}'} for i in range(6)]
    records += [{'text': '', 'stars': 'good'}, {'text': 'a mat', 'stars': ''}, {'text': 'a cat', 'stars': None}]
    form = make_form(leave_out_empty=True, leave_out_unknown=True)
    corpus = make_corpus(form, records, ratios={'train': 0.5, 'val': 0.5})
    assert len(corpus) == 46
    assert corpus.stores[0].manifest['invalid']['empty']['count'] == 3
    train = form.examples(corpus, 'train', 'train', 0, make_reading())
    with pytest.warns(
        UserWarning, match=r"of the split val are left out, since no training document .*'rare \d' \(1\)"
    ):
        val = form.examples(corpus, 'val', 'val', 0, make_reading())
    n_left_out = len(corpus.documents('val')) - len(val)
    assert n_left_out == sum(f'rare {i}' not in train.classes for i in range(6)) > 0
    assert (val.targets(np.arange(len(val))) >= 0).all()
    with pytest.raises(SettingsError, match='has a label that is none of the'):
        make_form(leave_out_empty=True).examples(corpus, 'val', 'val', 0, make_reading())
    with pytest.raises(DataError, match="row 47: the column 'stars' holds ''"):
        make_corpus(make_form(), [*records[:46], records[0], records[47]])
