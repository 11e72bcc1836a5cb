"""`xlab-manage mine`: pairs of a file, or of a folder of BEIR's, to a file that TextGroups reads."""

import json
import re

import numpy as np
import pytest
from bert_folders import write_folder

from xlabml.commands.manage import main
from xlabml.conversion import import_folder
from xlabml.data import Location, TextGroups
from xlabml.heads import TokenVectors
from xlabml.pipelines import TextEmbedder

PAIRS = [('Quick fox', 'the brown fox'), ('dog', 'the lazy dog'), ('cat', 'cat sat on the mat'), ('dog', 'the dog ran')]


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    path = tmp_path_factory.mktemp('mining')
    folder, _ = write_folder(path / 'folder')
    return str(import_folder(folder, path / 'e.safetensors').export.path)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{'title': title, 'text': text} for title, text in PAIRS]
    (tmp_path / 'pairs.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    return tmp_path


COMMAND = ['pairs.jsonl', '--anchor', 'title', '--positive', 'text', '--output', 'n.jsonl']


def read(name='n.jsonl'):
    with open(name, encoding='utf-8') as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize('layout', ['roles', 'flag'])
def test_negatives_are_the_nearest_texts_that_do_not_answer(ckpt, capsys, layout):
    assert main(['mine', ckpt, *COMMAND, '-n', '2', '--layout', layout]) == 0
    assert capsys.readouterr().out.startswith('n.jsonl: 8 negatives of 4 queries; dropped: 6 that answer the query')
    anchor, positive, negatives = ('anchor', 'positive', 'negatives') if layout == 'roles' else ('query', 'pos', 'neg')
    embedder = TextEmbedder.load(ckpt, 'cpu')
    texts = [text for _, text in PAIRS]
    scores = embedder.encode([title for title, _ in PAIRS], 'query') @ embedder.encode(texts).T
    for row, (title, text), score in zip(read(), PAIRS, scores):
        answers = [answer for other, answer in PAIRS if other == title]  # of either record with this title
        expected = [texts[i] for i in np.argsort(-score) if texts[i] not in answers][:2]
        assert (row[anchor], row[positive], row[negatives]) == (title, [text], expected)
    roles = {'anchor': anchor, 'positive': positive, 'negatives': negatives}
    scored = 'scores' if layout == 'roles' else ['pos_scores', 'neg_scores']
    documents = list(TextGroups(roles, scores=scored).source(Location('n.jsonl', column=anchor)).documents(['@group']))
    assert [document.columns['@group']['roles'] for document in documents] == [[0, 1, 2, 2]] * 4
    assert len(documents[0].columns['@group']['scores']) == 4


def test_a_corpus_a_rescoring_model_and_beir(ckpt, folder, capsys):
    (folder / 'corpus.txt').write_text('yes\nfun yes\nyes\nthe lazy dog\n', 'utf-8')
    command = ['mine', ckpt, *COMMAND, '--corpus', 'corpus.txt', '--rescore', ckpt, '--sample', '-s', '3']
    assert main(command) == 0
    assert {text for row in read() for text in row['negatives']} == {'yes', 'fun yes', 'the lazy dog'}
    assert read()[1]['negatives'] != read()[0]['negatives']  # 'the lazy dog' answers the second
    (folder / 'beir' / 'qrels').mkdir(parents=True)
    for name, rows in {
        'corpus': [{'_id': f'd{i}', 'title': '', 'text': text} for i, (_, text) in enumerate(PAIRS)],
        'queries': [{'_id': f'q{i}', 'text': title} for i, (title, _) in enumerate(PAIRS[:3])],
    }.items():
        (folder / 'beir' / f'{name}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    lines = ['query-id\tcorpus-id\tscore', *(f'q{i}\td{i}\t1' for i in range(3))]
    (folder / 'beir' / 'qrels' / 'train.tsv').write_text('\n'.join(lines) + '\n')
    assert main(['mine', ckpt, 'beir', '--output', 'b.jsonl', '-n', '1']) == 0
    assert [(row['anchor'], row['positive']) for row in read('b.jsonl')] == [(q, [p]) for q, p in PAIRS[:3]]
    assert main(['mine', ckpt, 'beir', '--output', 'c.jsonl', '--corpus', 'corpus.txt']) == 2
    assert '--corpus would have no effect: beir has its own corpus' in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'status', 'message'), [
    (['--seed', '3'], 2, '--seed would have no effect: nothing is drawn without --sample'),
    (['--ranks', '5', '2'], 2, 'the ranks are 5 to 2'),
    (['--absolute-margin', '-1'], 2, '-1 is out of range; give a number 0 or more'),
    (['--column', 'body'], 2, '--column would have no effect: it is of --corpus'),
    (['--split', 'dev'], 2, '--split would have no effect: pairs.jsonl is no folder of BEIR'),
    (['--positive', 'body'], 2, "no column 'body'"),
    (['--absolute-margin', '5'], 1, '0 negatives of 0 queries; dropped: '),
    (['--output', 'there.jsonl'], 2, 'there.jsonl is there already'),
    (['--output', 'no/n.jsonl'], 2, 'there is no folder no to write n.jsonl to'),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else '')  # fmt: skip
def test_refusals(ckpt, folder, capsys, arguments, status, message):
    (folder / 'there.jsonl').touch()
    assert main(['mine', ckpt, *COMMAND, *arguments]) == status
    assert message in capsys.readouterr().err
    assert not (folder / 'n.jsonl').exists()


@pytest.mark.parametrize('text', ['', ' \u3000'])
def test_records_without_text_are_refused_by_row(ckpt, folder, capsys, text):
    rows = [{'title': 'a', 'text': 'b'}, {'title': 'a', 'text': text}]
    (folder / 'pairs.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    assert main(['mine', ckpt, *COMMAND]) == 1
    printed = ' '.join(capsys.readouterr().err.split())
    assert 'row 1: a text of the role positive (column text) is empty' in printed
    assert 'take the record out of the file' in printed
    assert 'leave_out_empty' not in printed  # mine has no such setting


def test_cut_texts_are_counted_once_at_the_end(ckpt, folder, capsys):
    rows = [{'title': f'dog {i}', 'text': f'fox {i}' + ' mat' * 100 * (i < 3)} for i in range(300)]  # two blocks
    (folder / 'pairs.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    assert main(['mine', ckpt, *COMMAND, '-n', '1', '--ranks', '1', '2']) == 0
    corpus, positives = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r'corpus: 3 of 300 texts \(1\.0%\) were cut at \d+ tokens; .*', corpus)
    assert re.fullmatch(r'positives: 3 of 300 texts \(1\.0%\) were cut at \d+ tokens; .*', positives)


def test_a_model_of_several_vectors_a_text_is_refused_by_name(ckpt, capsys, monkeypatch):
    late = TextEmbedder.load(ckpt, 'cpu')
    late.model.pooling = TokenVectors(16)
    plain = TextEmbedder.load(ckpt, 'cpu')
    monkeypatch.setattr(TextEmbedder, 'load', lambda path, *_: late if path == 'late' else plain)
    for command in (['mine', 'late', *COMMAND], ['mine', ckpt, *COMMAND, '--rescore', 'late']):
        assert main(command) == 2
        assert 'late makes several vectors of a text (TokenVectors)' in capsys.readouterr().err
