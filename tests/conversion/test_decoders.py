"""Language models of ours as folders: Qwen3 and Llama, computed by hand from the files, have the same logits."""

import json
import math
from pathlib import Path

import pytest
import sentencepiece
import torch
import torch.nn.functional as F
import yaml
from foreign import word_piece
from safetensors.torch import load_file

from xlabml import checkpoints, settings
from xlabml.checkpoints import Part
from xlabml.commands.manage import main
from xlabml.conversion import decoders, export_decoder
from xlabml.errors import CheckpointError, SettingsError
from xlabml.heads import LanguageModel
from xlabml.heads.loading import load_network
from xlabml.tokenizer import Tokenizer, train_tokenizer

CONF = Path(__file__).parents[2] / 'conf' / 'portable.yaml'
TEXTS = ['The Quick brown fox', 'été naïve 世界 12,345 (yes)', ' two  spaces']
SWIGLU = {'class_path': 'xlabml.transformer.SwiGLU'}
TRUNK = {'d_model': 32, 'n_layers': 2, 'n_heads': 4, 'd_ff': 40, 'activation': SWIGLU}
RMS_NORM = 'xlabml.transformer.RMSNorm'


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp('decoders') / 't.model'
    train_tokenizer([*TEXTS * 9, *['the quick brown fox sat on a mat'] * 20], path, 340)
    return Tokenizer.load(path)


def save(path, tokenizer, head=(), **trunk):
    """A language model with weights of chance as an exported file."""
    torch.manual_seed(0)
    trunk = {'class_path': 'xlabml.transformer.Transformer', 'init_args': {**TRUNK, 'shift_width': 1, **trunk}}
    arguments = {'n_vocab': len(tokenizer), 'max_len': 48, 'trunk': trunk, **dict(head)}
    model = LanguageModel.build(**settings.build_arguments(LanguageModel.build, arguments))
    weights = {f'network.{name}': x + 0.2 * torch.randn_like(x) for name, x in model.state_dict().items()}
    part = Part('xlabml.heads.LanguageModel', arguments)
    made = checkpoints.imported(
        Part('xlabml.models.XLabModel', {}), part, Part('d', {}), weights, tokenizer.data, '2.6.6'
    )
    return checkpoints.write_export(made, path, path).path


