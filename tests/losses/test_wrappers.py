"""Matryoshka, layers, gradient caching and gather: each is what it says, and they combine."""

import functools
import json
import os
from collections.abc import Callable

import pytest
import ranks
import torch
import torch.distributed as dist
from grouped_views import random_views
from torch import nn

from xlabml import settings
from xlabml.batches import ANCHOR, POSITIVE
from xlabml.losses import AdaptiveLayers, InfoNCE, Matryoshka, Objective, Views, embed_in_chunks, gather_views


def test_matryoshka_is_the_weighted_sum_over_normalized_prefixes():
    views = random_views(n_negatives=1, d=8)

    def dot():
        return InfoNCE(similarity='dot')

    ours = Matryoshka(dot, dims=[8, 4, 2], weights=[1.0, 0.5, 0.25])(views)
    plain = 0
    for dim, weight in ((8, 1.0), (4, 0.5), (2, 0.25)):
        prefix = views.vectors[:, :dim]
        plain = plain + weight * dot()(views._replace(vectors=prefix / prefix.norm(dim=-1, keepdim=True)))
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'dims': []}, 'different widths'),
        ({'dims': [4, 4]}, 'different'),
        ({'dims': [4], 'weights': [1.0, 2.0]}, 'one of'),
    ],
)
def test_widths_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Matryoshka(**options)


def test_more_width_than_the_vectors_have_is_refused():
    with pytest.raises(ValueError, match='vectors have 6 entries'):
        Matryoshka(dims=[8])(random_views(d=6))


def layered(views, n_layers=2, seed=9):
    generator = torch.Generator().manual_seed(seed)
    layers = torch.randn(n_layers, *views.vectors.shape, generator=generator, dtype=torch.float64)
    return views._replace(layers=layers.requires_grad_())


def test_layers_have_the_objective_and_learn_the_last_one():
    views = layered(random_views())
    plain = InfoNCE()(views) + sum(0.5 * InfoNCE()(views._replace(vectors=layer)) for layer in views.layers)
    undistilled = AdaptiveLayers(distill_weight=0.0)(views)
    torch.testing.assert_close(undistilled, plain)
    # The divergence, as a mean over all texts of a sum over the entries.
    t = 0.3
    target = (views.vectors.detach() / t).softmax(-1)
    gap = sum((target * (target.log() - (layer / t).log_softmax(-1))).sum(-1).mean() for layer in views.layers)
    torch.testing.assert_close((AdaptiveLayers()(views) - undistilled).mean(), t * gap)
    # The last layer does not move towards the earlier ones.
    moved = [torch.autograd.grad(loss.sum(), views.vectors)[0] for loss in (undistilled, AdaptiveLayers()(views))]
    torch.testing.assert_close(*moved)


def test_layers_and_widths_combine_in_either_order():
    views = layered(random_views())
    by_layer = AdaptiveLayers(lambda: Matryoshka(dims=[6, 3]), distill_weight=0.0)(views)
    by_width = Matryoshka(lambda: AdaptiveLayers(distill_weight=0.0), dims=[6, 3])(views)
    torch.testing.assert_close(by_layer, by_width)


def test_layers_are_asked_for_by_name():
    with pytest.raises(ValueError, match='AdaptiveLayers needs the vectors of earlier layers'):
        AdaptiveLayers()(random_views())


# Gradient caching


def make_encoder():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 6)).double()


def gradients(encoder, loss):
    return torch.autograd.grad(loss, list(encoder.parameters()))


def test_caching_has_the_gradient_of_the_full_batch_dropout_included():
    encoder = make_encoder()
    views = random_views(n_examples=8, n_negatives=1)
    inputs = torch.randn(len(views.role), 5, dtype=torch.float64)
    chunks = inputs.split([7, 7, 7, 3])
    torch.manual_seed(11)
    full = InfoNCE()(views._replace(vectors=torch.cat([encoder(chunk) for chunk in chunks]))).sum()
    torch.manual_seed(11)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda x: x):
        vectors = embed_in_chunks(encoder, chunks, chunks[0])
    cached = InfoNCE()(views._replace(vectors=vectors)).sum()
    assert (16,) not in [shape[1:] for shape in kept], 'the forward pass keeps no activations'
    torch.testing.assert_close(cached, full, rtol=0, atol=0)
    torch.testing.assert_close(gradients(encoder, cached), gradients(encoder, full), rtol=1e-12, atol=1e-14)


