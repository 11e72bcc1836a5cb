"""The vocabulary head: logits, sums of the loss, nats per target; tied or not, capped or not."""

import functools

import pytest
import torch
from torch import nn
from trunks import N_VOCAB, make_ids, make_layout, make_trunk

from xlabml.batches import IGNORED
from xlabml.heads import LanguageModel, language_model
from xlabml.losses import CrossEntropy, LossSums
from xlabml.transformer import Transformer


def make_targets(n, batch=1):
    targets = make_ids(n, seed=5, batch=batch)
    targets[:, ::3] = IGNORED
    return targets


def test_logits_are_hidden_states_times_the_head():
    model, ids = LanguageModel(make_trunk(), head_bias=True), make_ids(6)
    nn.init.normal_(model.head_bias)
    expected = model.trunk(ids) @ model.trunk.embedding.weight.T + model.head_bias
    torch.testing.assert_close(model(ids), expected)
    capped = LanguageModel(model.trunk, logit_cap=3.0)
    torch.testing.assert_close(capped(ids), 3 * torch.tanh((expected - model.head_bias) / 3))


@pytest.mark.parametrize('tied', [True, False])
def test_the_state_dict_holds_each_matrix_once(tied):
    model = LanguageModel(make_trunk(), tied=tied)
    n_tables = sum(part.shape == (N_VOCAB, 16) for part in model.state_dict().values())
    assert n_tables == sum(part.shape == (N_VOCAB, 16) for part in model.parameters()) == (1 if tied else 2)
    loss = model(make_ids(6), targets=make_targets(6)).objective
    table, head = model.trunk.embedding.weight, model.head_weight
    grads = torch.autograd.grad(loss, [table] if head is None else [table, head])
    assert grads[-1].abs().amax(-1).min() > 0  # the head learns of every token, read or not


@pytest.mark.parametrize(
    'options', [{}, {'logit_cap': 2.0, 'head_bias': True}, {'tied': False, 'head_bias': True}], ids=str
)
@pytest.mark.parametrize('layout', [None, make_layout([5, 7])], ids=['rows', 'packed'])
def test_sums_and_nats_are_those_of_the_logits(options, layout):
    model, ids, targets = LanguageModel(make_trunk(), **options), make_ids(6, batch=2), make_targets(6, batch=2)
    logits = model(ids, layout)
    nats = nn.functional.cross_entropy(logits.mT, targets, ignore_index=IGNORED, reduction='none')
    sums = model(ids, layout, targets=targets)
    assert isinstance(sums, LossSums)
    torch.testing.assert_close(model.nats(ids, targets, layout), nats)
    torch.testing.assert_close(sums.objective, nats.sum())
    torch.testing.assert_close(sums.nats, nats.sum().detach())
    assert sums.correct == ((logits.argmax(-1) == targets) & (targets != IGNORED)).sum()
    assert sums.count == (targets != IGNORED).sum()
    same, each = model(ids, layout, targets=targets, each=True)
    assert all(torch.equal(one, other) for one, other in zip(same, sums))
    assert torch.equal(each, model.nats(ids, targets, layout))


@pytest.mark.parametrize('n_targets', [0, 1, 5])
def test_few_targets_give_the_same_sums_and_gradients_as_all_positions(n_targets):
    model = language_model(
        50, 16, functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2), head_bias=True
    ).double()
    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    targets = torch.full_like(ids, IGNORED)
    targets.view(-1)[torch.arange(n_targets) * 4] = 7
    found = []
    for sparse in (False, True):
        model.zero_grad()
        sums, nats = model(ids, targets=targets, each=True, sparse=sparse)
        sums.objective.backward()
        found.append((*sums, nats, *(parameter.grad for parameter in model.parameters())))
        assert torch.equal(model(ids, targets=targets, each='only', sparse=sparse), nats)
    for all_positions, few in zip(*found, strict=True):
        torch.testing.assert_close(few, all_positions)


def test_the_loss_is_a_part():
    model = LanguageModel(make_trunk(), loss=CrossEntropy(label_smoothing=0.5))
    sums = model(make_ids(6), targets=make_targets(6))
    assert (sums.objective - sums.nats).abs() > 0.1


def test_ends_are_the_logits_of_each_last_token():
    model, ids = LanguageModel(make_trunk()), make_ids(6, batch=2)
    torch.testing.assert_close(model(ids, ends=True), model(ids)[:, -1:])
    layout = make_layout([5, 6, 1])
    flat = model(ids, layout).flatten(0, 1)
    torch.testing.assert_close(model(ids, layout, ends=True), flat[[4, 10, 11], None])
    cache = model.new_cache(3, 8)
    torch.testing.assert_close(model(ids.view(1, 12), layout, cache, ends=True), flat[[4, 10, 11], None])
    assert model(make_ids(1, batch=3), cache=cache, ends=True).shape == (3, 1, N_VOCAB)


def test_logits_are_float32_under_autocast():
    model = LanguageModel(make_trunk())
    with torch.autocast('cpu', torch.bfloat16):
        assert model(make_ids(3)).dtype == torch.float32


def test_the_builder_passes_everything_on():
    torch.manual_seed(0)
    trunk = functools.partial(Transformer, d_model=16, n_heads=2, n_layers=1)
    loss = functools.partial(CrossEntropy, label_smoothing=0.1)
    model = language_model(20, 8, trunk, tied=False, head_bias=True, logit_cap=4.0, loss=loss)
    assert (model.trunk.d_model, model.max_len, model.trunk.embedding.num_embeddings) == (16, 8, 20)
    assert model.head_weight is not None
    assert model.head_bias is not None
    assert (model.logit_cap, model.loss.label_smoothing) == (4.0, 0.1)
    assert 2.4e6 < sum(p.numel() for p in language_model(4096, 512).parameters()) < 2.7e6


def test_a_tiny_model_memorises_one_batch():
    torch.manual_seed(0)
    model = LanguageModel(Transformer(N_VOCAB, 16, d_model=32, n_layers=2, n_heads=2))
    ids, layout = make_ids(16, batch=2), make_layout([10, 6, 16])
    targets = ids.flatten().roll(-1).view(2, 16).clone()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(60):
        sums = model(ids, layout, targets=targets)
        (sums.objective / sums.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sums.nats / sums.count < 0.1
    assert sums.correct == 32


def test_refusals():
    with pytest.raises(ValueError, match='logit_cap is 0'):
        LanguageModel(make_trunk(), logit_cap=0.0)
    model = LanguageModel(make_trunk(causal=False))
    with pytest.raises(ValueError, match='causal'):
        model.new_cache(1, 4)
