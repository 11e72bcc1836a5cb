"""The families of encoders that the library transformers computes, and how one is built from plain values."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from xlabml.errors import NotSupportedError, SettingsError, XLabError

Value: TypeAlias = bool | int | float | str | list[str] | None

_COMMON = frozenset(
    {'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size', 'hidden_act'}
    | {'hidden_dropout_prob', 'attention_probs_dropout_prob', 'max_position_embeddings', 'type_vocab_size'}
    | {'initializer_range', 'layer_norm_eps', 'pad_token_id'}
)
_OF_DISTILBERT = frozenset(
    {'dim', 'n_layers', 'n_heads', 'hidden_dim', 'activation', 'dropout', 'attention_dropout'}
    | {'max_position_embeddings', 'sinusoidal_pos_embds', 'initializer_range', 'pad_token_id'}
)
_OF_DEBERTA = (
    _COMMON
    | {'relative_attention', 'max_relative_positions', 'position_biased_input', 'pos_att_type', 'attention_head_size'}
    | {'position_buckets', 'share_att_key', 'norm_rel_ebd', 'conv_kernel_size', 'conv_act'}
)


class Family(NamedTuple):
    """The models of one `model_type`.

    Args:
        model: Their class in transformers.
        keys: What of their config.json is used; nothing else can be set.
        blocks: Where the layers are.
        below: Other modules that the layers take their input from.
        width: The key of the width.
        n_layers: The key of the number of layers.
        has_types: Whether they have a vector for the type of a token.
        n_reserved: Rows of the table of positions before the first one of a text, over the padding token's id.
    """

    model: str
    keys: frozenset[str] = _COMMON
    blocks: str = 'encoder.layer'
    below: tuple[str, ...] = ('embeddings',)
    width: str = 'hidden_size'
    n_layers: str = 'num_hidden_layers'
    has_types: bool = True
    n_reserved: int | None = None


FAMILIES: dict[str, Family] = {
    'bert': Family('BertModel'),
    'roberta': Family('RobertaModel', n_reserved=1),
    'xlm-roberta': Family('XLMRobertaModel', n_reserved=1),
    'camembert': Family('CamembertModel', n_reserved=1),
    'electra': Family('ElectraModel', _COMMON | {'embedding_size'}, below=('embeddings', 'embeddings_project')),
    'albert': Family(
        'AlbertModel',
        _COMMON | {'embedding_size', 'num_hidden_groups', 'inner_group_num'},
        'encoder.albert_layer_groups',
        ('embeddings', 'encoder.embedding_hidden_mapping_in'),
    ),
    'distilbert': Family(
        'DistilBertModel',
        _OF_DISTILBERT,
        'transformer.layer',
        width='dim',
        n_layers='n_layers',
        has_types=False,
    ),
    'deberta': Family('DebertaModel', _OF_DEBERTA, below=('embeddings', 'encoder.rel_embeddings')),
    'deberta-v2': Family(
        'DebertaV2Model',
        _OF_DEBERTA,
        below=('embeddings', 'encoder.rel_embeddings', 'encoder.LayerNorm', 'encoder.conv'),
    ),
}
"""By `model_type`: the only classes of transformers that are built."""

VOCABULARY = 'embeddings.word_embeddings.weight'
"""The name of the table of tokens in all of them."""


def find_family(model_type: str) -> Family:
    """The family of a `model_type`.

    Raises:
        SettingsError: It is none of those that are built.
    """
    if model_type not in FAMILIES:
        raise SettingsError(f'model_type is {model_type!r:.60}; what can be used is {", ".join(FAMILIES)}')
    return FAMILIES[model_type]


def make_model(model_type: str, family: Family, values: Mapping[str, Value]) -> Any:
    """The network, with new weights.

    Raises:
        SettingsError: A value is none of its config, or nothing can be built from it.
        NotSupportedError: The library is not installed.
    """
    unknown = [name for name in values if name not in family.keys | {'vocab_size'}]
    if unknown:
        raise SettingsError(
            f'trunk.config has {unknown[0]!r:.60}, which is no setting of {model_type}; it has '
            f'{", ".join(sorted(family.keys))}'
        )
    try:
        transformers = importlib.import_module('transformers')
    except ImportError as error:
        raise NotSupportedError(
            f'a trunk of the family {model_type} is computed by the library transformers, which is not installed: '
            'pip install "xlabml[hf]"'
        ) from error
    cls = getattr(transformers, family.model)
    options = {'add_pooling_layer': False} if 'add_pooling_layer' in inspect.signature(cls).parameters else {}
    try:
        return cls(cls.config_class(**values), **options)
    except XLabError:  # of who limits what is built
        raise
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RuntimeError) as error:
        detail = str(error).strip().partition('\n')[0][:300]
        raise SettingsError(
            f'trunk.config is none that a {family.model} of transformers is built from: {type(error).__name__}: '
            f'{detail}'
        ) from error
