import pytest
import torch
from torch import nn

from xlabml.anatomy import Matrix, Part
from xlabml.training import AdamW, parameter_groups
from xlabml.training.optimizers import keep_own_options


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.layer = nn.Linear(4, 4)
        self.matrices = {'layer.weight': Matrix(parts=(Part('a', 1), Part('b', 3)))}
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_only_matrices_decay():
    module = _Tied()
    matrices, others = parameter_groups(module)
    assert [id(p) for p in matrices['params']] == [id(module.layer.weight)]
    assert matrices['parts'] == [[1, 3]]
    assert others['weight_decay'] == 0.0
    expected = {id(module.embedding.weight), id(module.norm.weight), id(module.norm.bias), id(module.layer.bias)}
    assert {id(p) for p in others['params']} == expected
    tables = [p for p, is_embedding in zip(others['params'], others['is_embedding']) if is_embedding]
    assert [id(p) for p in tables] == [id(module.embedding.weight)]


def test_a_head_of_its_own_is_a_group_that_decays():
    module = nn.Module()
    module.layers, module.head_weight, module.head_bias = (
        nn.Linear(3, 3),
        nn.Parameter(torch.ones(5, 3)),
        nn.Parameter(torch.ones(5)),
    )
    matrices, heads, others = parameter_groups(module)
    assert (matrices['name'], heads['name'], others['name']) == ('matrices', 'heads', 'others')
    assert heads['params'] == [module.head_weight]
    assert 'weight_decay' not in heads
    assert len(others['params']) == 2


def test_steps_as_the_definition_does():
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(3, 3))
    theirs = nn.Parameter(ours.detach().clone())
    a = AdamW([ours], lr=0.1, weight_decay=0.2)
    b = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.98), weight_decay=0.2, fused=False, foreach=False)
    for _ in range(5):
        gradient = torch.randn(3, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_a_restored_state_leaves_the_options_alone():
    module = nn.Linear(2, 2)
    old = AdamW(parameter_groups(module), lr=0.5, weight_decay=0.3)
    module(torch.ones(1, 2)).sum().backward()
    old.step()
    new = AdamW(parameter_groups(module), lr=0.1, betas=(0.8, 0.9), weight_decay=0.0)
    keep_own_options(new)
    new.load_state_dict(old.state_dict())
    assert [group['lr'] for group in new.param_groups] == [0.1, 0.1]
    assert new.param_groups[0]['betas'] == (0.8, 0.9)
    assert [group['weight_decay'] for group in new.param_groups] == [0.0, 0.0]
    moment = new.state[module.weight]['exp_avg']
    torch.testing.assert_close(moment, old.state[module.weight]['exp_avg'])


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('exp_avg', 'x', 'exp_avg of parameter 0 .* is no tensor of floats'),
        ('exp_avg_sq', {}, 'exp_avg_sq of parameter 0 .* is no tensor of floats'),
        ('exp_avg', torch.ones(4, 4, dtype=torch.long), 'is no tensor of floats'),
        ('step', 'x', 'step of parameter 0 .* is not a number'),
        ('step', [1], 'step of parameter 0 .* is not a number'),
    ],
)
def test_a_damaged_state_is_refused_as_it_is_loaded(name, value, message):
    optimizer = AdamW(parameter_groups(nn.Linear(4, 4)))
    optimizer.param_groups[0]['params'][0].grad = torch.ones(4, 4)
    optimizer.step()
    keep_own_options(optimizer)
    saved = optimizer.state_dict()
    number = saved['param_groups'][0]['params'][0]
    saved['state'][number] = {**saved['state'][number], name: value}
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
