"""A vocabulary learned from texts: the same each time, never over another, and clear about what does not fit."""

import contextlib
import random
import re

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from xlabml.tokenizer import Tokenizer, train_tokenizer
from xlabml.tokenizer.model_file import without_field


def drawn(letters, n, length, seed=0):
    draw = random.Random(seed)
    return [''.join(draw.choices(letters, k=length)) for _ in range(n)]


SPACELESS = {
    'dna': (drawn('ACGT', 200, 100), 300),
    'chinese': (drawn('世界你好吗我很今日是天', 100, 50), 320),
    'one character': (['a' * 100], 272),
    'one letter': (['a'], 270),
    'digits': (drawn('0123456789', 50, 30), 279),
    'emoji': (['😀😁😂👩‍👧' * 20], 280),
    'tabs': (['\t\t\r\t' * 20, '\n'], 271),
    'a rare space': ([*drawn('ACGT', 200, 100), 'A C'], 300),
    'spaces': (['    ' * 10], 270),
    'unicode': ([''.join(map(chr, range(0x3000, 0x3400)))], 1300),
}
"""Texts of no space, or of fewer than one in 1 / (1 - coverage) characters, and a size that fits them."""


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
    with pytest.raises(ValueError, match=r'characters of the texts alone take \d+; set n_vocab to .* or more, or cov'):
        train_tokenizer(prose, tmp_path / 'tiny.model', 270, coverage=1.0)
    with pytest.raises(ValueError, match=r'characters of the texts alone take \d+; set n_vocab to \d+ or more$'):
        train_tokenizer(prose, tmp_path / 'tiny.model', 270, coverage=0.98)


@pytest.mark.parametrize('coverage', [0.98, 0.9995, 1.0])
@pytest.mark.parametrize('texts', [texts for texts, _ in SPACELESS.values()], ids=list(SPACELESS))
def test_the_size_that_is_named_works_for_whatever_texts(tmp_path, texts, coverage):
    for n_vocab in (269, 50_000):
        fits = n_vocab == 269 and texts == SPACELESS['spaces'][0]
        with contextlib.nullcontext() if fits else pytest.raises(ValueError, match='set n_vocab to') as caught:
            train_tokenizer(texts, tmp_path / f'{n_vocab}.model', n_vocab, coverage)
        if caught is not None:
            n_vocab = int(re.search(r'set n_vocab to (\d+) or', str(caught.value))[1])
            path = tmp_path / f'named-{len(list(tmp_path.iterdir()))}.model'
            assert len(train_tokenizer(texts, path, n_vocab, coverage)) == n_vocab


@settings(deadline=None, max_examples=100)
@given(st.text(st.one_of(st.sampled_from(' \u2581\n\tACGT世0a'), st.characters(exclude_categories=['Cs']))))
def test_without_spaces_in_its_texts_a_tokenizer_gives_every_string_back(spaceless, text):
    for name, tokenizer in spaceless.items():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text, name
        assert b''.join(tokenizer.piece_bytes[id] for id in ids) == text.encode(), name


@pytest.fixture(scope='module')
def spaceless(tmp_path_factory):
    folder = tmp_path_factory.mktemp('spaceless')
    return {name: train_tokenizer(*what[:1], folder / name, *what[1:]) for name, what in SPACELESS.items()}


def test_the_space_is_a_token_whatever_the_coverage(tmp_path):
    texts = ['abcdefgh' * 1000, 'a b']
    for coverage in (0.98, 0.9995, 1.0):
        tokenizer = train_tokenizer(texts, tmp_path / f'{coverage}.model', 290, coverage)
        assert tokenizer.encode(' ') == [tokenizer['\u2581']]


def test_the_file_is_what_it_was_before_the_space_was_required(tmp_path, monkeypatch, tokenizer, prose):
    """Where the texts have spaces, so that tokenizers and stores in a cache keep their names."""
    train = sentencepiece.SentencePieceTrainer.train
    asked = []

    def as_before(required_chars, **arguments):
        asked.append(required_chars)
        train(**arguments)

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, 'train', as_before)
    assert train_tokenizer(prose * 20, tmp_path / 'again.model', 400, coverage=1.0).data == tokenizer.data
    assert asked == ['\u2581']


def test_a_field_is_taken_out_of_a_message_and_all_else_stays():
    inner = b'\x08\x96\x01' + b'\xa2\x02\x03abc' + b'\x15wxyz' + b'\x19stuvwxyz'
    long = b'\x0a\x80\x02' + b'\xa2' * 256
    message = long + b'\x12' + bytes([len(inner)]) + inner + b'\x1a\x00'
    less = inner.replace(b'\xa2\x02\x03abc', b'')
    assert without_field(message, 2, 36) == long + b'\x12' + bytes([len(less)]) + less + b'\x1a\x00'
    assert without_field(message, 7, 36) == without_field(message, 2, 99) == message
    assert without_field(message, 1) == message[len(long) :]


@pytest.mark.parametrize(
    ('texts', 'what'),
    [
        ([], '0 texts hold nothing'),
        (['', ''], '2 texts hold nothing'),
        (['', '\n\n\0\u2581'], '2 texts hold line ends'),
    ],
)
def test_no_text_is_refused(tmp_path, texts, what):
    with pytest.raises(ValueError, match=f'there is no text to train a tokenizer on: the {what}'):
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


@pytest.mark.parametrize('coverage', [0.0, 0.5, 0.979, 1.0001, 1.5, float('nan')])
def test_a_coverage_that_sentencepiece_does_not_take_is_refused(tmp_path, coverage, prose):
    with pytest.raises(ValueError, match=r'coverage is .*; it is a share of the characters, from 0\.98 to 1'):
        train_tokenizer(prose, tmp_path / 'none.model', coverage=coverage)


@pytest.mark.parametrize('n', [0, 513])
def test_a_length_of_pieces_that_sentencepiece_does_not_take_is_refused(tmp_path, n, prose):
    with pytest.raises(ValueError, match=f'max_piece_chars is {n}; it must be 1 to 512'):
        train_tokenizer(prose, tmp_path / 'none.model', max_piece_chars=n)


def test_a_folded_tokenizer_has_the_same_tokens_for_a_word_wherever_and_however_it_stands(tmp_path, prose):
    folded = train_tokenizer(prose * 20, tmp_path / 'folded.model', 400, coverage=1.0, fold_text=True)
    word = folded.encode('packages')
    assert folded.encode('PACKAGES') == folded.encode('\nPackages ') == folded.encode('ｐackages') == word
    assert folded.encode('two\n  Packages') == [*folded.encode('two'), *word]
    assert folded.decode(folded.encode('Two\nPACKAGES, é')) == 'two packages, é'
    assert {'sos', 'eos', 'pad', 'mask', 'cls', 'sep', 'unk'} <= set(folded.special_ids)
    assert len(set(folded.special_ids.values())) == 7
    assert Tokenizer.load(tmp_path / 'folded.model').hash == folded.hash
    plain = train_tokenizer(prose * 20, tmp_path / 'plain.model', 400, coverage=1.0)
    assert plain.encode('PACKAGES') != plain.encode('packages') != plain.encode(' packages')
