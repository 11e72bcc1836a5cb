"""ModernBERT in our trunk, both ways: which settings express it, and what its weights are called.

Its layers attend near and far in turn, each kind with rotations of its own; norms stand before attention and
feed-forward networks, but not before the first attention, since the embeddings are normalised; activations are gated.
A rotated pair is channels i and i + c / 2 of a head there, 2i and 2i + 1 here.
Source: Warner et al. 2024, https://arxiv.org/abs/2412.13663.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.errors import CheckpointError
from xlabml.heads import TextEncoder
from xlabml.transformer import Block, GeGLU, Rotary, SwiGLU, Transformer

from .bert import Bert, Family, Weights
from .folder import Json, whole

KIND = 'modernbert'
"""Its `model_type`."""

_FAMILY = Family(
    {'d_model': 'hidden_size', 'n_layers': 'num_hidden_layers', 'n_heads': 'num_attention_heads',
     'd_ff': 'intermediate_size'},
    'layers.{}.',
    {},
    'hidden_activation',
    'embedding_dropout',
    0,
    ('model.',),
)  # fmt: skip
_PARTS = {
    'attention.projection': 'attn.Wqkv',
    'attention.output': 'attn.Wo',
    'attention_norm': 'attn_norm',
    'feed_forward.input': 'mlp.Wi',
    'feed_forward.output': 'mlp.Wo',
    'feed_forward_norm': 'mlp_norm',
}
_OUTSIDE = {'embedding': 'embeddings.tok_embeddings', 'embedding_norm': 'embeddings.norm', 'norm': 'final_norm'}
_ACTIVATIONS = {'gelu': GeGLU, 'silu': SwiGLU}
_LOCAL = 'sliding_attention'
_GLOBAL = 'full_attention'


def find_obstacles(network: TextEncoder) -> list[str]:
    """What of an encoder its shape does not express: each setting, what it is, and what it must be."""
    trunk = network.trunk
    if not isinstance(trunk, Transformer):
        return [f'trunk is {type(trunk).__name__} (xlabml.transformer.Transformer)']
    blocks = cast('list[Block]', list(trunk.blocks))
    first = blocks[0]
    norms = [
        trunk.embedding_norm,
        *(block.attention_norm for block in blocks[1:]),
        *(block.feed_forward_norm for block in blocks),
        trunk.norm,
    ]
    windows = {block.attention.rule.window for block in blocks} - {None}
    checks: list[tuple[bool, str]] = [
        (not trunk.causal, 'trunk.causal is true (false)'),
        (first.prenorm, 'trunk.prenorm is false (true)'),
        (not isinstance(trunk.norm, nn.Identity), 'trunk.final_norm is false (true)'),
        (not isinstance(trunk.embedding_norm, nn.Identity), 'trunk.embedding_norm is false (true)'),
        (isinstance(first.attention_norm, nn.Identity), 'trunk.first_norm is true (false)'),
        (_are_alike(norms), f'trunk.norm is {type(first.feed_forward_norm).__name__} (torch.nn.LayerNorm)'),
        (isinstance(trunk.positions, Rotary), f'trunk.positions is {type(trunk.positions).__name__} (Rotary)'),
        (
            type(first.feed_forward.activation) in _ACTIVATIONS.values(),
            f'trunk.activation is {type(first.feed_forward.activation).__name__} (GeGLU or SwiGLU)',
        ),
        (not first.attention.qk_norm, 'trunk.qk_norm is true (false)'),
        (trunk.n_kv_heads == trunk.n_heads, f'trunk.n_kv_heads is {trunk.n_kv_heads} (as many as n_heads)'),
        (len(windows) < 2, f'trunk.window is {sorted(map(str, windows))} (one window for all layers that have one)'),
        (first.attention.rule.score_cap is None, 'trunk.score_cap is set (null)'),
        (not first.has_shifts, 'trunk.shift_width is above 1 (1)'),
    ]
    return [what for is_fit, what in checks if not is_fit]


def _are_alike(norms: list[nn.Module]) -> bool:
    """Whether all are LayerNorms of one kind."""
    return all(isinstance(norm, nn.LayerNorm) for norm in norms) and (
        len({(cast(nn.LayerNorm, norm).eps, cast(nn.LayerNorm, norm).bias is None) for norm in norms}) == 1
    )


def write_config(network: TextEncoder, pad: int, sos: int, eos: int) -> dict[str, Json]:
    """config.json of an encoder of this shape."""
    trunk = network.trunk
    assert isinstance(trunk, Transformer)  # by find_obstacles
    blocks = cast('list[Block]', list(trunk.blocks))
    norm = cast(nn.LayerNorm, trunk.norm)
    positions = cast(Rotary, trunk.positions)
    windows = [block.attention.rule.window for block in blocks]
    window = next((one for one in windows if one is not None), 1)
    layers: Json = [_GLOBAL if one is None else _LOCAL for one in windows]
    has_bias = blocks[0].attention.output.bias is not None
    names = {made: name for name, made in _ACTIVATIONS.items()}
    rates: dict[str, Json] = {
        _GLOBAL: {'rope_type': 'default', 'rope_theta': positions.base},
        _LOCAL: {'rope_type': 'default', 'rope_theta': positions.local_base},
    }
    far = [i for i, one in enumerate(windows) if one is None]
    return {
        'model_type': KIND,
        'architectures': ['ModernBertModel'],
        'hidden_size': trunk.d_model,
        'num_hidden_layers': trunk.n_layers,
        'num_attention_heads': trunk.n_heads,
        'intermediate_size': blocks[0].feed_forward.output.in_features,
        'hidden_activation': names[cast('type[GeGLU | SwiGLU]', type(blocks[0].feed_forward.activation))],
        'norm_eps': norm.eps,
        'norm_bias': norm.bias is not None,
        'attention_bias': has_bias,
        'mlp_bias': has_bias,
        'embedding_dropout': trunk.dropout,
        'attention_dropout': 0.0,
        'mlp_dropout': blocks[0].feed_forward.dropout,
        'max_position_embeddings': network.max_len,
        'local_attention': 2 * (window - 1),  # to both sides, the token itself aside
        'layer_types': layers,
        'rope_parameters': rates,
        # The same for earlier versions of transformers, which know a regular pattern only.
        'global_attn_every_n_layers': far[1] - far[0] if len(far) > 1 else trunk.n_layers,
        'global_rope_theta': positions.base,
        'local_rope_theta': positions.local_base,
        'vocab_size': trunk.embedding.num_embeddings,
        'pad_token_id': pad,
        'bos_token_id': sos,
        'eos_token_id': eos,
        'cls_token_id': sos,
        'sep_token_id': eos,
    }


def write_weights(trunk: Transformer) -> dict[str, Tensor]:
    """The trunk's weights by its names."""
    own = trunk.state_dict()
    found = {}
    for name, tensor in own.items():
        outside, _, kind = name.rpartition('.')
        if outside in _OUTSIDE:
            scale = trunk.scale if outside == 'embedding' else 1.0
            found[f'{_OUTSIDE[outside]}.{kind}'] = tensor * scale
            continue
        _, number, part = outside.split('.', 2)
        if part == 'attention.projection':
            tensor = _reorder(tensor, trunk.n_heads, pairs_apart(trunk.d_head))
        found[f'{_FAMILY.layer.format(number)}{_PARTS[part]}.{kind}'] = tensor
    return {name: tensor.float().clone().contiguous() for name, tensor in found.items()}


