"""Encoders of ours as folders: read back, they make the same vectors; what stands in the way is named."""

import json

import pytest
import torch
from bert_folders import write_folder
from foreign import mini_lm

from xlabml import checkpoints, settings
from xlabml.checkpoints import Part
from xlabml.commands.manage import main
from xlabml.conversion import export_folder, exporting, import_folder
from xlabml.conversion.checking import encode
from xlabml.errors import CheckpointError, SettingsError
from xlabml.heads import TextEncoder
from xlabml.heads.loading import load_network

TEXTS = ['The Quick brown fox', 'été naïve 世界 12,345 (yes)', 'a', 'the dog ' * 20]


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    path = tmp_path_factory.mktemp('exporting')
    folder, _ = write_folder(path / 'folder', dense=True)
    return import_folder(folder, path / 'e.safetensors')


def save(path, imported, **trunk):
    """An encoder with other settings of the trunk, and weights of chance."""
    torch.manual_seed(0)
    contents = checkpoints.load(imported.export.path)
    arguments = json.loads(json.dumps(contents.network.arguments))
    arguments['trunk']['init_args'] |= trunk
    arguments |= {'pooling': arguments['trunk']['init_args'].pop('pooling', arguments['pooling'])}
    network = TextEncoder.build(**settings.build_arguments(TextEncoder.build, arguments))
    part = Part('xlabml.heads.TextEncoder', arguments)
    weights = {f'network.{name}': tensor for name, tensor in network.state_dict().items()}
    checkpoint = checkpoints.imported(
        Part('xlabml.models.Embedder', {}), part, Part('d', {}), weights, contents.tokenizer_bytes(), '2.6.6'
    )
    return checkpoints.write_export(checkpoint, path, path).path


def test_a_folder_that_is_read_back_makes_the_same_vectors(imported, tmp_path, capsys):
    assert main(['export-encoder', str(imported.export.path), str(tmp_path / 'out')]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(tmp_path / 'out')
    assert printed[1].startswith(('not compared: sentence-transformers', 'same vectors'))
    back = import_folder(tmp_path / 'out', tmp_path / 'back.safetensors')
    torch.testing.assert_close(
        encode(back.network, back.tokenizer, TEXTS), encode(imported.network, imported.tokenizer, TEXTS)
    )
    assert back.network.prompts == imported.network.prompts
    assert main(['export-encoder', str(imported.export.path), str(tmp_path / 'out')]) == 2
    assert 'is there already' in capsys.readouterr().err


@pytest.mark.parametrize('trunk', [
    {'bias': False},
    {'scale_embedding': True},
    {'positions': {'class_path': 'xlabml.transformer.Sinusoidal'}},
    {'positions': {'class_path': 'xlabml.transformer.NoPositions'}},
    {'activation': {'class_path': 'torch.nn.ReLU'}},
    {'pooling': {'class_path': 'xlabml.heads.LastPooling'}},
], ids=str)  # fmt: skip
def test_what_bert_can_express_is_expressed(imported, tmp_path, trunk):
    path = save(tmp_path / 'e.safetensors', imported, **trunk)
    ours = load_network(checkpoints.load(path), path, TextEncoder)
    export_folder(path, tmp_path / 'out')
    back = import_folder(tmp_path / 'out', tmp_path / 'back.safetensors')
    torch.testing.assert_close(encode(back.network, back.tokenizer, TEXTS), encode(ours, imported.tokenizer, TEXTS))


def test_all_that_is_in_the_way_is_named(imported, tmp_path):
    trunk = {
        'prenorm': True, 'final_norm': True, 'embedding_norm': False, 'qk_norm': True, 'window': 4, 'n_kv_heads': 2,
        'norm': {'class_path': 'xlabml.transformer.RMSNorm'},
        'positions': {'class_path': 'xlabml.transformer.Rotary'},
        'activation': {'class_path': 'xlabml.transformer.GeGLU'},
        'pooling': {'class_path': 'xlabml.heads.AttentionPooling'},
        'causal': True,
    }  # fmt: skip
    path = save(tmp_path / 'e.safetensors', imported, **trunk)
    with pytest.raises(SettingsError) as caught:
        export_folder(path, tmp_path / 'out')
    for name in (*trunk, 'e.safetensors'):
        assert f'{name} is' in str(caught.value) or name == 'e.safetensors'
    assert not (tmp_path / 'out').exists()


def test_a_folder_with_other_vectors_is_not_kept(imported, tmp_path, monkeypatch):
    real = exporting._bert_weights
    monkeypatch.setattr(
        exporting, '_bert_weights', lambda trunk: {name: tensor * 1.01 for name, tensor in real(trunk).items()}
    )
    with pytest.raises(CheckpointError, match='the folder has other vectors than the checkpoint'):
        export_folder(imported.export.path, tmp_path / 'out')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sentence_transformers_reads_mini_lm_back(tmp_path):
    pytest.importorskip('sentence_transformers', reason='needs the package sentence-transformers')
    made = import_folder(mini_lm(), tmp_path / 'e.safetensors')
    assert export_folder(made.export.path, tmp_path / 'out').difference < 1e-5
