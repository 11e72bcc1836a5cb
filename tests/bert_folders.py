"""Small folders as sentence-transformers saves them, with random weights, and BERT computed by hand."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from foreign import word_piece
from safetensors.torch import save_file

from xlabml.tokenizer import Tokenizer

D, D_FF, N_LAYERS, N_HEADS, N_POSITIONS = 16, 24, 2, 4, 24


def write_folder(path, kind='bert', prefix='', pooling='mean', dense=False, normalize=True, tokenizer=None, **config):
    """A folder of a model of BERT's family; what is in it by name of file may be changed afterwards."""
    path.mkdir(parents=True)
    if tokenizer is None:
        write_tokenizer(path / 'tokenizer.json')  # training one twice may give two: ties are broken by chance
    else:
        (path / 'tokenizer.json').write_bytes(tokenizer.read_bytes())
    n_vocab = len(Tokenizer.load(path))
    weights = _distilbert(n_vocab) if kind == 'distilbert' else _bert(n_vocab, 2 if 'roberta' in kind else 0)
    save_file({prefix + name: tensor for name, tensor in weights.items()}, path / 'model.safetensors')
    sizes = (
        {'dim': D, 'hidden_dim': D_FF, 'n_layers': N_LAYERS, 'n_heads': N_HEADS, 'activation': 'gelu'}
        if kind == 'distilbert'
        else {
            'hidden_size': D,
            'intermediate_size': D_FF,
            'num_hidden_layers': N_LAYERS,
            'num_attention_heads': N_HEADS,
            'hidden_act': 'gelu',
        }
    )
    counts = {
        'vocab_size': n_vocab,
        'max_position_embeddings': N_POSITIONS + (2 if 'roberta' in kind else 0),
        'type_vocab_size': 2,
    }
    write_json(path / 'config.json', {'model_type': kind, 'layer_norm_eps': 1e-12, **counts, **sizes, **config})
    modules = [('', 'Transformer'), ('1_Pooling', 'Pooling')]
    write_json(path / '1_Pooling' / 'config.json', {'pooling_mode': pooling, 'embedding_dimension': D})
    if dense:
        modules.append(('2_Dense', 'Dense'))
        activation = 'torch.nn.modules.activation.Tanh'
        write_json(
            path / '2_Dense' / 'config.json',
            {'in_features': D, 'out_features': 8, 'bias': True, 'activation_function': activation},
        )
        save_file(
            {'linear.weight': torch.randn(8, D), 'linear.bias': torch.randn(8)}, path / '2_Dense' / 'model.safetensors'
        )
    if normalize:
        modules.append(('3_Normalize', 'Normalize'))
    write_json(
        path / 'modules.json',
        [
            {'idx': i, 'name': str(i), 'path': place, 'type': f'sentence_transformers.models.{name}'}
            for i, (place, name) in enumerate(modules)
        ],
    )
    write_json(path / 'sentence_bert_config.json', {'max_seq_length': 20})
    write_json(path / 'config_sentence_transformers.json', {'prompts': {'query': 'query: ', 'document': ''}})
    return path, weights


def write_tokenizer(path):
    """A WordPiece that puts [CLS] before a text and [SEP] behind it."""
    tokenizers = pytest.importorskip('tokenizers')
    made = tokenizers.Tokenizer.from_file(str(word_piece(path)))
    marks = [(piece, made.token_to_id(piece)) for piece in ('[CLS]', '[SEP]')]
    made.post_processor = tokenizers.processors.TemplateProcessing('[CLS] $A [SEP]', special_tokens=marks)
    made.enable_truncation(8)
    made.enable_padding(length=8)
    made.save(str(path))
    return Tokenizer.load(path)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), 'utf-8')


def change_json(path, **values):
    write_json(path, {**json.loads(path.read_text('utf-8')), **values})


def by_hand(weights, ids, n_reserved=0):
    """The hidden states of BERT of one text, from the paper and its released code."""

    def linear(x, name):
        return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

    def norm(x, name):
        return F.layer_norm(x, (D,), weights[f'{name}.weight'], weights[f'{name}.bias'], 1e-12)

    n = len(ids)
    x = weights['embeddings.word_embeddings.weight'][ids]
    x = x + weights['embeddings.position_embeddings.weight'][n_reserved : n_reserved + n]
    x = norm(x + weights['embeddings.token_type_embeddings.weight'][0], 'embeddings.LayerNorm')
    for i in range(N_LAYERS):
        layer = f'encoder.layer.{i}'
        q, k, v = (
            linear(x, f'{layer}.attention.self.{name}').view(n, N_HEADS, -1).transpose(0, 1)
            for name in ('query', 'key', 'value')
        )
        mixed = (q @ k.mT / math.sqrt(D // N_HEADS)).softmax(-1) @ v
        mixed = linear(mixed.transpose(0, 1).flatten(1), f'{layer}.attention.output.dense')
        x = norm(x + mixed, f'{layer}.attention.output.LayerNorm')
        inner = F.gelu(linear(x, f'{layer}.intermediate.dense'))
        x = norm(x + linear(inner, f'{layer}.output.dense'), f'{layer}.output.LayerNorm')
    return x


def _bert(n_vocab, n_reserved):
    torch.manual_seed(0)
    found = {
        'embeddings.word_embeddings.weight': torch.randn(n_vocab, D),
        'embeddings.position_embeddings.weight': torch.randn(N_POSITIONS + n_reserved, D),
        'embeddings.token_type_embeddings.weight': torch.randn(2, D),
        'embeddings.position_ids': torch.arange(N_POSITIONS)[None],
        'pooler.dense.weight': torch.randn(D, D),
    }
    shapes = {'embeddings.LayerNorm': (D,)}
    for i in range(N_LAYERS):
        layer = f'encoder.layer.{i}'
        shapes |= {f'{layer}.attention.self.{name}': (D, D) for name in ('query', 'key', 'value')}
        shapes |= {f'{layer}.attention.output.dense': (D, D), f'{layer}.attention.output.LayerNorm': (D,)}
        shapes |= {f'{layer}.intermediate.dense': (D_FF, D), f'{layer}.output.dense': (D, D_FF)}
        shapes |= {f'{layer}.output.LayerNorm': (D,)}
    for name, shape in shapes.items():
        found[f'{name}.weight'] = torch.randn(shape) * 0.5
        found[f'{name}.bias'] = torch.randn(shape[0]) * 0.5
    return found


_TO_DISTILBERT = {
    'encoder.layer': 'transformer.layer',
    'attention.self.query': 'attention.q_lin',
    'attention.self.key': 'attention.k_lin',
    'attention.self.value': 'attention.v_lin',
    'attention.output.dense': 'attention.out_lin',
    'attention.output.LayerNorm': 'sa_layer_norm',
    'intermediate.dense': 'ffn.lin1',
    'output.dense': 'ffn.lin2',
    'output.LayerNorm': 'output_layer_norm',
}


def _distilbert(n_vocab):
    found = {}
    for name, tensor in _bert(n_vocab, 0).items():
        if 'token_type' in name or 'pooler' in name or 'position_ids' in name:
            continue
        for theirs, other in _TO_DISTILBERT.items():
            name = name.replace(theirs, other)
        found[name] = tensor
    return found
