"""`xlab-manage project`: a map of texts, and the files of the projector."""

import json

import numpy as np
import pytest
from bert_folders import write_folder

from xlabml.commands.manage import main
from xlabml.conversion import import_folder
from xlabml.reports.maps import principal_axes


def test_axes_are_those_of_largest_variance():
    draw = np.random.default_rng(0)
    plane = draw.normal(size=(200, 2)) * [5, 2]
    turn = np.linalg.qr(draw.normal(size=(6, 6)))[0][:2]
    points, share = principal_axes((plane @ turn + 3 + 0.01 * draw.normal(size=(200, 6))).astype(np.float32))
    assert share > 0.999
    spread = points.var(axis=0)
    np.testing.assert_allclose(spread, np.linalg.eigvalsh(np.cov((plane).T))[::-1], rtol=0.05)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-6)
    again, _ = principal_axes((plane @ turn + 3).astype(np.float32)[::-1])
    np.testing.assert_allclose(again[::-1], points, atol=0.1)


def test_a_map_and_the_projectors_files_are_written(tmp_path, capsys, monkeypatch):
    pytest.importorskip('matplotlib')
    monkeypatch.chdir(tmp_path)
    folder, _ = write_folder(tmp_path / 'folder')
    ckpt = str(import_folder(folder, tmp_path / 'e.safetensors').export.path)
    rows = [{'text': f'the dog\t{i} ran', 'kind': 'odd' if i % 2 else 'even'} for i in range(9)]
    (tmp_path / 'c.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    assert main(['project', ckpt, 'c.jsonl', '--label', 'kind', '--output', 'out']) == 0
    assert '9 texts of c.jsonl; the two axes have' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'map.png').read_bytes().startswith(b'\x89PNG')
    lines = (tmp_path / 'out' / 'texts.tsv').read_text('utf-8').splitlines()
    assert lines[:3] == ['label\ttext', 'even\tthe dog 0 ran', 'odd\tthe dog 1 ran']
    assert np.loadtxt('out/vectors.tsv', delimiter='\t').shape == (9, 16)
    (tmp_path / 'c.txt').write_text('a\nb\n')
    assert main(['project', ckpt, 'c.txt', '--label', 'kind']) == 2
    assert "no column 'kind'; leave --label out" in capsys.readouterr().err
    (tmp_path / 'one.txt').write_text('a\n')
    assert main(['project', ckpt, 'one.txt']) == 2
    assert 'a map needs two or more' in capsys.readouterr().err
