"""A text encoder of ours -> a folder that sentence-transformers loads without our code, where its shape is that of BERT
or of ModernBERT."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from xlabml import checkpoints
from xlabml.artifacts.folders import new_folder
from xlabml.artifacts.tensors import write_tensors
from xlabml.errors import CheckpointError, SettingsError
from xlabml.heads import TextEncoder
from xlabml.heads.loading import load_network
from xlabml.heads.text_encoder import frame
from xlabml.plain import PlainDict
from xlabml.tokenizer import Tokenizer
from xlabml.transformer import Block, Learned, NoPositions, Sinusoidal, Transformer

from . import modernbert
from .bert import FAMILIES
from .checking import PROBE, TEXTS, TOLERANCE, check_same, encode
from .folder import WEIGHTS, Json, read_object, read_weights, write_json
from .importing import read_trunk
from .sentence_folder import ACTIVATIONS, POOLINGS, read_sentence_folder
from .tokenizer_json import find_obstacles as find_tokenizer_obstacles
from .tokenizer_json import special_pieces, tokenizer_content

_FAMILY = FAMILIES['bert']
_POSITIONS = (Learned, NoPositions, Sinusoidal)
_MODES = {name: mode for mode, name in POOLINGS.items()}
_KEYS = {
    'mean': 'pooling_mode_mean_tokens',
    'cls': 'pooling_mode_cls_token',
    'max': 'pooling_mode_max_tokens',
    'weightedmean': 'pooling_mode_weightedmean_tokens',
    'lasttoken': 'pooling_mode_lasttoken',
}


class Exported(NamedTuple):
    """A folder that was written.

    Args:
        folder: Where it is.
        difference: As `check_same` returns it.
    """

    folder: Path
    difference: float | None


def export_folder(ckpt: Path, folder: Path) -> Exported:
    """Write an encoder as sentence-transformers saves one, and compare its vectors with ours before it has its name.

    Args:
        ckpt: A training checkpoint or an exported file of an encoder.
        folder: What is made.

    Raises:
        FileExistsError: The folder is there.
        SettingsError: The encoder has settings that neither shape expresses; all of them are named.
        CheckpointError: The file is no encoder's, or the vectors differ.
    """
    with new_folder(folder) as part:
        contents = checkpoints.load(ckpt)
        network = load_network(contents, ckpt, TextEncoder)
        tokenizer = Tokenizer.from_bytes(contents.tokenizer_bytes())
        shape = choose_shape(network, tokenizer, ckpt)
        _write(part, network, tokenizer, shape)
        _check_back(part, network, tokenizer)
        difference = check_same(part, network, tokenizer)
    return Exported(folder, difference)


def choose_shape(network: TextEncoder, tokenizer: Tokenizer, ckpt: Path) -> str:
    """Whose shape an encoder has: bert or modernbert.

    Raises:
        SettingsError: Neither; all that is in the way is named, for the shape that less stands in the way of first.
    """
    shared = [*_find_obstacles_around(network), *_find_obstacles_of(tokenizer)]
    found = {'bert': find_obstacles(network), modernbert.KIND: modernbert.find_obstacles(network)}
    shapes = sorted(found, key=lambda shape: len(found[shape]))
    if shared or found[shapes[0]]:
        of_shapes = [f'for the shape of {shape}: {"; ".join(found[shape])}' for shape in shapes if found[shape]]
        raise SettingsError(
            f'{ckpt} cannot be written for sentence-transformers, which would need code of ours for: '
            f'{"; ".join([*shared, *(of_shapes if found[shapes[0]] else [])])}'
        )
    return shapes[0]


def find_obstacles(network: TextEncoder) -> list[str]:
    """What of an encoder BERT's shape does not express: each setting, what it is, and what it must be."""
    trunk = network.trunk
    if not isinstance(trunk, Transformer):
        return [f'trunk is {type(trunk).__name__} (xlabml.transformer.Transformer)']
    blocks = cast('list[Block]', list(trunk.blocks))
    first = blocks[0]
    norms = [
        trunk.embedding_norm,
        *(norm for block in blocks for norm in (block.attention_norm, block.feed_forward_norm)),
    ]
    activations = {_activation(block.feed_forward.activation) for block in blocks}
    checks: list[tuple[bool, str]] = [
        (not trunk.causal, 'trunk.causal is true (false)'),
        (not first.prenorm, 'trunk.prenorm is true (false)'),
        (isinstance(trunk.norm, nn.Identity), 'trunk.final_norm is true (false)'),
        (not isinstance(trunk.embedding_norm, nn.Identity), 'trunk.embedding_norm is false (true)'),
        (
            _are_alike(norms),
            f'trunk.norm is {type(first.attention_norm).__name__} (torch.nn.LayerNorm, weight and bias)',
        ),
        (isinstance(trunk.positions, _POSITIONS), f'trunk.positions is {type(trunk.positions).__name__} (Learned)'),
        (
            None not in activations,
            f'trunk.activation is {type(first.feed_forward.activation).__name__} (torch.nn.GELU)',
        ),
        (not first.attention.qk_norm, 'trunk.qk_norm is true (false)'),
        (trunk.n_kv_heads == trunk.n_heads, f'trunk.n_kv_heads is {trunk.n_kv_heads} (as many as n_heads)'),
        (all(block.attention.rule.window is None for block in blocks), 'trunk.window is set (null)'),
        (first.attention.rule.score_cap is None, 'trunk.score_cap is set (null)'),
        (not first.has_shifts, 'trunk.shift_width is above 1 (1)'),
    ]
    return [what for is_fit, what in checks if not is_fit]


