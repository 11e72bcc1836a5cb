"""Labelled texts in windows: which tokens each has, by hand, and what is cut or refused."""

import numpy as np
import pytest
from test_labelled import find, make_form, read, segments

from xlabml.budget import count_windows
from xlabml.errors import SettingsError

LONG = 'the cat sat on the mat the dog sat on the cat'
RECORDS = [{'text': 'a cat', 'stars': 'good'}, {'text': LONG, 'stars': 'bad'}, {'text': 'the dog', 'stars': 'good'}]


@pytest.mark.parametrize(('overlap', 'most'), [(0, 99), (2, 99), (2, 2)])
def test_windows_hold_all_of_a_text_in_turn(make_groups, tokenizer, overlap, most):
    groups = make_groups(make_form(max_windows=most, window_overlap=overlap), RECORDS, max_len=8)
    ids = tokenizer.encode(LONG)
    room = 6
    begins = [b for b in range(0, len(ids), room - overlap) if b == 0 or b + overlap < len(ids)][:most]
    assert len(begins) > 1
    batch = read(groups, find(groups, 'a cat'), next(i for i in range(3) if 'bad' in dict(groups.render(i))['label']))
    sos, eos = (tokenizer.special_ids[name] for name in ('sos', 'eos'))
    windows = [[sos, *ids[b : b + room], eos] for b in begins]
    assert segments(batch) == [[sos, *tokenizer.encode('a cat')[:room], eos], *windows]
    there = batch.example >= 0
    assert batch.example[there].tolist() == [0] + [1] * len(windows)
    assert batch.role[there].tolist() == [0, *range(len(windows))]
    covered = min(len(ids), begins[-1] + room)
    assert batch.targets.n_cut.tolist() == [0, len(ids) - covered]
    assert (covered == len(ids)) == (most == 99)
    assert len(batch.targets.labels) == 2


@pytest.mark.parametrize(('overlap', 'most'), [(0, 99), (2, 99), (2, 2)])
def test_of_a_pair_the_first_text_stands_in_every_window_of_the_second(make_groups, tokenizer, overlap, most):
    records = [{'text': LONG, 'pair': LONG, 'stars': 'bad'}, {'text': LONG, 'pair': 'a cat', 'stars': 'good'}]
    form = make_form(pair='pair', max_windows=most, window_overlap=overlap)
    groups = make_groups(form, records, max_len=11)
    sos, eos = (tokenizer.special_ids[name] for name in ('sos', 'eos'))
    sep = tokenizer.special_ids.get('sep', eos)
    ids = tokenizer.encode(LONG)
    short = tokenizer.encode('a cat')
    begins = [b for b in range(0, len(ids), 4 - overlap) if b == 0 or b + overlap < len(ids)][:most]
    windows = [[sos, *ids[:4], sep, *ids[b : b + 4], eos] for b in begins]
    number = next(i for i in range(2) if 'bad' in dict(groups.render(i))['label'])
    batch = read(groups, number, 1 - number)
    assert segments(batch) == [*windows, [sos, *ids[: 8 - len(short)], sep, *short, eos]]
    there = batch.example >= 0
    assert batch.role[there].tolist() == [*range(len(windows)), 0]
    covered = min(len(ids), begins[-1] + 4)
    assert batch.targets.n_cut.tolist() == [2 * len(ids) - 4 - covered, len(ids) - 8 + len(short)]
    assert groups.render(number)[-1] == ('windows', str(len(windows)))


def test_rows_hold_whole_examples(make_groups):
    groups = make_groups(make_form(max_windows=4), RECORDS * 3, max_len=8, device_tokens=40)
    batch = read(groups, *range(3))
    n = len(batch.example) // len(batch.ids)
    rows = [set(batch.example[i * n : (i + 1) * n].tolist()) - {-1} for i in range(len(batch.ids))]
    assert set.union(*rows) == {0, 1, 2}
    assert sum(map(len, rows)) == 3


def test_how_many_windows_there_are():
    lengths = np.array([0, 1, 6, 7, 12, 13, 100])
    assert count_windows(lengths, 6, 99, 0).tolist() == [1, 1, 1, 2, 2, 3, 17]
    assert count_windows(lengths, 6, 3, 2).tolist() == [1, 1, 1, 2, 3, 3, 3]


def test_facts_and_identity_say_how_texts_are_read(make_corpus):
    plain, windowed = make_form(), make_form(max_windows=4, window_overlap=3)
    corpus = make_corpus(plain, RECORDS)
    assert plain.facts(corpus)['max_windows'] == 1
    assert windowed.facts(corpus)['max_windows'] == 4
    assert 'windows' not in plain.settings()
    assert windowed.settings()['windows'] == [4, 3]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'max_windows': 0}, 'max_windows 0'),
        ({'window_overlap': 3}, 'there are no windows'),
        ({'max_windows': 3, 'pair': 'other', 'joined': False}, 'joined is false: windows are of one segment'),
        ({'max_windows': 3, 'cut': 'middle'}, 'cut is middle'),
    ],
)
def test_what_has_no_windows_is_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        make_form(**options)


def test_an_overlap_of_all_of_a_window_is_refused(make_groups):
    with pytest.raises(SettingsError, match='window_overlap is 6, but a window has 6 tokens of the text'):
        make_groups(make_form(max_windows=3, window_overlap=6), RECORDS, max_len=8)
    form = make_form(max_windows=3, window_overlap=3, pair='pair', room=[0.6, 0.4])
    pairs = [{**record, 'pair': 'a cat'} for record in RECORDS]
    with pytest.raises(SettingsError, match=r'window_overlap is 3, but a window has 3 tokens of the pair .*room'):
        make_groups(form, pairs, max_len=11)
