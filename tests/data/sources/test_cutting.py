"""What a document of a text file is."""

import io

import pytest

from xlabml.data import Location
from xlabml.data.corpus.splits import split_names, splits_in_order
from xlabml.data.sources.cutting import cut
from xlabml.errors import SettingsError

TEXT = 'CHAPTER 1\r\n\r\nOne. Two.\r\nThree.\n\n  \n\nCHAPTER 2\nFour.\n'


@pytest.mark.parametrize(
    ('document', 'found'),
    [
        ('file', [TEXT]),
        ('paragraph', ['CHAPTER 1', 'One. Two.\r\nThree.', 'CHAPTER 2\nFour.']),
        ('line', ['CHAPTER 1', 'One. Two.', 'Three.', 'CHAPTER 2', 'Four.']),
        (r'^CHAPTER \d', [TEXT[: TEXT.index('CHAPTER 2')], 'CHAPTER 2\nFour.\n']),
        ('^Three', [TEXT[: TEXT.index('Three')], TEXT[TEXT.index('Three') :]]),
    ],
)
def test_documents_by_hand(document, found):
    assert list(cut(io.StringIO(TEXT, newline=''), document)) == found


def test_windows_hold_every_character_and_end_where_the_text_does():
    text = 'ab cd.\n\nef gh\nij klmnopqrstuvwxyz'
    assert list(cut(io.StringIO(text, newline=''), 10)) == ['ab cd.\n\n', 'ef gh\n', 'ij klmnopq', 'rstuvwxyz']


def test_windows_do_not_depend_on_how_the_file_is_read(monkeypatch):
    text = 'A line of a text.\nAnother one, of more words.\n\n' * 200
    whole = list(cut(io.StringIO(text, newline=''), 333))
    monkeypatch.setattr('xlabml.data.sources.cutting._READ', 7)
    assert list(cut(io.StringIO(text, newline=''), 333)) == whole
    assert ''.join(whole) == text
    assert all(document.endswith('\n\n') for document in whole)


@pytest.mark.parametrize('document', ['paragraf', 0, True, '^('])
def test_what_is_no_document_is_refused(document):
    with pytest.raises(SettingsError, match='document is'):
        Location('a.txt', document=document)


def test_a_table_is_not_cut(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": "a"}\n')
    with pytest.raises(SettingsError, match=r'document is .line., but none of the files is one of \.txt'):
        Location(str(tmp_path / 'a.jsonl'), document='line').fingerprint()


@pytest.mark.parametrize(
    ('path', 'document', 'is_cut'),
    [
        ('a.txt', None, True),
        ('a.md.gz', None, True),
        ('a.jsonl', None, False),
        ('*.txt', None, False),
        ('texts', None, False),
        ('a.txt', 'file', False),
        ('texts', 'line', True),
    ],
)
def test_one_text_file_that_is_alone_is_cut(path, document, is_cut):
    assert Location(path, document=document).alone().in_order == is_cut
    assert Location(path, document=document).in_order == (document == 'line')


def test_splits_in_order_have_a_document_each_where_there_are_enough():
    def names(n, **ratios):
        return [split_names[i] if i >= 0 else '-' for i in splits_in_order(n, ratios)]

    assert names(10, train=0.6, val=0.2, test=0.1) == ['train'] * 6 + ['val'] * 2 + ['test', '-']
    assert names(4, train=0.98, val=0.01, test=0.01) == ['train', 'train', 'val', 'test']
    assert names(2, train=0.98, val=0.01, test=0.01) == ['train', 'val']
    assert names(3, train=1.0) == ['train'] * 3
