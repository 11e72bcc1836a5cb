"""Tiny pretrained encoders of each family, random, as transformers saves them, with a tokenizer of their own."""

import pytest
import torch
from bert_folders import write_json, write_tokenizer
from foreign import byte_level

SIZES = {
    'hidden_size': 16,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 24,
    'max_position_embeddings': 80,
}
_RELATIVE = {'relative_attention': True, 'position_biased_input': False, 'pad_token_id': 0}
CONFIGS = {
    'bert': SIZES,
    'roberta': {**SIZES, 'type_vocab_size': 1, 'pad_token_id': 1},
    'xlm-roberta': {**SIZES, 'type_vocab_size': 1, 'pad_token_id': 1},
    'camembert': {**SIZES, 'type_vocab_size': 1, 'pad_token_id': 1},
    'electra': {**SIZES, 'embedding_size': 8},
    'albert': {**SIZES, 'embedding_size': 8},
    'distilbert': {'dim': 16, 'n_layers': 2, 'n_heads': 2, 'hidden_dim': 24, 'max_position_embeddings': 80},
    'deberta': {**SIZES, **_RELATIVE, 'pos_att_type': ['c2p', 'p2c']},
    'deberta-v2': {
        **SIZES,
        **_RELATIVE,
        'pos_att_type': ['p2c', 'c2p'],
        'position_buckets': 8,
        'norm_rel_ebd': 'layer_norm',
        'share_att_key': True,
        'conv_kernel_size': 3,
        'conv_act': 'gelu',
    },
}
"""By model_type, as in HuggingFaceEncoder."""


def write_encoder(path, model_type='bert', head='ForMaskedLM'):
    """A folder as transformers saves it, of a model with a head; and its encoder."""
    transformers = pytest.importorskip('transformers')
    from xlabml.transformer.families import FAMILIES

    path.mkdir(parents=True)
    name = FAMILIES[model_type].model.removesuffix('Model')
    if name in ('Roberta', 'XLMRoberta', 'Camembert'):
        n_vocab = _write_byte_level(path)
    else:
        n_vocab = len(write_tokenizer(path / 'tokenizer.json'))
    cls = getattr(transformers, f'{name}{head}')
    torch.manual_seed(0)
    # The table is longer than the tokenizer, as that of many models.
    made = cls(cls.config_class(**CONFIGS[model_type], vocab_size=n_vocab + 3)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    made.save_pretrained(path)
    return made.base_model


def _write_byte_level(path):
    """RoBERTa's: <s> before a text, </s> behind it."""
    tokenizers = pytest.importorskip('tokenizers')
    special = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']
    made = tokenizers.Tokenizer.from_file(str(byte_level(path / 'tokenizer.json', special)))
    made.post_processor = tokenizers.processors.RobertaProcessing(('</s>', 2), ('<s>', 0))
    made.save(str(path / 'tokenizer.json'))
    names = {'bos': '<s>', 'eos': '</s>', 'pad': '<pad>', 'unk': '<unk>', 'mask': '<mask>', 'sep': '</s>', 'cls': '<s>'}
    write_json(path / 'tokenizer_config.json', {f'{role}_token': piece for role, piece in names.items()})
    return made.get_vocab_size()
