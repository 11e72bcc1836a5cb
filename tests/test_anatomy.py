"""What modules say of their weights is what grouping, counting and plotting are told."""

import pytest
import torch
from torch import nn

from xlabml.anatomy import EMBEDDING, HEAD, AttentionPairs, Matrix, Part, find_attention, find_matrices
from xlabml.heads import LanguageModel
from xlabml.training import parameter_groups
from xlabml.transformer import GeGLU, Learned, ReLU2, Transformer
from xlabml.transformer.attention import Pass


def make_model(tied, **options):
    trunk = Transformer(50, 32, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24, bias=True, **options)
    return LanguageModel(trunk, tied=tied, head_bias=True)


@pytest.mark.parametrize('tied', [True, False])
def test_every_matrix_of_a_language_model_is_described(tied):
    found = find_matrices(make_model(tied, activation=GeGLU, positions=Learned, window=[3, None]))
    assert found.pop('trunk.embedding.weight').roles == ({'embedding', 'head'} if tied else {'embedding'})
    assert found.pop('head_weight', HEAD) == HEAD
    assert found.pop('trunk.positions.embedding.weight') == EMBEDDING
    expected = {
        'attention.projection.weight': Matrix(parts=(Part('query', 16), Part('key', 8), Part('value', 8))),
        'attention.output.weight': Matrix(parts=(Part('attention_output', 16),), is_residual=True),
        'feed_forward.input.weight': Matrix(parts=(Part('gate', 24), Part('up', 24))),
        'feed_forward.output.weight': Matrix(parts=(Part('feed_forward_output', 16),), is_residual=True),
    }
    assert found == {f'trunk.blocks.{i}.{name}': matrix for i in range(2) for name, matrix in expected.items()}


def test_parts_fill_their_weights_and_the_first_half_of_a_gated_net_is_the_gate():
    model = make_model(True, activation=GeGLU)
    parameters = dict(model.named_parameters())
    for name, matrix in find_matrices(model).items():
        if matrix.parts:
            assert sum(part.rows for part in matrix.parts) == parameters[name].size(0)
    net = model.trunk.blocks[0].feed_forward
    rows = dict(find_matrices(net)['input.weight'].parts)
    x = torch.randn(1, 3, 16)
    gate, up = net.input(x).split([rows['gate'], rows['up']], dim=-1)
    torch.testing.assert_close(net(x), net.output(nn.functional.gelu(gate) * up))
    plain = make_model(True, activation=ReLU2).trunk.blocks[0].feed_forward
    assert find_matrices(plain)['input.weight'].parts == (Part('feed_forward_input', 24),)


def test_the_parts_of_a_projection_are_what_attention_computes_with():
    attention = Transformer(50, 32, d_model=16, n_layers=1, n_heads=4, n_kv_heads=2, qk_norm=False).blocks[0].attention
    rows = find_matrices(attention)['projection.weight'].parts
    weights = dict(zip((part.name for part in rows), attention.projection.weight.split([part.rows for part in rows])))
    seen = []

    class Seen(Pass):
        def attend(self, q, k, v):
            seen[:] = q, k, v
            return q

    hidden = torch.randn(1, 5, 16)
    attention(hidden, None, Seen())
    for name, got in zip(('query', 'key', 'value'), seen):
        torch.testing.assert_close(got.flatten(2), hidden @ weights[name].mT)


def test_modules_that_say_nothing_are_described_by_their_kind_and_name():
    module = nn.ModuleDict({'table': nn.Embedding(5, 3), 'layer': nn.Linear(3, 3), 'head': nn.Linear(3, 5)})
    assert find_matrices(module) == {'table.weight': EMBEDDING, 'layer.weight': Matrix(), 'head.weight': HEAD}
    assert find_matrices(nn.ModuleDict({'heads_table': nn.Embedding(5, 3)})) == {'heads_table.weight': EMBEDDING}
    module['head'].weight = module['table'].weight
    assert find_matrices(module) == {'table.weight': EMBEDDING, 'layer.weight': Matrix()}
    assert [group['name'] for group in parameter_groups(module)] == ['matrices', 'others']


def test_what_was_replaced_is_no_longer_what_its_owner_says():
    model = make_model(True)
    model.trunk.blocks[0].attention.projection = nn.Sequential(nn.Linear(16, 32))
    found = find_matrices(model)
    assert found['trunk.blocks.0.attention.projection.0.weight'] == Matrix()
    assert len(found['trunk.blocks.1.attention.projection.weight'].parts) == 3


def test_attention_says_which_pairs_it_computes():
    model = make_model(True, window=[3, None], causal=False)
    assert find_attention(model) == [AttentionPairs(False, 3, 16), AttentionPairs(False, None, 16)]
    assert find_attention(nn.Linear(3, 3)) == []
