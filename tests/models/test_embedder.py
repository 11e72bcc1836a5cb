"""The embedder's loss: chunks against one pass, ranks against one process, and that it learns."""

import math
import os
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pair_batches import pair_batch, random_groups
from ranks import free_port

from xlabml.heads import AttentionPooling, MaxPooling
from xlabml.losses import CoSENT, InfoNCE, Matryoshka, SupCon
from xlabml.models import Embedder
from xlabml.models import vector_task as module
from xlabml.transformer import Transformer


def make_embedder(seed=0, dropout=0.0, double=True, **options):
    torch.manual_seed(seed)
    trunk = partial(Transformer, d_model=16, n_layers=2, n_heads=4, d_ff=24, causal=False, dropout=dropout)
    model = Embedder(50, 16, **{'trunk': trunk, 'pooling': AttentionPooling, **options})
    return model.double() if double else model


def gradients(model, batch, seed=1):
    model.zero_grad()
    torch.manual_seed(seed)
    sums = model.loss(batch)
    (sums.objective / batch.n_counted).backward()
    return sums.objective.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_same(found, wanted, tolerance):
    assert len(found[1]) == len(wanted[1])
    assert abs(found[0] - wanted[0]) <= tolerance * max(1, abs(wanted[0]))
    for one, other in zip(found[1], wanted[1]):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_chunks_give_the_loss_and_the_gradient_of_one_pass():
    groups = random_groups(6)
    model = make_embedder()
    whole = pair_batch(groups)
    chunks = pair_batch(groups, row_slots=20)
    assert len(chunks.ids) > 3
    assert_same(gradients(model, chunks), gradients(model, whole), 1e-10)


def test_chunks_computed_anew_have_the_dropout_of_the_first_time(monkeypatch):
    """With dropout: the gradient of chunks that are kept, which see the same random numbers."""
    model = make_embedder(dropout=0.3).train()
    batch = pair_batch(random_groups(6), row_slots=20)
    cached = gradients(model, batch)
    monkeypatch.setattr(module, 'embed_in_chunks', lambda embed, rows, on: torch.cat([embed(row) for row in rows], -2))
    kept = gradients(model, batch)
    assert_same(cached, kept, 1e-10)
    assert not math.isclose(cached[0], gradients(model, batch, seed=2)[0], rel_tol=1e-6)


