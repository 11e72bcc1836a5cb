"""An encoder as an ONNX graph: over padded rows it is the network; the command compares by onnxruntime; refusals."""

import json
import sys
from functools import partial

import pytest
import torch
from bert_folders import write_folder

from xlabml import checkpoints, heads
from xlabml.commands.manage import main
from xlabml.conversion import import_folder, onnx_export
from xlabml.conversion.onnx_export import PaddedEncoder
from xlabml.errors import SettingsError
from xlabml.heads import Dense, TextEncoder
from xlabml.heads.text_encoder import pack
from xlabml.transformer import ALiBi, GeGLU, Learned, Rotary, Transformer

ROWS = [[1, 5, 6, 7, 8, 9, 10, 11, 2], [1, 2], [1, 9, 9, 3, 2]]


def make_encoder(pooling='MeanPooling', dense=None, normalize=True, **trunk):
    torch.manual_seed(0)
    sizes = {'d_model': 16, 'n_layers': 2, 'n_heads': 4, 'causal': False}
    network = TextEncoder.build(
        20, 12, partial(Transformer, **{**sizes, **trunk}), getattr(heads, pooling), dense, normalize
    ).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network.requires_grad_(False)


@pytest.mark.parametrize('options', [
    {},
    {'pooling': 'WeightedMeanPooling', 'window': [None, 3], 'positions': partial(Rotary, local_base=500.0)},
    {'pooling': 'MaxPooling', 'positions': ALiBi, 'qk_norm': False, 'score_cap': 3.0},
    {'pooling': 'FirstPooling', 'positions': Learned, 'n_kv_heads': 2, 'embedding_norm': True, 'first_norm': False},
    {'pooling': 'LastPooling', 'causal': True, 'window': [None, 2]},
    {'pooling': 'AttentionPooling', 'activation': GeGLU, 'normalize': False, 'dense': [partial(Dense, d_out=5)]},
], ids=lambda options: options.get('pooling', 'MeanPooling'))  # fmt: skip
def test_padded_rows_have_the_vectors_of_packed_ones(options):
    network = make_encoder(**options)
    ids = torch.tensor([row + [3] * (9 - len(row)) for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (9 - len(row)) for row in ROWS])
    with torch.no_grad():
        found = PaddedEncoder(network)(ids, mask)
        torch.testing.assert_close(found, network(*pack(ROWS)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('options', [
    {'positions': partial(Rotary, local_base=500.0), 'window': [None, 3]},
    {'pooling': 'AttentionPooling', 'causal': True, 'positions': ALiBi, 'n_kv_heads': 2, 'score_cap': 3.0},
], ids=['encoder', 'decoder'])  # fmt: skip
def test_a_graph_of_any_trunk_runs_on_rows_of_any_length(tmp_path, options):
    for name in ('onnx', 'onnxscript'):
        pytest.importorskip(name, reason='needs the extra onnx')
    onnxruntime = pytest.importorskip('onnxruntime', reason='needs the extra onnx')
    network = make_encoder(**options)
    onnx_export._write_graph(PaddedEncoder(network), tmp_path / 'm.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path / 'm.onnx'), providers=['CPUExecutionProvider'])
    wanted = network(*pack(ROWS))
    for rows in (ROWS, ROWS[1:], ROWS[:1], ROWS[1:2]):
        found = onnx_export._run(session, rows, 3)
        first = ROWS.index(rows[0])
        torch.testing.assert_close(found, wanted[first : first + len(rows)], rtol=1e-5, atol=1e-5)


def test_what_a_graph_does_not_express_is_refused():
    network = make_encoder()
    network.pooling = heads.TokenVectors(16)
    with pytest.raises(SettingsError, match='pooling is TokenVectors, which no graph is made of'):
        PaddedEncoder(network)
    network = make_encoder()
    network.include_prompt = False
    with pytest.raises(SettingsError, match='include_prompt is false'):
        PaddedEncoder(network)


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    path = tmp_path_factory.mktemp('onnx')
    folder, _ = write_folder(path / 'folder', dense=True)
    return import_folder(folder, path / 'e.safetensors').export.path


def test_the_command_names_its_extra(ckpt, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert main(['export-onnx', str(ckpt), str(tmp_path / 'out')]) == 2
    assert "pip install 'xlabml[onnx]'" in capsys.readouterr().err


def test_the_command_writes_a_graph_and_compares_it(ckpt, tmp_path, capsys, monkeypatch):
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(name, reason='needs the extra onnx')
    assert main(['export-onnx', str(ckpt), str(tmp_path / 'out')]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2] == str(tmp_path / 'out')
    assert printed[-1].startswith('same vectors by onnxruntime, to ')
    about = json.loads((tmp_path / 'out' / 'encoder.json').read_text())
    assert (about['max_len'], about['d_vector'], about['prompts']) == (20, 8, {'query': 'query: '})
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'encoder.json',
        'model.onnx',
        'tokenizer.json',
    ]
    assert main(['export-onnx', str(ckpt), str(tmp_path / 'out')]) == 2
    assert 'is there already' in capsys.readouterr().err

    def other(network, tokenizer, texts):
        return torch.zeros(len(texts), 8)

    monkeypatch.setattr('xlabml.conversion.onnx_export.encode', other)
    assert main(['export-onnx', str(ckpt), str(tmp_path / 'other')]) == 1
    assert 'the graph has other vectors than the checkpoint' in capsys.readouterr().err
    assert not (tmp_path / 'other').exists()
    assert checkpoints.load(ckpt).network is not None
