"""`xlab-manage dimensions`: recall by the first channels against a plain search, the picture, refusals."""

import json

import numpy as np
import pytest
from bert_folders import write_folder

from xlabml.commands.cut_texts import CutTexts
from xlabml.commands.dimensions import recalls
from xlabml.commands.manage import main
from xlabml.conversion import import_folder
from xlabml.pipelines import TextEmbedder
from xlabml.pipelines.mining import Pair

WORDS = ['the', 'quick', 'brown', 'fox', 'lazy', 'dog', 'cat', 'sat', 'mat', 'fun', 'yes', 'ran']


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    path = tmp_path_factory.mktemp('dimensions')
    folder, _ = write_folder(path / 'folder')
    return str(import_folder(folder, path / 'e.safetensors').export.path)


def make_pairs(n):
    draw = np.random.default_rng(0)
    return [Pair(' '.join(some), [' '.join(draw.permutation(some))]) for some in draw.choice(WORDS, (n, 5))]


def test_recall_is_that_of_a_plain_search_by_the_first_channels(ckpt):
    embedder = TextEmbedder.load(ckpt, 'cpu')
    pairs = make_pairs(40)
    assert len({pair.query for pair in pairs}) == 40
    found = recalls(embedder, pairs, [2, 16], CutTexts())
    for i, dim in enumerate([2, 16]):
        queries = embedder.encode([pair.query for pair in pairs], 'query', truncate_dim=dim)
        documents = embedder.encode([pair.positives[0] for pair in pairs], truncate_dim=dim)
        scores = queries @ documents.T
        # Texts of the same words differ in the last bits, by which texts are encoded together.
        surely = (scores > np.diag(scores)[:, None] + 1e-5).sum(axis=1)
        perhaps = (scores > np.diag(scores)[:, None] - 1e-5).sum(axis=1) - 1
        for k in (1, 10):
            assert (perhaps < k).mean() <= found[f'R@{k}'][i] <= (surely < k).mean()


def test_the_picture_is_drawn(ckpt, tmp_path, capsys, monkeypatch):
    pytest.importorskip('matplotlib')
    monkeypatch.chdir(tmp_path)
    rows = [{'q': query, 'a': answers} for query, answers in make_pairs(20)]
    (tmp_path / 'p.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    command = ['dimensions', ckpt, 'p.jsonl', '--anchor', 'q', '--positive', 'a']
    assert main([*command, '--output', 'c.png']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['channels', 'R@1', 'R@10']
    assert [line.split()[0] for line in lines[1:]] == ['8', '16', 'c.png']
    assert (tmp_path / 'c.png').read_bytes().startswith(b'\x89PNG')
    assert main([*command, '--dims', '17']) == 2
    assert '--dims has 17, but the vectors have 16 channels' in capsys.readouterr().err
    assert main([*command, '--output', 'no/c.png']) == 2
    assert 'there is no folder no' in capsys.readouterr().err