def test_chunks_keep_no_activations(monkeypatch):
    """What the backward pass holds is the vectors, and one chunk at a time."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    model = make_embedder()
    held = {}
    for name, slots in (('one pass', None), ('chunks', 20)):
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.loss(pair_batch(random_groups(12), row_slots=slots))
        held[name] = sum(sizes)
    assert held['chunks'] < held['one pass'] / 3


def test_padding_and_other_texts_do_not_move_a_vector():
    groups = random_groups(4)
    model = make_embedder().eval()
    together = model.embed(pair_batch(groups, row_slots=20))[pair_batch(groups, row_slots=20).example >= 0]
    alone = [model(torch.tensor([ids])) for group in groups for ids in group]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-10)


def test_prompts_are_left_out_of_the_pooling_where_that_is_asked():
    ids = random_groups(2, seed=3)
    batch = pair_batch([[[7, 8, *text] for text in group] for group in ids], n_prompt=2)
    options = {'pooling': MaxPooling, 'normalize': False}
    with_prompt = make_embedder(**options).embed(batch)
    without = make_embedder(include_prompt=False, **options).embed(batch)
    assert not torch.allclose(with_prompt, without)
    hidden = make_embedder(**options).network.trunk(batch.ids, batch.layout)[0]
    start, end = batch.layout.starts[:2].tolist()
    torch.testing.assert_close(without[0], hidden[start + 2 : end].amax(0))


def test_the_loss_of_a_step_is_the_mean_of_the_objective():
    model = make_embedder(objective=partial(InfoNCE, temperature=0.1))
    batch = pair_batch(random_groups(5, n_texts=2))
    vectors = torch.nn.functional.normalize(model.embed(batch)[batch.example >= 0], dim=-1)
    logits = vectors[::2] @ vectors[1::2].T / 0.1
    by_hand = torch.nn.functional.cross_entropy(logits, torch.arange(5), reduction='sum')
    sums = model.loss(batch)
    torch.testing.assert_close(sums.objective, by_hand)
    assert sums.count == 5
    assert model.figures({'loss': float(sums.named['loss']), 'count': 5}) == {'loss': pytest.approx(by_hand.item() / 5)}


def test_an_empty_batch_costs_nothing_and_gives_every_weight_a_gradient():
    model = make_embedder()
    batch = pair_batch(random_groups(2))
    empty = batch._replace(example=torch.full_like(batch.example, -1))
    total, grads = gradients(model, empty)
    assert total == 0
    assert len(grads) == len(list(model.network.parameters()))
    assert all((grad == 0).all() for grad in grads)


LEARNING = {
    'pairs': ({}, {}),
    'matryoshka': ({'objective': partial(Matryoshka, dims=[16, 4])}, {}),
    'classes': ({'objective': SupCon}, {'label': [0, 0, 1, 1, 2, 2, 3, 3]}),
    'scores': ({'objective': CoSENT}, {'score': [[0, i / 7] for i in range(8)]}),
}


@pytest.mark.parametrize(('options', 'targets'), LEARNING.values(), ids=list(LEARNING))
def test_it_learns_one_batch(options, targets):
    model = make_embedder(double=False, **options)
    groups = random_groups(8, n_texts=1 if 'label' in targets else 2)
    batch = pair_batch(groups, row_slots=40, **targets)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = model.loss(batch).objective / 8
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_predictions_are_cosines_of_anchors_and_positives():
    model = make_embedder().requires_grad_(False)
    batch = pair_batch(random_groups(3), row_slots=20)
    parts = model.predictions(batch)
    vectors = torch.nn.functional.normalize(model.embed(batch), dim=-1)
    wanted = {
        e: vectors[(batch.example == e) & (batch.role == 0)][0] @ vectors[(batch.example == e) & (batch.role == 1)][0]
        for e in range(3)
    }
    for example, cosine in wanted.items():
        here = parts.documents == example
        totals = {name: float(values[here].sum()) for name, values in parts.values.items()}
        assert model.merge(totals) == {'cosine': round(cosine.item(), 6)}
    assert model.merge({'cosine': 0.0, 'count': 0}) == {'cosine': None}


# Several ranks


def _be_rank(rank, world, port, out):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=world)
    groups = random_groups(7)
    own = groups[:5] if rank == 0 else groups[5:]
    found = {}
    for gather in (True, False):
        _, grads = gradients(make_embedder(gather=gather), pair_batch(own, row_slots=20, n_counted=7.0))
        for grad in grads:  # as DDP and the task's scaling do: the mean times the number of ranks
            dist.all_reduce(grad)
        found[gather] = grads
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


def test_two_ranks_step_as_one_process_with_all_texts(tmp_path):
    mp.spawn(_be_rank, (2, free_port(), tmp_path / 'grads.pt'), nprocs=2)
    found = torch.load(tmp_path / 'grads.pt')
    _, wanted = gradients(make_embedder(), pair_batch(random_groups(7)))
    for one, other in zip(found[True], wanted):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
    # Without gathering a rank has its own texts as candidates only, which is another loss.
    assert any(not torch.allclose(one, other, rtol=1e-2) for one, other in zip(found[False], wanted))


def test_each_data_set_has_its_objective_and_all_weights_a_gradient():
    model = make_embedder(objectives=[partial(InfoNCE, learn_temperature=True), CoSENT])
    scored = pair_batch(random_groups(4, n_texts=2), score=[[0, i / 4] for i in range(4)])
    second = scored._replace(targets=scored.targets._replace(set=1))
    for batch, objective in ((scored, InfoNCE(learn_temperature=True)), (second, CoSENT())):
        total, grads = gradients(model, batch)
        alone, _ = gradients(make_embedder(objective=lambda objective=objective: objective), batch)
        assert total == pytest.approx(alone)
        assert len(grads) == len(list(model.parameters()))
