"""Initializers: what the weights look like at the start."""

import functools
import math

import pytest
import torch
from torch import nn

from xlabml.heads import LanguageModel
from xlabml.transformer import Copying, Normal, Transformer, Xavier


def make_trunk(init, **options):
    torch.manual_seed(0)
    return Transformer(
        2_000, 32, d_model=128, n_heads=4, n_layers=3, bias=True, norm=nn.LayerNorm, init=init, **options
    )


def test_normal():
    trunk = make_trunk(Normal)
    block = trunk.blocks[1]
    scale = 1 / math.sqrt(2 * 3)
    for weight, std in [
        (trunk.embedding.weight, 0.05),
        (block.attention.projection.weight, 1 / math.sqrt(128)),
        (block.attention.output.weight, scale / math.sqrt(128)),
        (block.feed_forward.input.weight, 1 / math.sqrt(128)),
        (block.feed_forward.output.weight, scale / math.sqrt(512)),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert not any(p.any() for name, p in trunk.blocks.named_parameters() if name.endswith('bias'))
    plain = make_trunk(functools.partial(Normal, std=0.05, scale_residual=False, embedding_std=0.1)).blocks[0]
    assert plain.attention.output.weight.std().item() == pytest.approx(0.05, rel=0.03)


def test_xavier():
    trunk = make_trunk(functools.partial(Xavier, gain=2.0))
    weight = trunk.blocks[0].attention.projection.weight  # one matrix for queries, keys and values
    bound = 2 * math.sqrt(6 / (128 + 384))
    assert weight.abs().max() <= bound
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize('n_kv_heads', [None, 2])
def test_attention_begins_by_copying(n_kv_heads):
    """The output of a head that attends to one token is a part of that token's vector; of all heads, all of it."""
    trunk = make_trunk(functools.partial(Copying, gain=2.0), n_kv_heads=n_kv_heads)
    attention = trunk.blocks[1].attention
    n_values = attention.n_kv_heads * 32
    values = attention.projection.weight[-n_values:]
    torch.testing.assert_close(values @ values.mT, torch.eye(n_values), atol=1e-5, rtol=0)
    hidden = torch.randn(5, 128)
    repeats = 4 // attention.n_kv_heads
    mixed = (hidden @ values.mT).unflatten(1, (-1, 32)).repeat_interleave(repeats, dim=1)
    copied = attention.output(mixed.flatten(1))
    torch.testing.assert_close(copied, 2.0 * repeats * hidden @ values.mT @ values, atol=1e-4, rtol=0)
    if n_kv_heads is None:
        torch.testing.assert_close(copied, 2.0 * hidden, atol=1e-4, rtol=0)
    of_others = trunk.blocks[1].feed_forward.output.weight
    assert of_others.std().item() == pytest.approx(1 / math.sqrt(2 * 3 * 512), rel=0.03)
    assert not any(p.any() for name, p in trunk.blocks.named_parameters() if name.endswith('bias'))


@pytest.mark.parametrize('init', [Normal, Xavier, Copying])
def test_embedding_and_head_can_stay_as_torch_makes_them(init):
    model = LanguageModel(make_trunk(functools.partial(init, embedding_std=None)), tied=False, head_bias=True)
    assert model.trunk.embedding.weight.std().item() == pytest.approx(1, rel=0.03)
    for part in (model.head_weight, model.head_bias):
        assert part.abs().max().item() == pytest.approx(1 / math.sqrt(128), rel=0.01)
    model = LanguageModel(make_trunk(init), tied=False, head_bias=True)
    assert model.head_weight.std().item() == pytest.approx(0.05, rel=0.03)
    assert not model.head_bias.any()


@pytest.mark.parametrize(('init', 'message'), [
    (functools.partial(Normal, std=-1.0), 'std is -1.0'),
    (functools.partial(Normal, embedding_std=-1.0), 'embedding_std is -1.0'),
    (functools.partial(Xavier, gain=0.0), 'gain is 0.0'),
    (functools.partial(Copying, gain=0.0), 'gain is 0.0'),
])  # fmt: skip
def test_refusals(init, message):
    with pytest.raises(ValueError, match=message):
        make_trunk(init)
