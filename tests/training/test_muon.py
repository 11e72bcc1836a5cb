import functools

import jaxtyping
import pytest
import torch
from torch import nn

from xlabml.training import Muon, ScheduledRate, WarmupCosine, muon, orthogonalize, parameter_groups
from xlabml.training.optimizers import keep_own_options

SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4), (3, 8)]


def _parameters(shapes=SHAPES, seed=0):
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def _train(optimizers, parameters, n_steps=5):
    generator = torch.Generator().manual_seed(1)
    for _ in range(n_steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize('shape', [(7, 3), (3, 7), (4, 4), (2, 5, 3)])
def test_singular_values_go_through_the_polynomial_and_vectors_stay(shape):
    """By hand: U p(p(S)) V' from the decomposition."""
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / matrices.norm(dim=(-2, -1)).unsqueeze(-1)
    for _ in range(2):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalize(matrices, 2), u * s.unsqueeze(-2) @ v)


def test_polar_express_has_a_polynomial_for_each_round_and_repeats_the_last():
    """By hand, as above; five rounds end nearer to 1 than those of the quintic."""
    torch.manual_seed(0)
    matrices = torch.randn(5, 3, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / matrices.norm() / 1.02
    s = 8.156554524902461 * s - 22.48329292557795 * s**3 + 15.878769915207462 * s**5
    s = 4.042929935166739 * s - 2.808917465908714 * s**3 + 0.5000178451051316 * s**5
    torch.testing.assert_close(orthogonalize(matrices, 2, 'polar_express'), u * s @ v)
    many = torch.randn(32, 16)
    for n_steps in (5, 9):
        values = torch.linalg.svdvals(orthogonalize(many, n_steps, 'polar_express'))
        assert (values - 1).abs().max() < 0.15
    assert (torch.linalg.svdvals(orthogonalize(many)) - 1).abs().max() > 0.15


def test_five_rounds_bring_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(32, 16)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_a_gradient_of_zeros_stays_one():
    assert not orthogonalize(torch.zeros(3, 4)).any()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_tall_matrix_becomes_the_transpose_of_what_its_transpose_becomes(dtype):
    """Up to the rounding of the dtype, five rounds long."""
    torch.manual_seed(0)
    tall = torch.randn(3, 96, 32).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(orthogonalize(tall), orthogonalize(tall.mT).mT, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ('kind', 'expected'), [('amx', torch.bfloat16), ('avx512_bf16', torch.bfloat16), ('other', torch.float32)]
)
def test_auto_iterates_in_bf16_where_the_cpu_multiplies_it(kind, expected, monkeypatch):
    taken = []
    monkeypatch.setattr(muon, 'cpu_kind', lambda: kind)
    monkeypatch.setattr(muon, 'orthogonalize', lambda x, *_: taken.append(x.dtype) or x)
    parameters = _parameters([(6, 4)])
    _train([Muon(parameters)], parameters, n_steps=1)
    assert taken == [expected]


@pytest.mark.parametrize('nesterov', [True, False])
@pytest.mark.parametrize(('scale', 'theirs'), [('spectral', 'original'), ('adamw', 'match_rms_adamw')])
def test_matrices_step_as_torch_does(nesterov, scale, theirs):
    """Theirs works in bfloat16, one matrix at a time; so does ours here, in batches."""
    shared = {'momentum': 0.9, 'nesterov': nesterov, 'weight_decay': 0.3}
    ours, expected = _parameters(), _parameters()
    ours = _train([Muon(ours, matrix_lr=0.1, scale=scale, ns_dtype='bfloat16', **shared)], ours)
    expected = _train([torch.optim.Muon(expected, lr=0.1, adjust_lr_fn=theirs, **shared)], expected)
    for a, b in zip(ours, expected):
        torch.testing.assert_close(a, b, rtol=0, atol=0.02)


def test_in_float32_matrices_step_as_torch_does_but_for_its_rounding(monkeypatch):
    """With torch's own cast to bfloat16 taken away, the two agree to float32."""
    monkeypatch.setattr(torch.Tensor, 'bfloat16', torch.Tensor.clone)
    ours, expected = _parameters(), _parameters()
    ours = _train([Muon(ours, matrix_lr=0.1, ns_dtype='float32', weight_decay=0.05)], ours, n_steps=10)
    expected = _train([torch.optim.Muon(expected, lr=0.1, weight_decay=0.05)], expected, n_steps=10)
    for a, b in zip(ours, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_other_groups_step_as_adamw():
    ours, expected = _parameters([(4,), (5, 3)]), _parameters([(4,), (5, 3)])
    groups = [{'params': ours, 'name': 'others', 'weight_decay': 0.1}]
    ours = _train([Muon(groups, adamw_lr=0.1)], ours)
    theirs = torch.optim.AdamW(expected, lr=0.1, betas=(0.9, 0.98), weight_decay=0.1, fused=False, foreach=False)
    for a, b in zip(ours, _train([theirs], expected)):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_only_tables_of_embeddings_have_the_decay_of_embeddings():
    ours, expected = _parameters([(4,), (5, 3)]), _parameters([(4,), (5, 3)])
    groups = [{'params': ours, 'name': 'others', 'weight_decay': 0.0, 'is_embedding': [False, True]}]
    ours = _train([Muon(groups, adamw_lr=0.1, embedding_decay=0.2)], ours)
    groups = [{'params': expected[:1], 'weight_decay': 0.0}, {'params': expected[1:], 'weight_decay': 0.2}]
    theirs = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.98), fused=False, foreach=False)
    for a, b in zip(ours, _train([theirs], expected)):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_skipped_step_does_not_decay_embeddings():
    (table,) = _parameters([(5, 3)])
    before = table.detach().clone()
    groups = [{'params': [table], 'name': 'others', 'weight_decay': 0.0, 'is_embedding': [True]}]
    optimizer = Muon(groups, embedding_decay=0.2)
    optimizer.found_inf = torch.ones(())
    table.grad = torch.ones(5, 3)
    optimizer.step()
    torch.testing.assert_close(table.detach(), before, rtol=0, atol=0)


