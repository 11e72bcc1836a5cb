"""One novel in one file, and nothing else."""

import json

import pytest

from xlabml.data import Location
from xlabml.data.corpus import train_texts
from xlabml.datamodules import XLabDataModule
from xlabml.errors import SettingsError


def novel(tmp_path):
    path = tmp_path / 'novel.txt'
    path.write_text(''.join(f'Sentence number {i} of a tale, told by a teller.\n\n' for i in range(2000)))
    return path


def test_a_text_file_is_cut_and_its_end_is_val_and_test(tmp_path, capfd):
    path = novel(tmp_path)
    data = XLabDataModule([Location(str(path))], n_vocab=300, max_len=64, batch_tokens=256, num_workers=0)
    data.prepare_data()
    assert 'novel.txt: cut into windows of about 4,000 characters' in capfd.readouterr().err
    corpus = data.texts.corpus
    text = path.read_text()
    places = {}
    for split in ('train', 'val', 'test'):
        texts = [data.tokenizer.decode(corpus.tokens(i).tolist()) for i in corpus.documents(split).tolist()]
        places[split] = [text.index(found) for found in texts]
        assert text.find(''.join(texts)) == places[split][0]
    assert places['train'][0] == 0
    assert max(places['train']) < min(places['val']) <= max(places['val']) < min(places['test'])


def test_beside_another_source_a_file_is_one_document(tmp_path):
    path = novel(tmp_path)
    (tmp_path / 'b.jsonl').write_text(json.dumps({'text': 'another text'}) + '\n')
    both = XLabDataModule([Location(str(path)), Location(str(tmp_path / 'b.jsonl'))], n_vocab=300)
    assert [source.in_order for source in both.sources] == [False, False]


def test_beside_a_file_for_validation_a_file_is_cut_as_if_alone(tmp_path):
    path = novel(tmp_path)
    (tmp_path / 'val.txt').write_text('A text of its own, to validate on.')
    sources = [Location(str(path)), Location(str(tmp_path / 'val.txt'), only='val')]
    data = XLabDataModule(sources, splits={'train': 1.0, 'val': 0.0, 'test': 0.0}, n_vocab=300)
    data.prepare_data()
    corpus = data.texts.corpus
    assert [source.in_order for source in data.sources] == [True, False]
    assert [len(corpus.documents(split)) for split in ('train', 'val')] == [len(corpus) - 1, 1]


def test_few_documents_have_all_splits_and_the_tokenizer_sees_only_those_of_train(tmp_path):
    texts = [f'Text number {i}.' + letter * 40 for i, letter in enumerate('abcdefghij')]
    path = tmp_path / 'few.jsonl'
    path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
    data = XLabDataModule([Location(str(path))], n_vocab=300, num_workers=0)
    data.prepare_data()
    corpus = data.texts.corpus
    sizes = {split: len(corpus.documents(split)) for split in ('train', 'val', 'test')}
    assert sizes == {'train': 8, 'val': 1, 'test': 1}
    seen = [data.tokenizer.decode(corpus.tokens(i).tolist()) for i in corpus.documents('train').tolist()]
    assert list(train_texts(data.sources, data.texts.splitting)) == seen
    assert data.texts.corpus.splits(corpus.documents('val')).tolist() == [1]


def test_one_document_that_cannot_be_divided_is_refused_with_remedies_that_work(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text(json.dumps({'text': 'One text of a few sentences. ' * 40}) + '\n')
    options = {'n_vocab': 300, 'max_len': 64, 'batch_tokens': 256}
    data = XLabDataModule([Location(str(path))], **options)
    with pytest.raises(SettingsError, match=r'too few to divide: .*only: val.*\{train: 1, val: 0, test: 0\}'):
        [data.texts.open_examples(split, 'val') for split in ('train', 'val')]
    data = XLabDataModule([Location(str(path))], splits={'train': 1.0, 'val': 0.0, 'test': 0.0}, **options)
    data.prepare_data()
    assert len(data.texts.train_examples)
