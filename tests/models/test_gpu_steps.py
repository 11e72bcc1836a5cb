"""A training step of each task on a GPU equals that on the CPU; on a CPU it is the test itself that is tried."""

import copy
import functools

import pytest
import torch
from pair_batches import pair_batch, random_groups
from token_batches import token_batch
from torch import nn
from torch.utils._pytree import tree_map_only

from xlabml.batches import IGNORED, ClassTargets, Layout, MaskedTargets
from xlabml.heads import AttentionPooling
from xlabml.losses import caching
from xlabml.models import Classifier, Embedder, JointModel, MaskedLanguageModel, StaticEmbedder, XLabModel
from xlabml.training import AdamW, parameter_groups
from xlabml.transformer import Transformer

N_VOCAB = 50


def trunk(causal):
    return functools.partial(Transformer, d_model=16, n_layers=2, n_heads=4, d_ff=24, causal=causal)


def rows(first_target, kind=None):
    """Rows of 16, without targets before a place: what is read alone, as values of metadata are."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, N_VOCAB, (3, 17), generator=draw)
    targets = ids[:, 1:].clone()
    targets[:, :first_target] = IGNORED
    batch = token_batch(ids[:, :-1], targets, n_counted=(targets != IGNORED).sum().item())
    return batch if kind is None else batch._replace(targets=kind(*batch.targets))


def classes(labels):
    labels = torch.tensor(labels)
    batch = pair_batch(random_groups(len(labels), n_texts=1), row_slots=24)
    return batch._replace(targets=ClassTargets(labels, torch.ones(len(labels))))


def classifier(**options):
    return Classifier(N_VOCAB, 16, **{'trunk': trunk(False), 'pooling': AttentionPooling, **options})


TASKS = {
    'language model': lambda: (XLabModel(N_VOCAB, 16, trunk=trunk(True)), rows(0)),
    'conditioned language model': lambda: (XLabModel(N_VOCAB, 16, trunk=trunk(True)), rows(5)),
    'masked language model': lambda: (MaskedLanguageModel(N_VOCAB, 16, trunk=trunk(False)), rows(9, MaskedTargets)),
    'embedder': lambda: (
        Embedder(N_VOCAB, 16, trunk=trunk(False), pooling=AttentionPooling),
        pair_batch(random_groups(6), row_slots=32),
    ),
    'static embedder': lambda: (StaticEmbedder(N_VOCAB, 16, d_vector=12), pair_batch(random_groups(6))),
    'joint model': lambda: (JointModel(N_VOCAB, 16, trunk=trunk(True)), pair_batch(random_groups(6))),
    'classifier': lambda: (classifier(classes=['a', 'b', 'c']), classes([0, 1, 2, 1])),
    'ordinal classifier': lambda: (classifier(classes=['a', 'b', 'c'], task='ordinal'), classes([0, 1, 2, 1])),
    'regression': lambda: (classifier(task='regression'), classes([[0.5], [-1.0], [2.0], [0.0]])),
}


def step(task, batch, device):
    """The loss, the gradients and the weights after a step on a device."""
    task = copy.deepcopy(task).to(device).train()
    moved = tree_map_only(torch.Tensor, lambda part: part.to(device), batch)
    optimizer = AdamW(parameter_groups(task), lr=0.01, weight_decay=0.0)
    sums = task.loss(moved)
    (sums.objective / moved.n_counted).backward()
    optimizer.step()
    parameters = dict(task.named_parameters())
    grads = {name: part.grad.cpu() for name, part in parameters.items() if part.grad is not None}
    return sums.objective.detach().cpu(), grads, {name: part.detach().cpu() for name, part in parameters.items()}


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('name', TASKS)
def test_a_step_on_a_gpu_is_that_on_the_cpu_where_algorithms_have_to_be_deterministic(name, device, monkeypatch):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.manual_seed(0)
    task, batch = TASKS[name]()
    for part in task.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # devices draw other masks
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)  # nothing is 0 that would hide a fault
    loss, grads, weights = step(task, batch, 'cpu')
    monkeypatch.setattr(torch.utils.deterministic, 'fill_uninitialized_memory', False)
    torch.use_deterministic_algorithms(True)
    try:
        found = step(task, batch, device)
    finally:
        torch.use_deterministic_algorithms(False)
    assert any(grad.any() for grad in grads.values())
    torch.testing.assert_close(found[0], loss, rtol=1e-4, atol=1e-5)
    assert found[1].keys() == grads.keys()
    for part, grad in grads.items():
        torch.testing.assert_close(
            found[1][part], grad, rtol=1e-3, atol=1e-5, msg=lambda said, part=part: f'{part}: {said}'
        )
    # Where a gradient is about 0 its sign decides a whole step of Adam.
    for part, weight in weights.items():
        clear = grads[part].abs() > 1e-4 if part in grads else torch.ones_like(weight, dtype=torch.bool)
        torch.testing.assert_close(found[2][part][clear], weight[clear], rtol=1e-4, atol=1e-5)


def dropping(name):
    """A task with dropout, and a batch of several rows, which are chunks."""
    torch.manual_seed(0)
    trunk = functools.partial(Transformer, d_model=16, n_layers=2, n_heads=4, d_ff=24, causal=False, dropout=0.3)
    if name == 'classifier':
        return classifier(trunk=trunk, classes=['a', 'b', 'c']), classes([0, 1, 2, 1, 0, 2])
    if name == 'embedder':
        return Embedder(N_VOCAB, 16, trunk=trunk, pooling=AttentionPooling), pair_batch(random_groups(6), row_slots=20)
    model = JointModel(N_VOCAB, 16, trunk=functools.partial(trunk, causal=True))
    if name == 'joint model, groups':
        return model, pair_batch(random_groups(6), row_slots=20)
    batch = rows(0)
    starts = torch.arange(0, batch.ids.numel() + 1, 16, dtype=torch.int32)
    return model, batch._replace(layout=Layout(starts, 16, torch.ones(3, dtype=torch.bool)))


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('name', ['classifier', 'embedder', 'joint model, groups', 'joint model, tokens'])
def test_chunks_computed_anew_have_the_dropout_of_their_device(name, device, monkeypatch):
    """torch restores the random numbers of the devices that the arguments of a function are on, and of no others."""
    task, batch = dropping(name)
    assert len(batch.ids) > 1
    on = []
    checkpoint = caching.checkpoint

    def watch(function, *arguments, **options):
        on.append({part.device for part in arguments if isinstance(part, torch.Tensor)})
        return checkpoint(function, *arguments, **options)

    def keep(function, *arguments, **options):
        return function(*arguments)

    found = []
    for call in (watch, keep):
        monkeypatch.setattr(caching, 'checkpoint', call)
        torch.manual_seed(1)
        found.append(step(task, batch, device)[1])
    assert len(on) == len(batch.ids)
    assert all({one.type for one in devices} == {device} for devices in on)
    for part, grad in found[1].items():
        torch.testing.assert_close(found[0][part], grad, rtol=1e-3, atol=1e-5)
