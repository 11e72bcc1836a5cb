"""Vectors of earlier layers: those of a shallower model, trained through chunks as in one pass."""

from functools import partial

import pytest
import torch
from pair_batches import pair_batch, random_groups

from xlabml.heads import AttentionPooling, TextEncoder
from xlabml.losses import AdaptiveLayers, InfoNCE, Matryoshka
from xlabml.models import Embedder
from xlabml.transformer import Transformer

BOTH = partial(AdaptiveLayers, partial(Matryoshka, InfoNCE, (16, 8)))


def make_embedder(**options):
    torch.manual_seed(0)
    trunk = partial(Transformer, d_model=16, n_layers=3, n_heads=4, d_ff=24, causal=False)
    return Embedder(50, 16, trunk=trunk, pooling=AttentionPooling, **{'objective': BOTH, **options}).double()


def gradients(model, batch):
    model.zero_grad()
    sums = model.loss(batch)
    sums.objective.backward()
    return sums.objective, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize('n_layers', [1, 2, 3])
def test_the_vectors_of_a_layer_are_those_of_a_model_cut_there(n_layers):
    encoder = make_embedder().network
    ids = torch.randint(5, 50, (3, 6))
    of_layers = encoder(ids, layers=(1, 2))
    assert of_layers.shape == (3, 3, 16)
    encoder.trunk.keep_layers(n_layers)
    assert len(encoder.list_blocks()) == encoder.trunk.n_layers == n_layers
    torch.testing.assert_close(encoder(ids), of_layers[n_layers - 1], rtol=1e-12, atol=1e-12)


def test_chunks_and_one_pass_have_one_gradient_at_any_depth_and_width():
    groups = random_groups(6)
    model = make_embedder()
    one, wanted = gradients(model, pair_batch(groups))
    loss, found = gradients(model, pair_batch(groups, row_slots=20))
    torch.testing.assert_close(loss, one, rtol=1e-10, atol=1e-10)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert not torch.isclose(loss, gradients(make_embedder(layers=[2]), pair_batch(groups))[0])
    outputs = model.outputs(pair_batch(groups))
    torch.testing.assert_close(outputs.vectors, model.embed(pair_batch(groups)))


def test_a_plain_objective_has_no_layers():
    assert make_embedder(objective=InfoNCE).layers == ()
    assert make_embedder().layers == (1, 2)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'objective': InfoNCE, 'layers': [1]}, r'model.layers is \[1\], but model.objective needs no vectors'),
        ({'layers': [3]}, r'model.layers is \[3\]; name earlier layers of the trunk, which has 3: numbers from 1 to 2'),
        ({'layers': [1, 1]}, r'each once'),
        ({'layers': []}, r'name earlier layers'),
        ({'objective': partial(AdaptiveLayers, layer_weights=(1.0,))}, r'has 1 numbers for the earlier layers 1, 2'),
    ],
)
def test_layers_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_embedder(**options)


def test_a_model_has_no_more_layers_than_it_has():
    encoder = TextEncoder(Transformer(50, 16, d_model=16, n_layers=2, n_heads=4), AttentionPooling(16))
    with pytest.raises(ValueError, match='n_layers is 3; give 1 to 2'):
        encoder.trunk.keep_layers(3)
