"""The static embedder: which tokens its vectors are of, what is left out in training, and that it learns."""

import itertools

import pytest
import torch
from pair_batches import pair_batch, random_groups

from xlabml.heads import StaticEncoder
from xlabml.models import StaticEmbedder
from xlabml.models.static_embedder import drop_tokens, inner_tokens
from xlabml.training import Muon, parameter_groups


def make(seed=0, **options):
    torch.manual_seed(seed)
    return StaticEmbedder(50, 16, d_vector=12, **options)


def framed_groups(n_groups):
    """Groups of texts, each between a start and an end."""
    return [[[1, *text, 2] for text in group] for group in random_groups(n_groups)]


def test_a_vector_is_the_mean_of_the_tokens_between_the_ends():
    model = make(normalize=False).eval()
    batch = pair_batch(framed_groups(4))
    table = model.network.table.detach()
    found = model.embed(batch).detach()
    ids = batch.ids.flatten()
    starts = batch.layout.starts.tolist()
    assert (batch.example >= 0).sum() >= 8
    for number, (begin, end) in enumerate(itertools.pairwise(starts)):
        wanted = table[ids[begin + 1 : end - 1]].mean(dim=0) if batch.example[number] >= 0 else torch.zeros(12)
        torch.testing.assert_close(found[number], wanted, rtol=1e-5, atol=1e-6)


def test_its_vectors_are_those_of_the_static_encoder_without_the_ends():
    model = make().eval()
    alone = StaticEncoder(50, 16, 12)
    alone.load_state_dict(model.network.state_dict())
    torch.testing.assert_close(model(torch.tensor([[7, 8, 9]])), alone(torch.tensor([[7, 8, 9]])))
    framed = model.vectors(torch.tensor([[1, 7, 8, 9, 2]]), None, None)
    torch.testing.assert_close(framed, alone(torch.tensor([[7, 8, 9]])))


def test_dropped_tokens_are_a_share_and_leave_each_text_one():
    starts = torch.tensor([0, 1002, 1005, 1005, 1008])  # 1,000 tokens between ends, 1, an empty segment, 1
    inner = inner_tokens(1008, starts)
    assert inner.sum() == 1002
    for seed in range(20):
        torch.manual_seed(seed)
        kept = drop_tokens(inner, starts, 0.7)
        assert not (kept & ~inner).any()
        assert 240 < kept[:1002].sum() < 360
        assert kept[1002:1005].sum() == kept[1005:].sum() == 1


def test_tokens_are_left_out_in_training_alone():
    model = make(token_dropout=0.5)
    batch = pair_batch(framed_groups(6))
    torch.manual_seed(1)
    first = model.embed(batch)
    torch.manual_seed(1)
    assert torch.equal(first, model.embed(batch))
    assert not torch.equal(first, model.embed(batch))
    model.eval()
    assert torch.equal(model.embed(batch), model.embed(batch))


def test_it_learns_a_batch_with_finite_gradients_and_the_table_as_an_embedding():
    model = make(token_dropout=0.6)
    batch = pair_batch(framed_groups(6))
    optimizer = Muon(parameter_groups(model), adamw_lr=0.05)
    assert [group['name'] for group in optimizer.param_groups if group['params']] == ['others']
    before = model.eval().loss(batch).objective.item()
    for _ in range(40):
        optimizer.zero_grad()
        model.train().loss(batch).objective.backward()
        assert model.network.table.grad.isfinite().all()
        optimizer.step()
    assert model.eval().loss(batch).objective.item() < before / 3


@pytest.mark.parametrize(
    ('options', 'message'),
    [({'token_dropout': 1.0}, 'token_dropout is 1.0'), ({'init_std': 0.0}, 'init_std is 0.0')],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
