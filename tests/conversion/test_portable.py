"""conf/portable.yaml is the architecture of Qwen3, which transformers has: both compute the same logits."""

from pathlib import Path

import pytest
import torch
import yaml

from xlabml import transformer
from xlabml.heads import LanguageModel

CONF = Path(__file__).parents[2] / 'conf' / 'portable.yaml'
SIZES = {'d_model': 32, 'n_layers': 2, 'n_heads': 4}


def make_model():
    settings = yaml.safe_load(CONF.read_text('utf-8'))['model']
    arguments = settings['trunk']
    arguments['activation'] = getattr(transformer, arguments['activation'])
    torch.manual_seed(0)
    model = LanguageModel(transformer.Transformer(50, 16, **SIZES, **arguments), settings['tied']).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def theirs(model):
    """Its weights by their names."""
    own = model.state_dict()
    d_head = SIZES['d_model'] // SIZES['n_heads']
    # They rotate the first half of a head's channels with the second, we neighbouring channels.
    order = torch.cat([torch.arange(0, d_head, 2), torch.arange(1, d_head, 2)])
    found = {
        'model.embed_tokens.weight': own['trunk.embedding.weight'] * model.trunk.scale,
        'model.norm.weight': own['trunk.norm.weight'],
        'lm_head.weight': own['head_weight'],
    }
    for i in range(SIZES['n_layers']):
        ours, layer = f'trunk.blocks.{i}', f'model.layers.{i}'
        q, k, v = own[f'{ours}.attention.projection.weight'].chunk(3)
        gate, up = own[f'{ours}.feed_forward.input.weight'].chunk(2)
        turned = [x.unflatten(0, (-1, d_head))[:, order].flatten(0, 1) for x in (q, k)]
        found |= {f'{layer}.self_attn.{name}_proj.weight': x for name, x in zip('qkv', (*turned, v))}
        found |= {
            f'{layer}.self_attn.o_proj.weight': own[f'{ours}.attention.output.weight'],
            f'{layer}.self_attn.q_norm.weight': torch.ones(d_head),
            f'{layer}.self_attn.k_norm.weight': torch.ones(d_head),
            f'{layer}.mlp.gate_proj.weight': gate,
            f'{layer}.mlp.up_proj.weight': up,
            f'{layer}.mlp.down_proj.weight': own[f'{ours}.feed_forward.output.weight'],
            f'{layer}.input_layernorm.weight': own[f'{ours}.attention_norm.weight'],
            f'{layer}.post_attention_layernorm.weight': own[f'{ours}.feed_forward_norm.weight'],
        }
    return found


def test_the_library_computes_the_same_logits():
    library = pytest.importorskip('transformers')
    model = make_model()
    config = library.Qwen3Config(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
        intermediate_size=model.trunk.blocks[0].feed_forward.output.in_features, tie_word_embeddings=False,
        rms_norm_eps=1e-5, rope_theta=10_000.0, max_position_embeddings=16,
    )  # fmt: skip
    other = library.Qwen3ForCausalLM(config).eval()
    other.load_state_dict(theirs(model), strict=True)
    ids = torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(other(ids).logits, model(ids), rtol=1e-4, atol=1e-4)
