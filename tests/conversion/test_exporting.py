"""Encoders of ours as folders: read back, they make the same vectors; what stands in the way is named."""

import json

import pytest
import torch
from bert_folders import write_folder
from foreign import mini_lm

from xlabml import checkpoints, settings
from xlabml.checkpoints import Part
from xlabml.commands.manage import main
from xlabml.conversion import export_folder, exporting, import_folder, tokenizer_json
from xlabml.conversion.checking import encode
from xlabml.conversion.tokenizer_json import to_tokenizer_json
from xlabml.errors import CheckpointError, SettingsError
from xlabml.heads import TextEncoder
from xlabml.heads.loading import load_network
from xlabml.tokenizer import Tokenizer, train_tokenizer

TEXTS = ['The Quick brown fox', 'été naïve 世界 12,345 (yes)', 'a', 'the dog ' * 20]


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    path = tmp_path_factory.mktemp('exporting')
    folder, _ = write_folder(path / 'folder', dense=True)
    return import_folder(folder, path / 'e.safetensors')


def save(path, imported, tokenizer=None, **trunk):
    """An encoder with other settings of the trunk, another tokenizer perhaps, and weights of chance."""
    torch.manual_seed(0)
    contents = checkpoints.load(imported.export.path)
    arguments = json.loads(json.dumps(contents.network.arguments))
    arguments['trunk']['init_args'] |= trunk
    arguments |= {'pooling': arguments['trunk']['init_args'].pop('pooling', arguments['pooling'])}
    if tokenizer is not None:
        arguments['n_vocab'] = len(tokenizer)
    network = TextEncoder.build(**settings.build_arguments(TextEncoder.build, arguments))
    part = Part('xlabml.heads.TextEncoder', arguments)
    weights = {f'network.{name}': tensor for name, tensor in network.state_dict().items()}
    data = contents.tokenizer_bytes() if tokenizer is None else tokenizer.data
    checkpoint = checkpoints.imported(Part('xlabml.models.Embedder', {}), part, Part('d', {}), weights, data, '2.6.6')
    return checkpoints.write_export(checkpoint, path, path).path


def test_a_folder_that_is_read_back_makes_the_same_vectors(imported, tmp_path, capsys):
    assert main(['export-encoder', str(imported.export.path), str(tmp_path / 'out')]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(tmp_path / 'out')
    assert printed[1].startswith(('not compared: sentence-transformers', 'same vectors'))
    assert len({file.stat().st_mode for file in (tmp_path / 'out').rglob('*') if file.is_file()}) == 1
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
        'prenorm': True, 'final_norm': True, 'embedding_norm': False, 'qk_norm': True, 'window': [4, 5],
        'n_kv_heads': 2, 'shift_width': 2, 'shift_places': ['hidden'],
        'norm': {'class_path': 'xlabml.transformer.RMSNorm'},
        'positions': {'class_path': 'xlabml.transformer.Rotary'},
        'activation': {'class_path': 'xlabml.transformer.GeGLU'},
        'pooling': {'class_path': 'xlabml.heads.AttentionPooling'},
        'causal': True,
    }  # fmt: skip
    path = save(tmp_path / 'e.safetensors', imported, **trunk)
    with pytest.raises(SettingsError) as caught:
        export_folder(path, tmp_path / 'out')
    # Of the two shapes ModernBERT's is the nearer one, which has prenorm and the like.
    missing = (
        'embedding_norm',
        'first_norm',
        'qk_norm',
        'n_kv_heads',
        'norm',
        'pooling',
        'causal',
        'prenorm',
        'window',
        'shift_width',
    )
    for name in missing:
        assert f'{name} is' in str(caught.value)
    assert str(caught.value).index('for the shape of modernbert') < str(caught.value).index('for the shape of bert')
    assert not (tmp_path / 'out').exists()


