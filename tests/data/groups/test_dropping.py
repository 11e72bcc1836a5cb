"""Texts without some of their tokens: which are left, in training alone, and how rows and shapes follow."""

import numpy as np
import pytest
import torch
from test_labelled import make_form
from test_preferences import RECORDS as PREFERENCES
from test_preferences import make_form as make_preferences

from xlabml.data.order import example_keys
from xlabml.errors import SettingsError

LONG = 'the cat sat on the mat the dog sat on the cat'
RECORDS = [
    {'text': LONG, 'pair': 'a cat sat', 'stars': 'good'},
    {'text': 'a cat', 'pair': LONG, 'stars': 'bad'},
    {'text': f'{LONG} {LONG}', 'pair': 'the mat', 'stars': 'good'},
    {'text': 'mat', 'pair': 'cat', 'stars': 'bad'},
]
FORMS = {
    'one text': (make_form(), RECORDS),
    'joined': (make_form(pair='pair'), RECORDS),
    'apart': (make_form(pair='pair', joined=False), RECORDS),
    'windows': (make_form(max_windows=4), RECORDS),
    'together': (make_preferences(), PREFERENCES),
    'answers apart': (make_preferences(together=False), PREFERENCES),
}


def read(groups, pass_index, *numbers):
    numbers = np.array(numbers)
    return groups.batch(numbers, example_keys(0, pass_index, numbers), float(len(numbers)))


def by_text(batch):
    """The ids of each segment, by example and role."""
    starts = batch.layout.starts.tolist()
    flat = batch.ids.flatten().tolist()
    places = zip(batch.example.tolist(), batch.role.tolist(), starts, starts[1:])
    return {(example, role): flat[a:b] for example, role, a, b in places if example >= 0}


def dropped(whole, ratio):
    """The same examples, without some tokens."""
    groups = whole.__class__.__new__(whole.__class__)
    groups.__dict__.update(whole.__dict__)
    groups.token_dropout = ratio
    return groups


@pytest.mark.parametrize('device_tokens', [None, 64], ids=['one row', 'rows'])
@pytest.mark.parametrize('name', FORMS)
def test_what_is_left_is_in_order_and_framed_and_new_in_each_pass(make_groups, tokenizer, name, device_tokens):
    form, records = FORMS[name]
    whole = make_groups(form, records, max_len=16, device_tokens=device_tokens)
    groups = dropped(whole, 0.5)
    numbers = range(len(records))
    all_ids = by_text(read(whole, 0, *numbers))
    passes = [by_text(read(groups, i, *numbers)) for i in (0, 0, 1)]
    assert passes[0] == passes[1] != passes[2]
    ids = tokenizer.special_ids
    framing = {ids['sos'], ids['eos'], ids.get('sep', ids['eos'])}
    for left in passes:
        assert left.keys() == all_ids.keys()
        for key, kept in left.items():
            rest = iter(all_ids[key])
            assert all(any(id == other for other in rest) for id in kept)  # a subsequence
            assert [id for id in kept if id in framing] == [id for id in all_ids[key] if id in framing]
            assert set(kept) - framing or not set(all_ids[key]) - framing
    shorter = read(groups, 0, *numbers)
    assert shorter.layout.starts[-1] == shorter.ids.numel()
    assert shorter.layout.starts.diff().max() <= shorter.layout.max_length
    assert torch.equal(shorter.targets.labels, read(whole, 0, *numbers).targets.labels)


def test_the_ratio_is_what_is_left_out_and_a_text_keeps_a_token(make_groups):
    groups = dropped(make_groups(make_form(), RECORDS, max_len=64), 0.3)
    number = next(i for i in range(4) if (LONG + ' ' + LONG) in dict(groups.render(i))['text'])
    whole = len(by_text(read(dropped(groups, 0.0), 0, number))[0, 0]) - 2
    left = [len(by_text(read(groups, i, number))[0, 0]) - 2 for i in range(100)]
    assert np.mean(left) / whole == pytest.approx(0.7, abs=0.03)
    alone = dropped(groups, 0.999)
    assert {len(by_text(read(alone, i, number))[0, 0]) for i in range(20)} == {3}


@pytest.mark.parametrize('make', [make_form, make_preferences])
def test_tokens_are_left_out_in_training_alone(make, make_corpus, make_reading):
    form = make(token_dropout=0.5)
    corpus = make_corpus(form, PREFERENCES if make is make_preferences else RECORDS)
    ratios = {
        stage: form.examples(corpus, 'train', stage, 0, make_reading()).token_dropout for stage in ('train', 'val')
    }
    assert ratios == {'train': 0.5, 'val': 0.0}
    assert form.settings() != make().settings()
    assert 'token_dropout' not in make().settings()  # stores and runs of before stay what they are


@pytest.mark.parametrize('ratio', [-0.1, 1.0])
@pytest.mark.parametrize('make', [make_form, make_preferences])
def test_a_ratio_that_leaves_nothing_is_refused(make, ratio):
    with pytest.raises(SettingsError, match=r'data.examples.token_dropout is .*; give a ratio from 0 to below 1'):
        make(token_dropout=ratio)


def test_what_a_model_reads_of_them_is_no_part_of_what_texts_are(make_corpus, make_reading):
    form = make_form()
    corpus = make_corpus(form, RECORDS)
    short, long = (form.examples(corpus, 'train', 'train', 0, make_reading(max_len=n)) for n in (8, 32))
    assert short.fingerprint != long.fingerprint
    assert short.texts_fingerprint == long.texts_fingerprint == dropped(long, 0.5).texts_fingerprint
    other = make_form(classes=['good', 'bad']).examples(corpus, 'train', 'train', 0, make_reading())
    assert other.texts_fingerprint != long.texts_fingerprint
    fewer = make_form(per_class=1).examples(corpus, 'train', 'train', 0, make_reading())
    assert fewer.texts_fingerprint != long.texts_fingerprint