def _find_obstacles_around(network: TextEncoder) -> Iterator[str]:
    """What of pooling and the layers over it sentence-transformers does not have."""
    if type(network.pooling).__name__ not in _MODES:
        yield f'pooling is {type(network.pooling).__name__} ({", ".join(_MODES)})'
    if any(_path(layer.activation) not in ACTIVATIONS.values() for layer in network.dense):  # type: ignore[arg-type]
        yield f'the activation of dense ({", ".join(ACTIVATIONS.values())})'


def _find_obstacles_of(tokenizer: Tokenizer) -> Iterator[str]:
    from xlabml.tokenizer.huggingface import HuggingFaceTokenizer

    yield from (found := list(find_tokenizer_obstacles(tokenizer)))
    ends = tokenizer.special_ids
    ours = frame(tokenizer.encode(PROBE), ends['sos'], ends['eos'], len(PROBE) + 2)
    if not found and isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.encode_framed(PROBE) != ours:
        yield 'the tokenizer.json puts other tokens around a text than the start and the end of text'


def _are_alike(norms: list[nn.Module]) -> bool:
    return all(isinstance(norm, nn.LayerNorm) and norm.bias is not None for norm in norms) and (
        len({cast(nn.LayerNorm, norm).eps for norm in norms}) == 1
    )


def _activation(module: nn.Module) -> str | None:
    if isinstance(module, nn.GELU):
        return 'gelu' if module.approximate == 'none' else 'gelu_new'
    return {nn.ReLU: 'relu', nn.SiLU: 'silu'}.get(type(module))


def _path(module: nn.Module) -> str:
    return f'torch.nn.{type(module).__name__}'


def _bert_config(network: TextEncoder, pad: int) -> dict[str, Json]:
    trunk = network.trunk
    assert isinstance(trunk, Transformer)  # by find_obstacles
    block = cast(Block, trunk.blocks[0])
    return {
        'model_type': 'bert',
        'architectures': ['BertModel'],
        'hidden_size': trunk.d_model,
        'num_hidden_layers': trunk.n_layers,
        'num_attention_heads': trunk.n_heads,
        'intermediate_size': block.feed_forward.output.in_features,
        'hidden_act': _activation(block.feed_forward.activation),
        'layer_norm_eps': cast(nn.LayerNorm, block.attention_norm).eps,
        'hidden_dropout_prob': trunk.dropout,
        'attention_probs_dropout_prob': 0.0,
        'max_position_embeddings': network.max_len,
        'position_embedding_type': 'absolute',
        'type_vocab_size': 2,
        'vocab_size': trunk.embedding.num_embeddings,
        'pad_token_id': pad,
    }