def by_hand(folder, ids):
    """The logits of Qwen3 or Llama, from config.json and the weights."""
    config = json.loads((folder / 'config.json').read_text('utf-8'))
    weights = load_file(folder / 'model.safetensors')
    n, c = len(ids), config['head_dim']
    speeds = config['rope_parameters']['rope_theta'] ** (-torch.arange(0, c, 2) / c)
    angles = torch.outer(torch.arange(n), speeds).repeat(1, 2)

    def norm(x, name):
        return x * (x.square().mean(-1, keepdim=True) + config['rms_norm_eps']).rsqrt() * weights[f'{name}.weight']

    def heads(x, name):
        return (x @ weights[f'{name}_proj.weight'].T).view(n, -1, c).transpose(0, 1)

    def rotate(x):
        first, second = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    hidden = weights['model.embed_tokens.weight'][ids]
    for i in range(config['num_hidden_layers']):
        layer = f'model.layers.{i}'
        attention = f'{layer}.self_attn'
        x = norm(hidden, f'{layer}.input_layernorm')
        q, k, v = (heads(x, f'{attention}.{name}') for name in 'qkv')
        if config['model_type'] == 'qwen3':
            q = norm(q, f'{attention}.q_norm')
            k = norm(k, f'{attention}.k_norm')
        k, v = (x.repeat_interleave(q.size(0) // x.size(0), 0) for x in (rotate(k), v))
        score = (rotate(q) @ k.mT / math.sqrt(c)).masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
        mixed = (score.softmax(-1) @ v).transpose(0, 1).flatten(1)
        hidden = hidden + mixed @ weights[f'{attention}.o_proj.weight'].T
        x = norm(hidden, f'{layer}.post_attention_layernorm')
        gate, up = (x @ weights[f'{layer}.mlp.{name}_proj.weight'].T for name in ('gate', 'up'))
        hidden = hidden + (F.silu(gate) * up) @ weights[f'{layer}.mlp.down_proj.weight'].T
    head = 'model.embed_tokens.weight' if config['tie_word_embeddings'] else 'lm_head.weight'
    return norm(hidden, 'model.norm') @ weights[head].T


@pytest.mark.parametrize(('head', 'trunk', 'expected'), [
    ({}, {}, ('qwen3', False)),
    ({'tied': False}, {'n_kv_heads': 2}, ('qwen3', False)),
    (
        {}, {'scale_embedding': False, 'norm': {'class_path': RMS_NORM, 'init_args': {'weighted': False}}},
        ('qwen3', True),
    ),
    (
        {},
        {
            'qk_norm': False, 'norm': {'class_path': RMS_NORM, 'init_args': {'eps': 1e-2}},
            'positions': {'class_path': 'xlabml.transformer.Rotary', 'init_args': {'base': 500.0}},
        },
        ('llama', False),
    ),
], ids=['tied', 'untied and grouped', 'one matrix', 'llama'])  # fmt: skip
def test_the_files_have_the_logits_of_the_checkpoint(tokenizer, tmp_path, head, trunk, expected):
    """Where transformers is installed, the command compares with it too."""
    path = save(tmp_path / 'm.safetensors', tokenizer, head, **trunk)
    made = export_decoder(path, tmp_path / 'out')
    assert made.difference is None or made.difference < 1e-4
    config = json.loads((tmp_path / 'out/config.json').read_text('utf-8'))
    assert (config['model_type'], config['tie_word_embeddings']) == expected
    model = load_network(checkpoints.load(path), path, LanguageModel)
    ids = torch.randint(len(tokenizer), (24,), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(by_hand(tmp_path / 'out', ids), model(ids[None])[0], rtol=1e-4, atol=1e-4)


def test_names_and_shapes_are_those_of_qwen3(tokenizer, tmp_path, capsys):
    path = save(tmp_path / 'm.safetensors', tokenizer, n_kv_heads=2)
    assert main(['export-decoder', str(path), str(tmp_path / 'out')]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(tmp_path / 'out')
    assert printed[1].startswith(('not compared: transformers is not installed', 'same tokens and logits by'))
    assert len({file.stat().st_mode for file in (tmp_path / 'out').iterdir()}) == 1
    expected = {'model.embed_tokens': (340, 32), 'model.norm': (32,), 'lm_head': (340, 32)}
    for i in range(2):
        expected |= {
            f'model.layers.{i}.{name}': shape
            for name, shape in {
                'input_layernorm': (32,), 'post_attention_layernorm': (32,),
                'self_attn.q_proj': (32, 32), 'self_attn.k_proj': (16, 32), 'self_attn.v_proj': (16, 32),
                'self_attn.o_proj': (32, 32), 'self_attn.q_norm': (8,), 'self_attn.k_norm': (8,),
                'mlp.gate_proj': (40, 32), 'mlp.up_proj': (40, 32), 'mlp.down_proj': (32, 40),
            }.items()
        }  # fmt: skip
    found = load_file(tmp_path / 'out/model.safetensors')
    assert {name: tuple(x.shape) for name, x in found.items()} == {f'{name}.weight': s for name, s in expected.items()}
    config = json.loads((tmp_path / 'out/config.json').read_text('utf-8'))
    sizes = {
        'architectures': ['Qwen3ForCausalLM'], 'vocab_size': 340, 'hidden_size': 32, 'intermediate_size': 40,
        'num_hidden_layers': 2, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'head_dim': 8,
        'max_position_embeddings': 48, 'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 3,
    }  # fmt: skip
    assert {name: config[name] for name in sizes} == sizes
    assert main(['export-decoder', str(path), str(tmp_path / 'out')]) == 2
    assert 'is there already' in capsys.readouterr().err


def test_a_tokenizer_of_ours_is_written_in_both_forms(tokenizer, tmp_path):
    library = pytest.importorskip('tokenizers')
    export_decoder(save(tmp_path / 'm.safetensors', tokenizer), tmp_path / 'out')
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / 'out/tokenizer.model'))
    theirs = library.Tokenizer.from_file(str(tmp_path / 'out/tokenizer.json'))
    for text in TEXTS:
        assert pieces.encode(text) == tokenizer.encode(text)
        assert theirs.encode(text).ids == [1, *tokenizer.encode(text)]


def test_the_tokenizer_of_another_library_begins_a_text_as_ours_does(tmp_path):
    library = pytest.importorskip('tokenizers')
    word_piece(tmp_path / 'tokenizer.json')
    tokenizer = Tokenizer.load(tmp_path / 'tokenizer.json')
    export_decoder(save(tmp_path / 'm.safetensors', tokenizer), tmp_path / 'out')
    theirs = library.Tokenizer.from_file(str(tmp_path / 'out/tokenizer.json'))
    assert theirs.encode(TEXTS[0]).ids == [tokenizer.special_ids['sos'], *tokenizer.encode(TEXTS[0])]
    assert not (tmp_path / 'out/tokenizer.model').exists()


def test_all_that_is_in_the_way_is_named(tokenizer, tmp_path):
    trunk = {
        'causal': False, 'shift_width': 3, 'activation': {'class_path': 'xlabml.transformer.ReLU2'},
        'positions': {'class_path': 'xlabml.transformer.NoPositions'}, 'prenorm': False, 'final_norm': False,
        'embedding_norm': True, 'norm': {'class_path': 'torch.nn.LayerNorm'}, 'bias': True, 'window': 4,
        'score_cap': 2.0,
    }  # fmt: skip
    path = save(tmp_path / 'm.safetensors', tokenizer, {'head_bias': True, 'logit_cap': 9.0}, **trunk)
    with pytest.raises(SettingsError, match='cannot be written for transformers') as caught:
        export_decoder(path, tmp_path / 'out')
    for name in (*(f'trunk.{name}' for name in trunk), 'head_bias', 'logit_cap'):
        assert f'{name} is' in str(caught.value)
    path = save(tmp_path / 'n.safetensors', tokenizer, norm={'class_path': RMS_NORM, 'init_args': {'eps': 1e-6}})
    with pytest.raises(SettingsError, match=r'for: trunk\.norm\.eps is 1e-06 \(1e-05'):
        export_decoder(path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_what_conf_portable_trains_can_be_written(tokenizer, tmp_path):
    model = yaml.safe_load(CONF.read_text('utf-8'))['model']
    trunk = {**model.pop('trunk'), 'activation': SWIGLU}
    path = save(tmp_path / 'm.safetensors', tokenizer, model, **trunk)
    network = load_network(checkpoints.load(path), path, LanguageModel)
    assert decoders.find_obstacles(network) == []
    assert decoders.choose_shape(network.trunk) is decoders.QWEN3


@pytest.mark.parametrize('what', ['write_weights', 'begun_content'])
def test_a_folder_with_other_logits_or_tokens_is_not_kept(tokenizer, tmp_path, monkeypatch, what):
    pytest.importorskip('transformers', reason='needs the package transformers')
    path = save(tmp_path / 'm.safetensors', tokenizer)
    real = getattr(decoders, what)
    changed = {
        'write_weights': lambda model: {name: tensor * 1.01 for name, tensor in real(model).items()},
        'begun_content': lambda tokenizer: {**real(tokenizer), 'post_processor': None},
    }
    monkeypatch.setattr(decoders, what, changed[what])
    with pytest.raises(CheckpointError, match=r'the logits of|other tokens by transformers'):
        export_decoder(path, tmp_path / 'out')
    assert [item.name for item in tmp_path.iterdir()] == ['m.safetensors']
