"""A vocabulary learned from texts: the same each time, never over another, and clear about what does not fit."""

import pytest

from xlabml.tokenizer import Tokenizer, train_tokenizer


def test_the_same_texts_give_the_same_file(tmp_path, tokenizer, prose):
    again = train_tokenizer(prose * 20, tmp_path / 'again.model', 400, coverage=1.0)
    assert again.data == tokenizer.data == (tmp_path / 'again.model').read_bytes()
    assert Tokenizer.load(tmp_path / 'again.model').hash == again.hash


def test_nothing_is_ever_overwritten(tmp_path, prose):
    (tmp_path / 'mine.model').write_text('mine')
    with pytest.raises(FileExistsError, match=r'mine\.model exists, and a tokenizer is never overwritten'):
        train_tokenizer(prose, tmp_path / 'mine.model')
    assert (tmp_path / 'mine.model').read_text() == 'mine'


def test_the_terminal_stays_silent(tmp_path, capfd, prose):
    train_tokenizer(prose * 5, tmp_path / 'quiet.model', 350)
    assert capfd.readouterr() == ('', '')


def test_too_large_a_vocabulary_is_refused_with_the_largest_possible(tmp_path):
    with pytest.raises(ValueError, match=r'n_vocab is 4096, but the 2 texts have no more than \d+ pieces') as caught:
        train_tokenizer(['some words', 'and more words'], tmp_path / 'small.model', 4096)
    largest = int(str(caught.value).split('set n_vocab to ')[1].split(' ')[0])
    assert len(train_tokenizer(['some words', 'and more words'], tmp_path / 'small.model', largest)) == largest
    assert sorted(path.name for path in tmp_path.iterdir()) == ['small.model']


def test_too_small_a_vocabulary_is_refused(tmp_path, prose):
    with pytest.raises(ValueError, match='special tokens and bytes take 268'):
        train_tokenizer(prose, tmp_path / 'tiny.model', 268)
    with pytest.raises(ValueError, match=r'the characters of the texts alone take \d+; set n_vocab above that'):
        train_tokenizer(prose, tmp_path / 'tiny.model', 270, coverage=1.0)


@pytest.mark.parametrize('texts', [[], ['', '\n\n']])
def test_no_text_is_refused(tmp_path, texts):
    with pytest.raises(ValueError, match='there is no text to train a tokenizer on'):
        train_tokenizer(texts, tmp_path / 'none.model')
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_in_the_texts_comes_out_as_it_was(tmp_path):
    def broken():
        yield 'fine'
        raise KeyError('the disk was pulled out')

    with pytest.raises(KeyError, match='the disk was pulled out'):
        train_tokenizer(broken(), tmp_path / 'none.model')
    with pytest.raises(ValueError, match='text 1 holds a lone surrogate'):
        train_tokenizer(['fine', 'a\ud800'], tmp_path / 'none.model')
    assert list(tmp_path.iterdir()) == []


def test_texts_full_of_special_names_teach_no_special_token(tmp_path):
    text = '<sos><0xE2><mask>\u2581\u2585\0 <unk>'
    tokenizer = train_tokenizer(
        [text, 'some words <of> prose beside them'] * 50,
        tmp_path / 'special.model',
        290,
        coverage=1.0,
        split_by_script=False,
        split_by_number=False,
        split_digits=False,
    )
    assert set(tokenizer.encode(text)).isdisjoint(tokenizer.reserved_ids)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not any('\u2585' in tokenizer.piece(id) for id in range(268, len(tokenizer)))


def test_lines_of_any_length_are_learned_from(tmp_path):
    tokenizer = train_tokenizer(['abcabc ' * 30_000 + 'x' * 200_000], tmp_path / 'long.model', 280)
    assert tokenizer.encode('abc') == [tokenizer['abc']]


@pytest.mark.parametrize('coverage', [0.0, 1.5])
def test_a_coverage_that_is_no_share_is_refused(tmp_path, coverage, prose):
    with pytest.raises(ValueError, match='it is a share, above 0 and at most 1'):
        train_tokenizer(prose, tmp_path / 'none.model', coverage=coverage)