def read_modernbert(config: dict[str, Json], weights: Mapping[str, Tensor], folder: Path) -> Bert:
    """Turn config.json and weights into settings and weights of ours.

    Args:
        folder: Where they are from, for messages.

    Raises:
        CheckpointError: A setting or a weight is missing, or is not expressed by ours.
    """
    path = folder / 'config.json'
    sizes: dict[str, Json] = {ours: whole(config, theirs, path) for ours, theirs in _FAMILY.sizes.items()}
    n_layers = whole(config, 'num_hidden_layers', path)
    d_head = whole(config, 'hidden_size', path) // whole(config, 'num_attention_heads', path)
    activation = config.get('hidden_activation', 'gelu')
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise CheckpointError(
            f'hidden_activation in {path} is {activation!r:.60}; what can be imported is {", ".join(_ACTIVATIONS)}'
        )
    bias = config.get('attention_bias', False)
    if bias != config.get('mlp_bias', False):
        raise CheckpointError(f'attention_bias and mlp_bias in {path} differ; ours has a bias in both or in none')
    kinds = _layer_kinds(config, n_layers, path)
    named = Weights(weights, _FAMILY, folder)
    has_norm_bias = config.get('norm_bias', False) is True
    found = {'embedding.weight': named.take('embeddings.tok_embeddings.weight')}
    for ours, theirs in _OUTSIDE.items():
        for kind in ('weight', *(['bias'] if has_norm_bias else [])) if ours != 'embedding' else ():
            found[f'{ours}.{kind}'] = named.take(f'{theirs}.{kind}')
    order = pairs_apart(d_head).argsort()
    for i in range(n_layers):
        for ours, theirs in _PARTS.items():
            is_norm = ours.endswith('norm')
            has_bias = has_norm_bias if is_norm else bias
            if i == 0 and ours == 'attention_norm':
                continue
            for kind in ('weight', *(['bias'] if has_bias else [])):
                tensor = named.take(f'{_FAMILY.layer.format(i)}{theirs}.{kind}')
                if ours == 'attention.projection':
                    tensor = _reorder(tensor, whole(config, 'num_attention_heads', path), order)
                found[f'blocks.{i}.{ours}.{kind}'] = tensor
    local = config.get('local_attention', 128)
    if not isinstance(local, int) or isinstance(local, bool) or local < 0:
        raise CheckpointError(f'local_attention in {path} is {local!r:.60}; it must be a whole number from 0')
    windows: Json = [None if kind == _GLOBAL else local // 2 + 1 for kind in kinds]
    trunk: dict[str, Json] = {
        'class_path': 'xlabml.transformer.Transformer',
        'init_args': {
            **sizes,
            'causal': False,
            'window': windows,
            'positions': {
                'class_path': 'xlabml.transformer.Rotary',
                'init_args': {
                    'base': _base(config, _GLOBAL, 'global_rope_theta', 160_000.0, path),
                    'local_base': _base(config, _LOCAL, 'local_rope_theta', 10_000.0, path),
                },
            },
            'embedding_norm': True,
            'first_norm': False,
            'norm': {
                'class_path': 'torch.nn.LayerNorm',
                'init_args': {'eps': config.get('norm_eps', 1e-5), 'bias': has_norm_bias},
            },
            'activation': {'class_path': f'xlabml.transformer.{_ACTIVATIONS[activation].__name__}'},
            'qk_norm': False,
            'bias': bias,
            'scale_embedding': False,
            'dropout': config.get('embedding_dropout', 0.0),
            'attn_drop': False,
            'ff_drop': False,
            'block_drop': False,
        },
    }
    return Bert(trunk, whole(config, 'max_position_embeddings', path), found, named.unused())


def _layer_kinds(config: Mapping[str, Json], n_layers: int, path: Path) -> list[str]:
    """Whether each layer attends near or far."""
    kinds = config.get('layer_types')
    if kinds is None:
        every = config.get('global_attn_every_n_layers', 3)
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise CheckpointError(f'global_attn_every_n_layers in {path} is {every!r:.60}; give a number from 1')
        return [_LOCAL if i % every else _GLOBAL for i in range(n_layers)]
    if not isinstance(kinds, list) or len(kinds) != n_layers or not {*map(str, kinds)} <= {_LOCAL, _GLOBAL}:
        raise CheckpointError(f'layer_types in {path} does not name {_LOCAL} or {_GLOBAL} for each layer')
    return [str(kind) for kind in kinds]


def _base(config: Mapping[str, Json], kind: str, earlier: str, default: float, path: Path) -> float:
    """The base of the rotations of one kind of layers."""
    rates = config.get('rope_parameters')
    rate = rates.get(kind) if isinstance(rates, dict) else None
    values = rate if isinstance(rate, dict) else {}
    found = values.get('rope_theta', config.get(earlier, default))
    if values.get('rope_type', 'default') != 'default' or not isinstance(found, int | float) or not found > 0:
        raise CheckpointError(f'rope_parameters in {path} are {rates!r:.80}; plain rotations can be imported')
    return float(found)


def pairs_apart(d_head: int) -> Int[Tensor, ' c']:
    """For each channel of a head there, the channel here: first of all pairs, then second of all pairs."""
    return torch.cat([torch.arange(0, d_head, 2), torch.arange(1, d_head, 2)])


def _reorder(projection: Float[Tensor, 'qkv ...'], n_heads: int, order: Int[Tensor, ' c']) -> Float[Tensor, 'qkv ...']:
    """The channels of queries and keys, head by head, in another order; values stay."""
    queries, keys, values = projection.chunk(3)
    moved = [part.unflatten(0, (n_heads, -1))[:, order].flatten(0, 1) for part in (queries, keys)]
    return torch.cat([*moved, values])