def _write(folder: Path, network: TextEncoder, tokenizer: Tokenizer, shape: str) -> None:
    ends = tokenizer.special_ids
    assert isinstance(network.trunk, Transformer)  # by find_obstacles
    if shape == modernbert.KIND:
        weights = modernbert.write_weights(network.trunk)
        config = modernbert.write_config(network, ends['pad'], ends['sos'], ends['eos'])
    else:
        weights = _bert_weights(network.trunk)
        config = _bert_config(network, ends['pad'])
    write_tensors(folder / WEIGHTS, weights, {'format': 'pt'})
    write_json(folder / 'config.json', config)
    content = tokenizer_content(tokenizer)
    write_json(folder / 'tokenizer.json', {**content, 'truncation': None, 'padding': None})
    special = special_pieces(tokenizer)
    write_json(
        folder / 'tokenizer_config.json',
        {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': network.max_len, **special},
    )
    write_json(folder / 'sentence_bert_config.json', {'max_seq_length': network.max_len, 'do_lower_case': False})
    write_json(
        folder / 'config_sentence_transformers.json',
        {'prompts': cast(Json, network.prompts), 'default_prompt_name': None, 'similarity_fn_name': 'cosine'},
    )
    _write_modules(folder, network)


def _write_modules(folder: Path, network: TextEncoder) -> None:
    modules = [('', 'Transformer'), ('1_Pooling', 'Pooling')]
    mode = _MODES[type(network.pooling).__name__]
    write_json(
        folder / '1_Pooling' / 'config.json',
        {
            'word_embedding_dimension': network.trunk.d_model,
            **{key: name == mode for name, key in _KEYS.items()},
            'include_prompt': network.include_prompt,
        },
    )
    theirs = {ours: name for name, ours in ACTIVATIONS.items()}
    for i, layer in enumerate(network.dense, 2):
        linear = cast(nn.Linear, layer.linear)
        place = folder / f'{i}_Dense'
        modules.append((place.name, 'Dense'))
        write_json(
            place / 'config.json',
            {
                'in_features': linear.in_features,
                'out_features': linear.out_features,
                'bias': linear.bias is not None,
                'activation_function': theirs[_path(cast(nn.Module, layer.activation))],
            },
        )
        weights = {f'linear.{name}': x.contiguous() for name, x in linear.state_dict().items()}
        write_tensors(place / WEIGHTS, weights, {})
    if network.normalize:
        modules.append((f'{len(modules)}_Normalize', 'Normalize'))
        (folder / modules[-1][0]).mkdir()
    listed: Json = [
        {'idx': i, 'name': str(i), 'path': place, 'type': f'sentence_transformers.models.{kind}'}
        for i, (place, kind) in enumerate(modules)
    ]
    write_json(folder / 'modules.json', listed)


def _bert_weights(trunk: Transformer) -> dict[str, Tensor]:
    """The trunk's weights by BERT's names; missing biases, types and the pooler are zeros."""
    own = trunk.state_dict()
    d = trunk.d_model
    like = own['embedding.weight'].float()
    with torch.inference_mode():
        places = trunk.positions.embed(torch.zeros(1, trunk.max_len, d), torch.arange(trunk.max_len)[None])[0].clone()
    found = {
        'embeddings.word_embeddings.weight': like * trunk.scale,
        'embeddings.position_embeddings.weight': places,
        'embeddings.token_type_embeddings.weight': like.new_zeros(2, d),
        'embeddings.LayerNorm.weight': own['embedding_norm.weight'],
        'embeddings.LayerNorm.bias': own['embedding_norm.bias'],
        'pooler.dense.weight': like.new_zeros(d, d),
        'pooler.dense.bias': like.new_zeros(d),
    }
    for i in range(trunk.n_layers):
        layer = _FAMILY.layer.format(i)
        for ours, theirs in _FAMILY.parts.items():
            weight = own[f'blocks.{i}.{ours}.weight']
            bias = own.get(f'blocks.{i}.{ours}.bias', weight.new_zeros(weight.size(0)))
            for name, part, part_bias in zip(theirs, weight.chunk(len(theirs)), bias.chunk(len(theirs))):
                found[f'{layer}{name}.weight'] = part
                found[f'{layer}{name}.bias'] = part_bias
    return {name: tensor.float().clone().contiguous() for name, tensor in found.items()}


def _check_back(folder: Path, network: TextEncoder, tokenizer: Tokenizer) -> None:
    """Read the folder as an import does, and compare the vectors: that needs no other library.

    Raises:
        CheckpointError: They differ.
    """
    bert = read_trunk(read_object(folder / 'config.json'), read_weights(folder), folder)
    around = read_sentence_folder(folder)
    arguments: PlainDict = {
        'n_vocab': len(tokenizer),
        'max_len': network.max_len,
        'trunk': bert.trunk,
        'pooling': around.pooling,
        'dense': around.dense or None,
        'normalize': around.normalize,
    }
    part = checkpoints.Part('xlabml.heads.TextEncoder', arguments)
    weights = {f'network.trunk.{name}': tensor for name, tensor in bert.weights.items()}
    weights |= {f'network.{name}': tensor for name, tensor in around.dense_weights.items()}
    contents = checkpoints.Contents.of_network(part, weights)
    back = load_network(contents, folder, TextEncoder)
    difference = float((encode(back, tokenizer, TEXTS) - encode(network, tokenizer, TEXTS)).abs().max())
    if not difference <= TOLERANCE or math.isnan(difference):
        raise CheckpointError(
            f'the folder has other vectors than the checkpoint, by {difference:.1e}; please report it'
        )
