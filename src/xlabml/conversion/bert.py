"""BERT and its family in our trunk, both ways: which settings express them, and what their weights are called.

They have learned positions, norms after each sum and one over the embeddings, biases everywhere. The vector of a
token's type (0 in a text alone) is added to every position's.
Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from xlabml.errors import CheckpointError

from .folder import Json, whole

_BERT = {
    'attention.projection': ('attention.self.query', 'attention.self.key', 'attention.self.value'),
    'attention.output': ('attention.output.dense',),
    'attention_norm': ('attention.output.LayerNorm',),
    'feed_forward.input': ('intermediate.dense',),
    'feed_forward.output': ('output.dense',),
    'feed_forward_norm': ('output.LayerNorm',),
}
_DISTILBERT = {
    'attention.projection': ('attention.q_lin', 'attention.k_lin', 'attention.v_lin'),
    'attention.output': ('attention.out_lin',),
    'attention_norm': ('sa_layer_norm',),
    'feed_forward.input': ('ffn.lin1',),
    'feed_forward.output': ('ffn.lin2',),
    'feed_forward_norm': ('output_layer_norm',),
}
_SIZES = {
    'd_model': 'hidden_size',
    'n_layers': 'num_hidden_layers',
    'n_heads': 'num_attention_heads',
    'd_ff': 'intermediate_size',
}
_DISTIL_SIZES = {'d_model': 'dim', 'n_layers': 'n_layers', 'n_heads': 'n_heads', 'd_ff': 'hidden_dim'}


class Family(NamedTuple):
    """How models of one `model_type` say and name things.

    Args:
        sizes: From our setting to the key in config.json.
        layer: What the names of a layer's weights begin with; its number goes in.
        parts: From our module in a layer to theirs, which are stacked in it.
        activation: The key of the activation.
        dropout: The key of the ratio.
        n_reserved: Rows of the table of positions before the first one of a text.
        prefixes: What may stand before every name.
    """

    sizes: Mapping[str, str] = _SIZES
    layer: str = 'encoder.layer.{}.'
    parts: Mapping[str, tuple[str, ...]] = _BERT
    activation: str = 'hidden_act'
    dropout: str = 'hidden_dropout_prob'
    n_reserved: int = 0
    prefixes: tuple[str, ...] = ('bert.',)


_ROBERTA = Family(n_reserved=2, prefixes=('roberta.',))
FAMILIES: dict[str, Family] = {
    'bert': Family(),
    'roberta': _ROBERTA,
    'xlm-roberta': _ROBERTA,
    'camembert': _ROBERTA,
    'distilbert': Family(
        _DISTIL_SIZES, 'transformer.layer.{}.', _DISTILBERT, 'activation', 'dropout', 0, ('distilbert.',)
    ),
}
"""By `model_type`."""

ACTIVATIONS: dict[str, dict[str, Json]] = {
    'gelu': {'class_path': 'torch.nn.GELU'},
    'gelu_new': {'class_path': 'torch.nn.GELU', 'init_args': {'approximate': 'tanh'}},
    'gelu_pytorch_tanh': {'class_path': 'torch.nn.GELU', 'init_args': {'approximate': 'tanh'}},
    'relu': {'class_path': 'torch.nn.ReLU'},
    'silu': {'class_path': 'torch.nn.SiLU'},
}

_MUST_BE: dict[str, tuple[Json, ...]] = {
    'position_embedding_type': ('absolute', None),
    'is_decoder': (False, None),
    'add_cross_attention': (False, None),
    'sinusoidal_pos_embds': (False, None),
}
"""Settings that would change what is computed, and the values that ours expresses."""


class Bert(NamedTuple):
    """A model of the family, in our words.

    Args:
        trunk: Settings of the trunk.
        n_positions: The longest text that it has positions for, in tokens.
        weights: Of the trunk, by their names in it; the embedding as large as theirs.
        unused: Names of theirs that ours has no place for.
    """

    trunk: dict[str, Json]
    n_positions: int
    weights: dict[str, Tensor]
    unused: list[str]


def read_bert(config: dict[str, Json], weights: Mapping[str, Tensor], folder: Path) -> Bert:
    """Turn config.json and weights into settings and weights of ours.

    Args:
        folder: Where they are from, for messages.

    Raises:
        CheckpointError: It is of another family, or a setting or a weight is missing or is not expressed by ours.
    """
    path = folder / 'config.json'
    kind = config.get('model_type')
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(
            f'model_type in {path} is {kind!r:.60}; what can be imported is {", ".join(FAMILIES)}, modernbert'
        )
    family = FAMILIES[kind]
    for name, values in _MUST_BE.items():
        if config.get(name) not in values:
            raise CheckpointError(f'{name} in {path} is {config[name]!r:.60}; only {values[0]!r} can be imported')
    activation = config.get(family.activation)
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise CheckpointError(
            f'{family.activation} in {path} is {activation!r:.60}; what can be imported is {", ".join(ACTIVATIONS)}'
        )
    sizes: dict[str, Json] = {ours: whole(config, theirs, path) for ours, theirs in family.sizes.items()}
    n_layers = whole(config, family.sizes['n_layers'], path)
    eps = config.get('layer_norm_eps', 1e-12)
    dropout = config.get(family.dropout, 0.0)
    named = Weights(weights, family, folder)
    positions = named.take('embeddings.position_embeddings.weight')[family.n_reserved :]
    if named.has('embeddings.token_type_embeddings.weight'):
        positions = positions + named.take('embeddings.token_type_embeddings.weight')[0]
    found = {
        'embedding.weight': named.take('embeddings.word_embeddings.weight'),
        'positions.embedding.weight': positions,
        'embedding_norm.weight': named.take('embeddings.LayerNorm.weight'),
        'embedding_norm.bias': named.take('embeddings.LayerNorm.bias'),
    }
    for i in range(n_layers):
        layer = family.layer.format(i)
        for ours, theirs in family.parts.items():
            for kind in ('weight', 'bias'):
                found[f'blocks.{i}.{ours}.{kind}'] = torch.cat([named.take(f'{layer}{part}.{kind}') for part in theirs])
    trunk: dict[str, Json] = {
        'class_path': 'xlabml.transformer.Transformer',
        'init_args': {
            **sizes,
            **SHAPE,
            'norm': {'class_path': 'torch.nn.LayerNorm', 'init_args': {'eps': eps}},
            'activation': ACTIVATIONS[activation],
            'dropout': dropout,
        },
    }
    return Bert(trunk, len(positions), found, named.unused())


SHAPE: dict[str, Json] = {
    'causal': False,
    'positions': {'class_path': 'xlabml.transformer.Learned'},
    'embedding_norm': True,
    'prenorm': False,
    'final_norm': False,
    'qk_norm': False,
    'bias': True,
    'scale_embedding': False,
    # BERT drops from attention's probabilities as well, which no kernel for packed rows can do.
    'attn_drop': False,
    'ff_drop': False,
}
"""What all of the family share."""


class Weights:
    """Theirs by name, without what stands before every name, and which of them were taken."""

    def __init__(self, weights: Mapping[str, Tensor], family: Family, folder: Path) -> None:
        self._names = {plain_name(name, family.prefixes): name for name in weights}
        self._weights = weights
        self._folder = folder
        self._taken: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self._names

    def take(self, name: str) -> Tensor:
        if name not in self._names:
            raise CheckpointError(f'the weights in {self._folder} have no {name}; copy the folder again')
        self._taken.add(name)
        return self._weights[self._names[name]]

    def unused(self) -> list[str]:
        """Names that were not taken; numbers of positions are no weights."""
        return [theirs for name, theirs in self._names.items() if name not in self._taken | {'embeddings.position_ids'}]


def plain_name(name: str, prefixes: tuple[str, ...]) -> str:
    """The name of a weight without what stands before every name, as newer files spell it."""
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    for old, new in (('.gamma', '.weight'), ('.beta', '.bias')):  # of TensorFlow
        if name.endswith(f'LayerNorm{old}'):
            name = name.removesuffix(old) + new
    return name