def test_caching_passes_a_factor_and_the_objectives_own_weights_on():
    encoder = make_encoder()
    objective = Matryoshka(lambda: InfoNCE(learn_temperature=True), dims=[6, 3]).double()
    views = random_views(n_examples=4)
    inputs = torch.randn(len(views.role), 5, dtype=torch.float64)
    weights = [*encoder.parameters(), *objective.parameters()]
    found = []
    for embed in (lambda chunks: torch.cat([encoder(chunk) for chunk in chunks]), None):
        torch.manual_seed(0)
        chunks = inputs.split(3)
        vectors = embed(chunks) if embed else embed_in_chunks(encoder, chunks, chunks[0])
        found.append(torch.autograd.grad(objective(views._replace(vectors=vectors)).sum() * 1024, weights))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


# Gather


def case():
    """Eight examples of two or three texts, their encoder and an objective."""
    views = layered(random_views(n_examples=8, n_negatives=1, label=4, score=True, teacher=3, guide=3))
    is_kept = (views.example % 2 == 0) | (views.role <= POSITIVE)
    inputs = torch.randn(len(views.role), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    torch.manual_seed(5)
    encoder = nn.Linear(5, 18).double()
    objective = AdaptiveLayers(
        lambda: Matryoshka(
            lambda: InfoNCE(learn_temperature=True, directions=['q2d', 'd2q', 'q2q', 'd2d'], guide_margin=0.0), [6, 3]
        )
    ).double()
    return select(views, is_kept), inputs[is_kept], encoder, objective


def select(views, is_kept, examples=None):
    """The views of some texts, with the examples numbered anew."""
    examples = torch.arange(views.n_examples) if examples is None else examples
    number = torch.full((views.n_examples,), -1)
    number[examples] = torch.arange(len(examples))
    values = {
        name: getattr(views, name)[is_kept] for name in ('vectors', 'role', 'text_hash', 'score', 'teacher', 'guide')
    }
    return Views(
        example=number[views.example[is_kept]],
        n_examples=len(examples),
        label=views.label[examples],
        layers=views.layers[:, is_kept],
        **values,
    )


def embedded(views, inputs, encoder):
    vectors, *layers = encoder(inputs).chunk(3, dim=-1)
    return views._replace(vectors=vectors, layers=torch.stack(layers))


def save_share(rank_of_example):
    """What one of two ranks has: its losses, and its gradients."""
    dist.init_process_group('gloo')
    rank = int(os.environ['RANK'])
    views, inputs, encoder, objective = case()
    mine = torch.tensor(rank_of_example) == rank
    is_mine = mine[views.example]
    own = select(views, is_mine, mine.nonzero()[:, 0])
    gathered = gather_views(embedded(own, inputs[is_mine], encoder))
    losses = objective(gathered)
    weights = [*encoder.parameters(), *objective.parameters()]
    grads = torch.autograd.grad(losses.sum(), weights)
    for name in ('label', 'score', 'teacher', 'text_hash', 'role'):
        assert len(getattr(gathered, name)) == len(getattr(views, name))
    torch.save({'losses': losses.detach(), 'grads': grads}, f'share-{rank}.pt')
    dist.destroy_process_group()
    return 0


@pytest.mark.parametrize('rank_of_example', [[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8], ids=['uneven', 'none on rank 0'])
def test_two_ranks_have_the_losses_and_gradients_of_one(tmp_path, rank_of_example):
    statuses, printed = ranks.run(2, tmp_path, save_share, rank_of_example)
    assert statuses == [0, 0], printed
    shares = [torch.load(tmp_path / f'share-{rank}.pt') for rank in range(2)]
    views, inputs, encoder, objective = case()
    losses = objective(embedded(views, inputs, encoder))
    torch.testing.assert_close(torch.cat([share['losses'] for share in shares]), losses.detach())
    grads = torch.autograd.grad(losses.sum(), [*encoder.parameters(), *objective.parameters()])
    summed = [sum(pair) for pair in zip(*(share['grads'] for share in shares))]
    torch.testing.assert_close(summed, list(grads), rtol=1e-9, atol=1e-12)


def test_one_process_gathers_nothing():
    views = random_views()
    assert gather_views(views) is views
    assert (views.role[views.anchors()] == ANCHOR).all()


def test_a_checkpoint_can_hold_objectives_in_one_another():
    inner = functools.partial(Matryoshka, objective=functools.partial(InfoNCE, directions=['q2d', 'd2q']), dims=[4, 2])
    written = settings.describe(functools.partial(AdaptiveLayers, objective=inner))
    built = settings.build(json.loads(json.dumps(written)), Callable[[], Objective])
    assert settings.describe(built) == written
    assert built().objective.dims == (4, 2)
    assert built().objective.objective.directions == ('q2d', 'd2q')
