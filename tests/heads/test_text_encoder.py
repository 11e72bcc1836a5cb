"""Texts -> vectors: no text depends on its neighbours; built from settings, saved, loaded, begun from other tasks."""

import functools

import pytest
import torch
from torch import nn
from trunks import make_ids, make_layout, make_trunk

from xlabml import settings
from xlabml.checkpoints import Contents, Part
from xlabml.errors import CheckpointError
from xlabml.heads import Dense, LanguageModel, LastPooling, MeanPooling, TextEncoder
from xlabml.heads.loading import describe_head, initialize, load_network

LENGTHS = [3, 9, 1, 5, 6]
SMALL = {
    'n_vocab': 50,
    'max_len': 32,
    'trunk': {
        'class_path': 'xlabml.transformer.Transformer',
        'init_args': {'d_model': 16, 'n_layers': 1, 'n_heads': 2, 'causal': False},
    },
    'pooling': {'class_path': 'xlabml.heads.AttentionPooling', 'init_args': {'n_heads': 2}},
    'dense': [{'class_path': 'xlabml.heads.Dense', 'init_args': {'d_out': 8}}],
    'prompts': {'query': 'query: '},
}


def make_encoder(causal=False, pooling=MeanPooling, **options):
    trunk = make_trunk(causal=causal)
    return TextEncoder(trunk, pooling(trunk.d_model), **options).eval()


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('pooling', [MeanPooling, LastPooling])
def test_a_vector_does_not_depend_on_the_neighbours(causal, pooling):
    encoder = make_encoder(causal, pooling)
    ids = make_ids(24)
    found = encoder(ids, make_layout(LENGTHS))
    alone = torch.cat([encoder(part) for part in ids.split(LENGTHS, dim=1)])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)
    padded = encoder(ids, make_layout([3, 9, 1, 5, 6], [True, True, True, True, False]))
    torch.testing.assert_close(padded[:4], alone[:4], rtol=0, atol=1e-6)
    assert (padded[4] == 0).all()


def test_rows_without_a_layout_are_one_text_each():
    encoder = make_encoder()
    ids = make_ids(6, batch=3)
    torch.testing.assert_close(encoder(ids), encoder(ids.view(1, 18), make_layout([6, 6, 6])))


def test_an_encoder_reads_both_ways():
    ids = make_ids(6)
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % 50
    for causal in (False, True):
        hidden = make_trunk(causal=causal)
        assert torch.equal(hidden(ids)[:, 0], hidden(changed)[:, 0]) == causal


def test_vectors_have_length_one_after_all_layers():
    torch.manual_seed(0)
    dense = [Dense(16, 12), Dense(12, 4, bias=False, activation=nn.Identity)]
    plain = make_encoder(dense=dense, normalize=False)
    ids = make_ids(24)
    layout = make_layout(LENGTHS)
    vectors = plain(ids, layout)
    pooled = plain.pooling(plain.trunk(ids, layout), layout)
    torch.testing.assert_close(vectors, torch.tanh(dense[0].linear(pooled)) @ dense[1].linear.weight.T)
    normal = make_encoder(dense=dense)(ids, layout)
    torch.testing.assert_close(normal, vectors / vectors.norm(dim=1, keepdim=True))
    assert plain.d_vector == vectors.size(1) == 4
    with pytest.raises(ValueError, match=r'dense\.d_out is 0'):
        Dense(4, 0)


def test_prompts_are_pooled_unless_they_are_not_to_be():
    ids = make_ids(10)
    layout = make_layout([6, 4])
    n_prompt = torch.tensor([2, 0])
    within = make_encoder(normalize=False)
    without = make_encoder(normalize=False, include_prompt=False)
    assert torch.equal(within(ids, layout, n_prompt), within(ids, layout))
    torch.testing.assert_close(without(ids, layout, n_prompt)[0], within.trunk(ids, layout)[0, 2:6].mean(0))
    torch.testing.assert_close(without(ids, layout), within(ids, layout))


def test_half_precision_makes_float32_vectors_of_length_one():
    encoder = make_encoder(dense=[Dense(16, 8)])
    ids = make_ids(24)
    exact = encoder(ids, make_layout(LENGTHS))
    with torch.autocast('cpu', torch.bfloat16):
        mixed = encoder(ids, make_layout(LENGTHS))
    half = encoder.bfloat16()(ids, make_layout(LENGTHS))
    for found in (mixed, half):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(found, exact, rtol=0, atol=0.1)


def save(network, part):
    weights = {f'network.{name}': tensor for name, tensor in network.state_dict().items()}
    return Contents.of({'state_dict': weights})._replace(network=part)


def test_what_settings_build_comes_back_from_its_checkpoint():
    torch.manual_seed(0)
    encoder = TextEncoder.build(**settings.build_arguments(TextEncoder.build, SMALL)).eval()
    part = describe_head(TextEncoder, {**SMALL, 'temperature': 0.05})
    assert part == ('xlabml.heads.TextEncoder', SMALL)
    loaded = load_network(save(encoder, part), 'x.ckpt', TextEncoder)
    ids = make_ids(24)
    assert torch.equal(loaded(ids, make_layout(LENGTHS)), encoder(ids, make_layout(LENGTHS)))
    assert (loaded.prompts, loaded.d_vector, loaded.max_len) == ({'query': 'query: '}, 8, 32)
    with pytest.raises(CheckpointError, match=r'x\.ckpt holds a xlabml\.heads\.TextEncoder, not a LanguageModel'):
        load_network(save(encoder, part), 'x.ckpt', LanguageModel)


@pytest.mark.parametrize('same', [True, False], ids=['its tokenizer', 'another tokenizer'])
def test_it_begins_with_the_trunk_of_a_language_model(same):
    torch.manual_seed(0)
    make = functools.partial(make_trunk, causal=False)
    saved = save(LanguageModel(make(seed=1), head_bias=True), Part('xlabml.heads.LanguageModel', {}))
    encoder = TextEncoder(make(seed=2), MeanPooling(16), [Dense(16, 8)])
    begun = initialize(encoder, saved, 'x.ckpt', same)
    assert ('trunk.embedding.weight' in begun.loaded) == same
    assert {name for name in begun.new if name.startswith('dense')} == {'dense.0.linear.weight', 'dense.0.linear.bias'}
    assert 'network.head_bias' in begun.unused
    assert torch.equal(encoder.trunk.blocks[0].feed_forward.input.weight, saved.weights[
        'network.trunk.blocks.0.feed_forward.input.weight'
    ])  # fmt: skip


def test_a_tiny_encoder_learns_to_pair_texts():
    torch.manual_seed(0)
    encoder = make_encoder().train()
    ids = make_ids(48, batch=1)
    layout = make_layout([6] * 8)
    optimizer = torch.optim.AdamW(encoder.parameters(), 0.01)
    for _ in range(60):
        a, b = encoder(ids, layout).view(4, 2, -1).unbind(1)
        loss = nn.functional.cross_entropy(a @ b.T / 0.05, torch.arange(4))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05