def test_an_option_that_an_earlier_version_did_not_save_stays_as_given():
    def make(**options):
        groups = [{'params': _parameters([(5, 3)]), 'name': 'others', 'weight_decay': 0.0, 'is_embedding': [True]}]
        return Muon(groups, **options)

    state = make(eps=1e-6).state_dict()
    for name in ('embedding_decay', 'is_embedding'):
        del state['param_groups'][0][name]
    optimizer = make(embedding_decay=0.2)
    optimizer.load_state_dict(state)
    (group,) = optimizer.param_groups
    assert (group['embedding_decay'], group['is_embedding'], group['eps']) == (0.2, [True], 1e-6)
    with pytest.raises(ValueError, match='different number of parameter groups'):
        optimizer.load_state_dict({**state, 'param_groups': []})


def test_a_stack_of_matrices_steps_as_its_matrices_do():
    """What a mixture's experts are."""
    apart = _parameters([(4, 3)] * 2)
    stack = nn.Parameter(torch.stack([parameter.detach() for parameter in apart]))
    optimizers = Muon([stack], ns_dtype='float32'), Muon(apart, ns_dtype='float32')
    for seed in range(3):
        gradients = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(seed))
        stack.grad = gradients
        for parameter, gradient in zip(apart, gradients):
            parameter.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(stack.detach(), torch.stack([parameter.detach() for parameter in apart]))


def test_split_parts_step_as_matrices_of_their_own():
    whole = nn.Parameter(torch.cat([parameter.detach() for parameter in _parameters([(4, 5), (2, 5)])]))
    apart = _parameters([(4, 5), (2, 5)])
    groups = [{'params': [whole], 'name': 'matrices', 'parts': [[4, 2]]}]
    optimizers = Muon(groups, split=True, ns_dtype='float32'), Muon(apart, ns_dtype='float32')
    whole.grad = torch.randn(6, 5)
    apart[0].grad, apart[1].grad = whole.grad[:4].clone(), whole.grad[4:].clone()
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(whole.detach(), torch.cat([parameter.detach() for parameter in apart]))


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layer, self.norm = nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 7)

    def forward(self, ids):
        return self.head(self.norm(self.layer(self.embedding(ids)))).logsumexp(-1).mean()