def test_a_folder_with_other_vectors_is_not_kept(imported, tmp_path, monkeypatch):
    real = exporting._bert_weights
    monkeypatch.setattr(
        exporting, '_bert_weights', lambda trunk: {name: tensor * 1.01 for name, tensor in real(trunk).items()}
    )
    with pytest.raises(CheckpointError, match='the folder has other vectors than the checkpoint'):
        export_folder(imported.export.path, tmp_path / 'out')
    assert not list(tmp_path.iterdir())


MODERN = {
    'prenorm': True, 'first_norm': False, 'final_norm': True, 'embedding_norm': True, 'qk_norm': False, 'bias': False,
    'norm': {'class_path': 'torch.nn.LayerNorm', 'init_args': {'eps': 1e-5, 'bias': False}},
    'positions': {
        'class_path': 'xlabml.transformer.Rotary', 'init_args': {'base': 160_000.0, 'local_base': 10_000.0}
    },
    'activation': {'class_path': 'xlabml.transformer.GeGLU'},
    'window': [None, 4], 'n_layers': 2,
}  # fmt: skip


@pytest.mark.parametrize('trunk', [
    {},
    {'window': 5, 'scale_embedding': True, 'bias': True},
    {'window': [3, None], 'activation': {'class_path': 'xlabml.transformer.SwiGLU'}, 'pooling': {
        'class_path': 'xlabml.heads.FirstPooling'}},
    {'window': None, 'norm': {'class_path': 'torch.nn.LayerNorm', 'init_args': {'eps': 1e-5}}},
], ids=['alternating', 'local', 'mixed', 'global'])  # fmt: skip
@pytest.mark.parametrize('kind', ['word pieces', 'own'])
def test_the_shape_of_modernbert_is_expressed_with_either_tokenizer(imported, tmp_path, trunk, kind):
    """Where sentence-transformers is installed, the command compares with ModernBertModel of transformers."""
    tokenizer = own_tokenizer(tmp_path) if kind == 'own' else None
    path = save(tmp_path / 'e.safetensors', imported, tokenizer, **{**MODERN, **trunk})
    contents = checkpoints.load(path)
    ours = load_network(contents, path, TextEncoder)
    made = export_folder(path, tmp_path / 'out')
    assert made.difference is None or made.difference < 1e-5
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['model_type'] == 'modernbert'
    back = import_folder(tmp_path / 'out', tmp_path / 'back.safetensors')
    known = Tokenizer.from_bytes(contents.tokenizer_bytes())
    assert back.tokenizer.encode(TEXTS) == known.encode(TEXTS)
    torch.testing.assert_close(encode(back.network, back.tokenizer, TEXTS), encode(ours, known, TEXTS))


def own_tokenizer(folder):
    train_tokenizer([*TEXTS * 9, *['the quick brown fox sat on a mat'] * 20], folder / 't.model', 340)
    return Tokenizer.load(folder / 't.model')


def test_a_tokenizer_of_ours_is_written_as_one_that_makes_the_same_tokens(tmp_path):
    tokenizers = pytest.importorskip('tokenizers')
    tokenizer = own_tokenizer(tmp_path)
    content = to_tokenizer_json(tokenizer)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    for text in ('the fox', '\u2581 the\u2581', 'brown  fox 世界', '<0x41>'):
        assert theirs.encode(text).ids == [1, *tokenizer.encode(text), 2]
        assert theirs.decode([1, *tokenizer.encode(text), 2]) == text
    content['model']['merges'] = content['model']['merges'][::-1]
    with pytest.raises(CheckpointError, match=r'the tokenizer cannot be written as a tokenizer\.json'):
        tokenizer_json._check(content, tokenizer)


@pytest.mark.slow
def test_sentence_transformers_reads_mini_lm_back(tmp_path):
    pytest.importorskip('sentence_transformers', reason='needs the package sentence-transformers')
    made = import_folder(mini_lm(), tmp_path / 'e.safetensors')
    assert export_folder(made.export.path, tmp_path / 'out').difference < 1e-5
