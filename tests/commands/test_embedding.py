"""`xlab-infer CKPT --embed` and `--search`: texts of files to vectors and the nearest texts; kills, refusals."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bert_folders import write_folder

from xlabml import checkpoints
from xlabml.bm25 import BM25, fuse_with_words, hubness, split_parts, split_words
from xlabml.checkpoints import write_export
from xlabml.commands import corpus_hubness, corpus_terms, embedding, embedding_shards, shard_making
from xlabml.commands.infer import main
from xlabml.conversion import import_folder
from xlabml.errors import DataError
from xlabml.heads import TextEncoder, TokenVectors
from xlabml.pipelines import Calibration, TextEmbedder, embedder, vector_files
from xlabml.pipelines.reranking import rerank

TEXTS = [
    'The Quick brown fox',
    'the lazy dog',
    'cat sat on the mat',
    'été naïve 世界',
    'the dog ran',
    'fun yes',
    '12,345 (yes)',
    'jumps over the lazy dog',
    'is it not fun',
    'the mat',
]


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    path = tmp_path_factory.mktemp('embedding')
    folder, _ = write_folder(path / 'folder')
    return str(import_folder(folder, path / 'e.safetensors').export.path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XLABML_CACHE', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedder, 'CHUNK', 3)
    return tmp_path / 'cache'


def write_lines(path, texts=TEXTS):
    path.write_text('\n'.join(texts) + '\n', 'utf-8')
    return str(path)


@pytest.mark.parametrize('kind', ['txt', 'jsonl', 'csv'])
def test_vectors_of_a_file_are_those_of_its_texts(ckpt, tmp_path, capsys, kind):
    path = tmp_path / f'corpus.{kind}'
    if kind == 'txt':
        write_lines(path)
    elif kind == 'jsonl':
        path.write_text(''.join(json.dumps({'title': text}) + '\n' for text in TEXTS), 'utf-8')
    else:
        path.write_text('title\n' + ''.join(f'"{text}"\n' for text in TEXTS), 'utf-8')
    column = [] if kind == 'txt' else ['--column', 'title']
    assert main([ckpt, '--embed', str(path), '--output', 'v.npy', *column]) == 0
    assert capsys.readouterr().out == 'v.npy: 10 vectors of 16 as float32\n'
    vectors = np.load('v.npy', allow_pickle=False)
    np.testing.assert_allclose(vectors, TextEmbedder.load(ckpt, 'cpu').encode(TEXTS), rtol=0, atol=1e-6)
    about = json.loads((tmp_path / 'v.npy.json').read_text())
    assert (about['rows'], about['columns'], about['--dtype']) == (10, 16, 'float32')
    assert not list(tmp_path.glob('.v.npy*'))


def kill(monkeypatch, after):
    """Let the next command end like a killed one, behind some appended blocks, in the middle of another."""

    def append(self, vectors):
        if self.n_done >= after:
            self._file.write(b'half of a row')
            self._file.flush()
            raise KeyboardInterrupt
        real(self, vectors)

    real = vector_files.VectorFile.append
    monkeypatch.setattr(vector_files, '_SAFE_SECONDS', 0)
    monkeypatch.setattr(vector_files.VectorFile, 'append', append)
    monkeypatch.setattr(vector_files.VectorFile, '__exit__', lambda self, *_: self._file.close())


@pytest.mark.parametrize('dtype', ['float32', 'binary'])
def test_a_killed_run_is_resumed_to_the_same_bytes(ckpt, tmp_path, capsys, dtype):
    corpus = write_lines(tmp_path / 'corpus.txt', [*TEXTS, 'fox ' * 40, 'dog'])
    command = [ckpt, '--embed', corpus, '--dtype', dtype, '--output']
    assert main([*command, 'whole.npy']) == 0
    assert '1 of 12 texts were cut at 20 tokens' in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, 6)
        assert main([*command, 'v.npy']) == 130
    assert not (tmp_path / 'v.npy').exists()
    assert ': interrupted' in capsys.readouterr().err
    assert main([*command, 'v.npy']) == 0
    printed = capsys.readouterr()
    assert 'v.npy: 12 vectors of 16' in printed.out
    assert '6 of them by an earlier process' in printed.out
    assert '1 of 12 texts were cut' in printed.err
    assert (tmp_path / 'v.npy').read_bytes() == (tmp_path / 'whole.npy').read_bytes()


class Tasks:
    """An executor that runs the tasks one after the other, in this process.

    Args:
        shared_folder: For the shards.
        n_tasks: How many there are.
        killed: The task that a kill ends before it begins.
    """

    def __init__(self, shared_folder, n_tasks, killed=None):
        self.shared_folder = str(shared_folder)
        self.n_tasks = n_tasks
        self.killed = killed

    def run(self, shared, work):
        work.write(shared.url)
        for rank in range(self.n_tasks):
            if rank != self.killed:
                shard_making.make_shards(Path(shared.url), rank, self.n_tasks, 1)
        return 'logs'


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_tasks_make_the_bytes_of_one_process_and_resume(ckpt, tmp_path, monkeypatch, capsys, dtype):
    monkeypatch.setattr(embedding_shards, 'SHARD_ROWS', 33)
    texts = [f'{text} {i}' for i in range(12) for text in TEXTS]
    corpus = write_lines(tmp_path / 'corpus.txt', [*texts, 'fox ' * 40])
    command = [ckpt, '--embed', corpus, '--dtype', dtype, '--output']
    assert main([*command, 'whole.npy']) == 0
    shared = tmp_path / 'shared'
    shared.mkdir()
    (shared / 'of others.txt').touch()
    engines = [Tasks(shared, 2, killed=1), Tasks(shared, 5)]
    monkeypatch.setattr(embedding, 'open_cluster', lambda options: engines.pop(0))
    assert main([*command, 'v.npy', '--engine', 'local']) == 1
    assert '2 of 4 shards were not made' in capsys.readouterr().err
    [folder] = shared.glob('xlab-embed-*')
    written = {path: path.stat().st_mtime_ns for path in folder.glob('*.npy')}
    assert len(list(folder.glob('0*.npy'))) == 2
    real = shard_making.make_shards
    after = []

    def watched(*arguments):
        found = real(*arguments)
        after.append({path: path.stat().st_mtime_ns for path in written})
        return found

    monkeypatch.setattr(shard_making, 'make_shards', watched)
    assert main([*command, 'v.npy', '--engine', 'local']) == 0
    printed = capsys.readouterr()
    assert printed.out == f'v.npy: 121 vectors of 16 as {dtype}\n'
    assert '1 of 121 texts were cut' in printed.err
    assert after[-1] == written  # what was there is left alone
    for name in ('npy', 'npy.json', *(['npy.calibration.npy'] if dtype == 'int8' else [])):
        assert (tmp_path / f'v.{name}').read_bytes() == (tmp_path / f'whole.{name}').read_bytes(), name
    assert [path.name for path in shared.iterdir()] == ['of others.txt']


def test_a_task_that_sees_another_corpus_refuses(ckpt, tmp_path, monkeypatch, capsys):
    corpus = write_lines(tmp_path / 'corpus.txt')

    class Elsewhere(Tasks):
        def run(self, shared, work):
            work.write(shared.url)
            write_lines(tmp_path / 'corpus.txt', TEXTS[:3])
            return super().run(shared, work)

    monkeypatch.setattr(embedding, 'open_cluster', lambda options: Elsewhere(tmp_path / 'shared', 1))
    assert main([ckpt, '--embed', corpus, '--output', 'v.npy', '--engine', 'local']) == 1
    assert 'corpus.txt is not the same here as where the command was given' in capsys.readouterr().err


def test_an_executor_of_datatrove_writes_the_same_bytes(ckpt, tmp_path, monkeypatch):
    pytest.importorskip('datatrove')
    corpus = write_lines(tmp_path / 'corpus.txt')
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parents[2] / 'src'))
    assert main([ckpt, '--embed', corpus, '--output', 'whole.npy']) == 0
    assert main([ckpt, '--embed', corpus, '--output', 'v.npy', '--engine', 'local', '--tasks', '1']) == 0
    assert (tmp_path / 'v.npy').read_bytes() == (tmp_path / 'whole.npy').read_bytes()


CHANGES = {
    'sha256 of .*corpus.txt was': lambda corpus, command: write_lines(corpus, [*TEXTS[:-1], 'the rat']),
    '--dim was None then and is 4 now': lambda corpus, command: command.extend(['--dim', '4']),
    r'delete .*\.v\.npy\.partial and': lambda corpus, command: corpus.with_name('.v.npy.partial.json').write_text('{'),
    'is shorter than its record says': lambda corpus, command: corpus.with_name('.v.npy.partial').write_bytes(
        corpus.with_name('.v.npy.partial').read_bytes()[:150]
    ),
}


@pytest.mark.parametrize('message', CHANGES)
def test_what_changed_meanwhile_is_refused_by_name(ckpt, tmp_path, capsys, message):
    corpus = tmp_path / 'corpus.txt'
    command = [ckpt, '--embed', write_lines(corpus), '--output', 'v.npy']
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, 3)
        assert main(command) == 130
    CHANGES[message](corpus, command)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / 'v.npy').exists()


def test_integers_are_calibrated_on_the_corpus(ckpt, tmp_path, capsys):
    texts = [f'{one} {other}' for one in TEXTS for other in TEXTS]
    corpus = write_lines(tmp_path / 'corpus.txt', texts)
    assert main([ckpt, '--embed', corpus, '--output', 'v.npy', '--dtype', 'int8']) == 0
    values = Calibration.load('v.npy.calibration.npy').from_int8(np.load('v.npy'))
    np.testing.assert_allclose(values, TextEmbedder.load(ckpt, 'cpu').encode(texts), rtol=0, atol=0.01)
    assert main([ckpt, '--embed', write_lines(tmp_path / 'few.txt'), '--output', 'w.npy', '--dtype', 'int8']) == 2
    assert 'a calibration of 10 vectors says little' in capsys.readouterr().err


def test_search_prints_the_nearest_texts_and_keeps_the_vectors(ckpt, tmp_path, capsys, cache, monkeypatch):
    corpus = write_lines(tmp_path / 'corpus.txt')
    command = [ckpt, '--search', corpus, 'the lazy dog', '--results', '3']
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    model = TextEmbedder.load(ckpt, 'cpu')
    scores = model.encode(TEXTS) @ model.encode('the lazy dog', prompt='query')
    best = np.argsort(-scores)[:3]
    assert [line.split('  ')[1:] for line in lines] == [[str(row), TEXTS[row]] for row in best]
    np.testing.assert_allclose([float(line.split()[0]) for line in lines], scores[best], atol=1e-4)
    assert len(list((cache / 'vectors').glob('*.npy'))) == 1

    def refuse(*_):
        raise AssertionError('the corpus is embedded again')

    monkeypatch.setattr(embedding, 'write_vectors', refuse)
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == lines
    monkeypatch.undo()
    monkeypatch.setenv('XLABML_CACHE', str(cache))
    write_lines(tmp_path / 'corpus.txt', [*TEXTS, 'another'])
    assert main([ckpt, '--search', corpus, 'the lazy dog', '--dim', '4']) == 0
    assert len(list((cache / 'vectors').glob('*.npy'))) == 2


def test_the_first_texts_are_reranked(ckpt, tmp_path, capsys, monkeypatch):
    corpus = write_lines(tmp_path / 'corpus.txt')
    command = [ckpt, '--search', corpus, 'the lazy dog', '--results', '2']
    assert main([*command[:-1], '4']) == 0
    first = [int(line.split('  ')[1]) for line in capsys.readouterr().out.splitlines()]
    model = TextEmbedder.load(ckpt, 'cpu')
    late = TextEncoder(model.model.trunk, TokenVectors(16, d_token=None, n_vectors=4), normalize=False).eval()
    reranker = TextEmbedder(late, model.tokenizer)
    states = [
        late.trunk(torch.tensor([[sos, *model.tokenizer.encode(text), eos]]))[0]
        for text in ['the lazy dog', *(TEXTS[row] for row in first)]
        for sos, eos in [(model.tokenizer.special_ids['sos'], model.tokenizer.special_ids['eos'])]
    ]
    vectors = [group_means(one.detach().numpy(), 4) for one in states]
    expected = [(vectors[0] @ one.T).max(axis=1).mean() for one in vectors[1:]]
    np.testing.assert_allclose(rerank(reranker, 'the lazy dog', [TEXTS[row] for row in first]), expected, atol=1e-5)
    loaded = {'late': reranker, ckpt: model}
    monkeypatch.setattr(TextEmbedder, 'load', lambda path, device: loaded[str(path)])
    assert main([*command, '--rerank', 'late', '--candidates', '4']) == 0
    rows = [int(line.split('  ')[1]) for line in capsys.readouterr().out.splitlines()]
    assert rows == [first[i] for i in np.argsort(-np.array(expected))[:2]]
    long = write_lines(tmp_path / 'long.txt', [text * 40 for text in ('the dog ', 'fun ', 'the lazy dog ')])
    query = 'the lazy dog ' * 9
    assert main([ckpt, '--search', long, query, '--rerank', 'late']) == 0
    said = capsys.readouterr().err
    assert 'the query, to rerank: 1 of 1 texts (100.0%) were cut at 20 tokens' in said
    assert 'the texts to rerank: 3 of 3 texts (100.0%) were cut at 20 tokens' in said
    assert 'CutWarning' not in said
    loaded[ckpt] = reranker
    assert main(command) == 2
    assert 'makes several vectors of a text' in capsys.readouterr().err


def group_means(tokens, most):
    n = min(most, len(tokens))
    groups = np.arange(len(tokens)) * n // len(tokens)
    means = np.stack([tokens[groups == group].mean(axis=0) for group in range(n)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_hybrid_search_adds_the_words(ckpt, tmp_path, capsys):
    bm25 = pytest.importorskip('xlabml.bm25')
    corpus = write_lines(tmp_path / 'corpus.txt')
    assert main([ckpt, '--search', corpus, 'lazy dog', '--hybrid', '--results', '10']) == 0
    rows = [int(line.split('  ')[1]) for line in capsys.readouterr().out.splitlines()]
    model = TextEmbedder.load(ckpt, 'cpu')
    dense = model.encode(['lazy dog'], prompt='query') @ model.encode(TEXTS).T
    fused = bm25.fuse([dense, bm25.BM25(TEXTS).scores(['lazy dog'])])[0]
    assert rows == np.argsort(-fused, kind='stable').tolist()


def test_hybrid_search_weighs_as_was_chosen_in_training_or_typed(ckpt, tmp_path, capsys):
    corpus = write_lines(tmp_path / 'corpus.txt')
    contents = checkpoints.read(Path(ckpt))
    weighed = str(
        write_export({**contents, 'facts': {'vector_weight': 0.8}}, Path(ckpt), tmp_path / 'w.safetensors').path
    )
    command = ['--search', corpus, 'lazy dog', '--results', '10']

    def found(*arguments):
        assert main(list(arguments)) == 0
        return capsys.readouterr()

    typed = found(ckpt, *command, '--hybrid', '--vector-weight', '0.8')
    chosen = found(weighed, *command, '--hybrid')
    assert chosen.out == typed.out
    assert 'vectors and BM25 by 0.80 and 0.20\n' in chosen.err
    equal = found(ckpt, *command, '--hybrid')
    assert equal.out == found(weighed, *command, '--hybrid', '--vector-weight', '0.5').out != chosen.out
    parts = found(weighed, *command, '--hybrid', '--bm25-terms', 'parts')
    assert 'vectors and BM25 of word parts by 0.80 and 0.20\n' in parts.err
    assert parts.out != chosen.out
    order = [line.split()[1] for line in found(ckpt, *command).out.splitlines()]
    vectors = found(weighed, *command, '--hybrid', '--vector-weight', '1', '--bm25-terms', 'words')
    assert [line.split()[1] for line in vectors.out.splitlines()] == order
    assert 'vectors and BM25 by' not in vectors.err  # all of it was typed


def test_hybrid_search_takes_off_the_nearness_to_known_queries(ckpt, tmp_path, capsys, cache, monkeypatch):
    corpus = write_lines(tmp_path / 'corpus.txt')
    known = ['the dog', 'the cat', 'is it fun']
    contents = checkpoints.read(Path(ckpt))
    facts = {'vector_weight': 0.5, 'known_queries': known}
    weighed = str(write_export({**contents, 'facts': facts}, Path(ckpt), tmp_path / 'w.safetensors').path)

    def search():
        assert main([weighed, '--search', corpus, 'lazy dog', '--hybrid', '--results', '10']) == 0
        return capsys.readouterr()

    found = search()
    assert 'vectors and BM25 by 0.50 and 0.50, less the nearness to 3 known queries\n' in found.err
    model = TextEmbedder.load(ckpt, 'cpu')
    texts = model.encode(TEXTS)
    dense = model.encode(['lazy dog'], prompt='query') @ texts.T
    bm25 = BM25(TEXTS)
    near = hubness([model.encode(known, prompt='query') @ texts.T]), hubness([bm25.scores(known)])
    fused = fuse_with_words(dense - near[0], bm25.scores(['lazy dog']) - near[1])[0]
    rows = [int(line.split('  ')[1]) for line in found.out.splitlines()]
    assert rows == np.argsort(-fused, kind='stable').tolist()

    (kept,) = (cache / 'vectors').glob('*.hubness.npz')
    with monkeypatch.context() as patch:
        patch.setattr(corpus_hubness, 'hubness', refuse)
        assert search().out == found.out
    kept.write_bytes(kept.read_bytes()[:-9])  # a damaged one is replaced
    assert search().out == found.out
    with monkeypatch.context() as patch:
        patch.setattr(corpus_hubness, 'hubness', refuse)
        assert search().out == found.out
    monkeypatch.setattr(corpus_hubness, '_BLOCK_SCORES', 20)  # some at a time
    kept.unlink()
    assert [int(line.split('  ')[1]) for line in search().out.splitlines()] == rows


def test_hybrid_search_counts_a_corpus_once(ckpt, tmp_path, capsys, cache, monkeypatch):
    corpus = write_lines(tmp_path / 'corpus.txt')
    counted = []

    def count(texts, **options):
        counted.append(options['words'])
        return BM25(texts, **options)

    count.load = BM25.load
    monkeypatch.setattr(corpus_terms, 'BM25', count)

    def search(*arguments):
        assert main([ckpt, '--search', corpus, 'lazy dog', '--hybrid', *arguments]) == 0
        return capsys.readouterr().out

    first = search()
    assert search() == first
    assert counted == [split_words]
    parts = search('--bm25-terms', 'parts')
    assert counted == [split_words, split_parts]
    for table in (cache / 'vectors').glob('*.bm25.npz'):  # damaged ones are replaced
        table.write_bytes(table.read_bytes()[:-9])
    assert search('--bm25-terms', 'parts') == parts
    assert search('--bm25-terms', 'parts') == parts
    assert len(counted) == 3
    write_lines(tmp_path / 'corpus.txt', [*TEXTS[::-1], 'a lazy lazy dog'])
    assert search() != first
    assert len(counted) == 4
    with monkeypatch.context() as patch:
        patch.setattr(corpus_terms, 'require_same', refuse)
        write_lines(tmp_path / 'corpus.txt', TEXTS[:3])
        n_tables = len(list((cache / 'vectors').glob('*.bm25.npz')))
        assert main([ckpt, '--search', corpus, 'lazy dog', '--hybrid']) == 1
    assert len(list((cache / 'vectors').glob('*.bm25.npz'))) == n_tables  # what changed meanwhile is not kept


def refuse(job):
    raise DataError(f'{job.corpus.name} changed while it was read')


def test_approximate_search_finds_what_exact_search_does_or_names_its_extra(ckpt, tmp_path, capsys, cache, monkeypatch):
    corpus = write_lines(tmp_path / 'corpus.txt')
    command = [ckpt, '--search', corpus, 'the lazy dog', '--results', '3']
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'faiss', None)
        assert main([*command, '--approximate']) == 2
        assert "pip install 'xlabml[ann]'" in capsys.readouterr().err
    pytest.importorskip('faiss')
    assert main(command) == 0
    exact = capsys.readouterr().out
    for _ in range(2):
        assert main([*command, '--approximate']) == 0
        printed = capsys.readouterr()
        assert printed.out == exact
        assert 'approximate search: 100.0% of the ten nearest' in printed.err
    with monkeypatch.context() as patch:  # it was measured once
        patch.setattr('xlabml.pipelines.approximate.ApproximateIndex.recall', None)
        assert main([*command, '--approximate']) == 0
    [measured] = (cache / 'vectors').glob('*.faiss.json')
    measured.write_text('{"recall": 1}')  # not known of which index
    assert main([*command, '--approximate']) == 0
    assert len(json.loads(measured.read_text())['of']) == 64
    assert len(list((cache / 'vectors').glob('*.faiss'))) == 1


@pytest.mark.parametrize(('arguments', 'status', 'message'), [
    (['--search', 'corpus.txt', 'a', '--hybrid', '--approximate'], 2, '--approximate and --hybrid do not go together'),
    (['--search', 'corpus.txt', 'a', '--bm25-terms', 'parts'], 2, '--bm25-terms would have no effect without --hybrid'),
    (['--search', 'corpus.txt', 'a', '--vector-weight', '.5'], 2, '--vector-weight would have no effect without --hyb'),
    (['--search', 'corpus.txt', 'a', '--hybrid', '--vector-weight', '2'], 2, '2 is out of range; give a number from 0'),
    (['--search', 'corpus.txt', 'a', '--candidates', '5'], 2, '--candidates would have no effect without --rerank'),
    (['--embed', 'corpus.txt'], 2, '--embed needs --output PATH'),
    (['--embed', 'corpus.txt', '--output', 'v.npy', 'a'], 2, "'a' would have no effect: --embed takes no PROMPT"),
    (['--embed', 'corpus.txt', '--output', 'v.npy', '-k', '3'], 2, '-k would have no effect: nothing is continued'),
    (['--embed', 'corpus.txt', '--output', 'v.npy', '--hybrid'], 2, '--hybrid would have no effect: it is of --search'),
    (['--search', 'corpus.txt', 'a', '--output', 'v.npy'], 2, '--output would have no effect: it is of --embed'),
    (['--embed', 'corpus.txt', '--output', 'v.npy', '--tasks', '3'], 2, '--tasks would have no effect without --eng'),
    (['--embed', 'corpus.txt', '--output', 'v.npy', '--engine', 'slurm'], 2, '--engine slurm needs --partition'),
    (['--search', 'corpus.txt'], 2, '--search needs a query'),
    (['--search', 'corpus.txt', ' '], 2, '--search needs a query'),
    (['a', '--dim', '3'], 2, '--dim would have no effect: it is of --embed and --search'),
    (['--search', 'corpus.txt', 'a', '--dim', '17'], 2, 'truncate_dim is 17; give 1 to 16'),
    (['--search', 'corpus.txt', 'a', '--document-prompt', 'x'], 2, "no prompt 'x'; its prompts are: query"),
    (['--search', 'nowhere.txt', 'a'], 2, 'there is no file or folder nowhere.txt'),
    (['--search', 'blank.txt', 'a'], 1, 'line 2 of blank.txt is empty; leave it out'),
    (['--search', 'none.txt', 'a'], 1, 'none.txt has no texts'),
    (['--search', 'corpus.jsonl', 'a', '--column', 'body'], 2, "no column 'body'; its columns are text"),
    (['--embed', 'corpus.txt', '--output', 'nowhere/v.npy'], 2, 'there is no folder nowhere to write v.npy to'),
    (['--embed', 'corpus.txt', '--output', 'there.npy'], 2, 'there.npy is there already'),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else '')  # fmt: skip
def test_refusals(ckpt, tmp_path, capsys, arguments, status, message):
    write_lines(tmp_path / 'corpus.txt')
    write_lines(tmp_path / 'blank.txt', ['a', ' ', 'b'])
    (tmp_path / 'none.txt').touch()
    (tmp_path / 'there.npy').touch()
    (tmp_path / 'corpus.jsonl').write_text('{"text": "a"}\n')
    assert main([ckpt, *arguments]) == status
    assert message in capsys.readouterr().err