def test_only_matrices_of_layers_are_made_orthogonal():
    net = _Net()
    optimizer = Muon(parameter_groups(net))
    net(torch.arange(7)).backward()
    optimizer.step()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    kinds = {names[id(parameter)]: set(state) for parameter, state in optimizer.state.items()}
    assert kinds.pop('layer.weight') == {'momentum_buffer'}
    assert set(kinds) == {
        'embedding.weight',
        'layer.bias',
        'norm.weight',
        'norm.bias',
        'head.weight',
        'head.bias',
    }
    assert all(kind == {'step', 'exp_avg', 'exp_avg_sq'} for kind in kinds.values())


def _steps(net, optimizer, rate, n_steps):
    for i in range(n_steps):
        optimizer.zero_grad()
        net(torch.tensor([i % 7, 3])).backward()
        optimizer.step()
        rate.step()


def test_a_run_goes_on_from_a_saved_state_bit_for_bit(tmp_path):
    make = functools.partial(Muon, adamw_lr=0.05, matrix_lr=0.1)

    def start(net):
        optimizer = make(parameter_groups(net))
        keep_own_options(optimizer)
        return optimizer, ScheduledRate(optimizer, WarmupCosine(9, warmup_steps=2))

    unbroken = _Net()
    _steps(unbroken, *start(unbroken), 6)
    net = _Net()
    optimizer, rate = start(net)
    _steps(net, optimizer, rate, 3)
    content = {'net': net.state_dict(), 'optimizer': optimizer.state_dict(), 'rate': rate.state_dict()}
    torch.save(content, tmp_path / 'saved')
    content = torch.load(tmp_path / 'saved', weights_only=True)
    net = _Net()
    net.load_state_dict(content['net'])
    optimizer, rate = start(net)
    optimizer.load_state_dict(content['optimizer'])
    rate.load_state_dict(content['rate'])
    for i in range(3, 6):
        optimizer.zero_grad()
        net(torch.tensor([i % 7, 3])).backward()
        optimizer.step()
        rate.step()
    for a, b in zip(net.parameters(), unbroken.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_each_kind_has_its_own_rate_and_the_schedule_moves_both():
    optimizer = Muon(parameter_groups(_Net()), adamw_lr=0.01, matrix_lr=0.2)
    rate = ScheduledRate(optimizer, WarmupCosine(100, warmup_steps=1))
    rates = {group['name']: group['lr'] for group in optimizer.param_groups}
    assert rates == {'matrices': 0.1, 'heads': 0.005, 'others': 0.005}
    optimizer.step()
    rate.step()
    assert {group['name']: group['lr'] for group in optimizer.param_groups}['matrices'] == 0.2


def test_a_parameter_without_a_gradient_stays():
    parameters = _parameters([(3, 3), (3, 3)])
    parameters[1].grad = torch.ones(3, 3)
    before = parameters[0].detach().clone()
    Muon(parameters).step()
    torch.testing.assert_close(parameters[0].detach(), before, rtol=0, atol=0)
    assert not torch.equal(parameters[1].detach(), before)


def test_a_closure_is_called_and_its_loss_returned():
    (parameter,) = _parameters([(3, 3)])

    def closure():
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert Muon([parameter]).step(closure).item() > 0


def test_a_vector_among_matrices_is_refused():
    with pytest.raises(ValueError, match=r'of shape \(4,\)'):
        Muon(_parameters([(4,)]))


@pytest.mark.parametrize(
    'arguments',
    [
        {'adamw_lr': -1.0},
        {'matrix_lr': -1.0},
        {'momentum': 1.0},
        {'betas': (0.9, 1.0)},
        {'weight_decay': -0.1},
        {'embedding_decay': -0.1},
        {'ns_steps': 0},
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f'^{name}'):
        Muon(_parameters([(3, 3)]), **arguments)


@pytest.mark.parametrize('arguments', [{'scale': 'none'}, {'ns_dtype': 'float16'}])
def test_choices_are_refused_by_name(arguments):
    (name,) = arguments
    # Under pytest the annotation itself refuses it first.
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=name):
        Muon(_parameters([(3, 3)]), **arguments)
