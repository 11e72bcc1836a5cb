"""Each objective has hand-worked values, is never NaN, counts own examples, and refuses what it cannot use."""

import functools
import itertools
import math

import pytest
import torch
from grouped_views import hand_views, random_views
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xlabml import losses
from xlabml.batches import IGNORED, NEGATIVE, Batch, Layout, PairTargets, TokenTargets
from xlabml.losses import Views, make_views
from xlabml.losses.similarity import normalize

X, Y, Z = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
MINUS = [-1.0, 0.0, 0.0]
HALF = [0.5, math.sqrt(0.75), 0.0]  # cosine 0.5 with X


def values(objective, views):
    return pytest.approx(objective(views).tolist(), abs=1e-9)


def scored(examples, scores):
    """Views of groups, with the scores of their candidates in their order."""
    views = hand_views(examples)
    flat = [score for group in scores for score in (0.0, *group)]
    return views._replace(score=torch.tensor(flat, dtype=torch.float64))


def labelled(examples, labels):
    return hand_views(examples, label=torch.tensor(labels))


# Values worked out by hand


def test_a_cosine_is_to_be_the_score():
    assert values(losses.CosineScore(), scored([[X, HALF], [X, X]], [[1.0], [1.0]])) == [0.25, 0.0]


def test_cosent_ranks_pairs():
    # The second pair is to be more similar but is less: log(1 + exp((0.5 - 0) / 0.5)). Both examples have the step's.
    views = scored([[X, HALF], [X, Y]], [[0.2], [0.9]])
    assert values(losses.CoSENT(temperature=0.5), views) == [math.log(1 + math.e)] * 2
    assert values(losses.CoSENT(), views._replace(score=views.score * 0)) == [0.0, 0.0]


def test_angle_is_the_sum_of_cosine_and_sine():
    # (1 + 0i) against (0 + 1i): cosine 0, sine -1. Against itself: cosine 1, sine 0.
    angle = losses.AnglE()
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    b = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
    assert angle.similarity(a, b).tolist() == pytest.approx([1.0, 1.0, 1.4])


def test_contrastive_pulls_pairs_of_label_1_and_pushes_others_to_the_margin():
    views = labelled([[X, HALF], [X, HALF], [X, Y]], [1, 0, 0])
    assert values(losses.Contrastive(margin=0.75), views) == [0.125, 0.5 * 0.25**2, 0.0]


def test_online_contrastive_counts_hard_pairs_only():
    # Distances: together 0.5 and 0, apart 0.5 and 1. Hard: none that is together is farther than 0.5; 1 is not nearer.
    views = labelled([[X, HALF], [X, X], [X, HALF], [X, Y]], [1, 1, 0, 0])
    assert values(losses.OnlineContrastive(margin=2.0), views) == [0.0] * 4
    # Now one together is at 1, farther than the nearest apart (0.5), which is nearer than it.
    views = labelled([[X, Y], [X, X], [X, HALF], [X, MINUS]], [1, 1, 0, 0])
    assert values(losses.OnlineContrastive(margin=2.0), views) == [1.0, 0.0, 2.25, 0.0]


def test_contrastive_tension_is_binary_cross_entropy_of_the_product():
    views = labelled([[X, X], [X, X]], [1, 0])
    assert values(losses.ContrastiveTension(), views) == [math.log(1 + math.exp(-1)), math.log(1 + math.e)]


def test_softmax_nli_reads_both_vectors_and_their_difference():
    objective = losses.SoftmaxNLI(3, 3).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.zero_()
        objective.classifier.weight[2] = torch.tensor([0, 0, 0, 0, 0, 0, 1.0, 0, 0])  # the difference in x
    views = labelled([[X, MINUS], [X, X]], [2, 0])
    assert values(objective, views) == [math.log(2 + math.exp(2)) - 2, math.log(3)]


def test_triplet_is_the_mean_over_its_negatives():
    views = hand_views([[X, HALF, Y], [X, X, MINUS]])
    assert values(losses.Triplet(margin=0.5), views) == [0.0, 0.0]
    assert values(losses.Triplet(margin=1.0), views) == [0.5, 0.0]
    two = hand_views([[X, HALF, Y, HALF]])  # excess 0.5 and 1
    assert values(losses.Triplet(margin=1.0), two) == [0.75]


CLASSES = [[X], [HALF], [Y], [MINUS]]  # cosine distances: X-HALF .5, X-Y 1, X-MINUS 2, HALF-Y 1-√.75, HALF-MINUS 1.5
NEAR = 1 - math.sqrt(0.75)


def test_triplets_of_classes_by_hand():
    views = labelled(CLASSES, [0, 0, 1, 1])  # Y-MINUS 1
    hard = [0.5 - 1 + 0.3, 0.5 - NEAR + 0.3, 1 - NEAR + 0.3, 1 - 1.5 + 0.3]
    assert values(losses.BatchHardTriplet(), views) == [max(0, x) for x in hard]
    soft = [math.log1p(math.exp(x - 0.3)) for x in hard]
    assert values(losses.BatchHardTriplet(margin=None), views) == soft
    # Semi-hard: the nearest negative beyond the positive, else the farthest.
    semi = [0.5 - 1, 0.5 - 1.5, 1 - 1, 1 - 1.5]
    semi[2] = 1 - 1  # for Y, at 1 from MINUS: its negatives are at 1 and NEAR, none farther
    assert values(losses.SemiHardTriplet(), views) == [max(0, x + 0.3) for x in semi]
    # All: those over the margin, shared out so that the mean over the texts is the mean over the triplets.
    excess = {0: [0.5 - 1, 0.5 - 2], 1: [0.5 - NEAR, 0.5 - 1.5], 2: [1 - 1, 1 - NEAR], 3: [1 - 2, 1 - 1.5]}
    over = {text: [x + 0.3 for x in some if x + 0.3 > 0] for text, some in excess.items()}
    n_over = sum(map(len, over.values()))
    assert values(losses.BatchAllTriplet(), views) == [sum(some) * 4 / n_over for some in over.values()]


def test_semi_hard_takes_the_nearest_that_is_truly_farther():
    # For Y, whose other text is at 1: negatives at 1 (X), 1.5 (below) and 2 (the opposite of Y).
    below = [math.sqrt(0.75), -0.5, 0.0]
    views = labelled([[Y], [MINUS], [X], [below], [[0.0, -1.0, 0.0]]], [0, 0, 1, 1, 1])
    of_five_examples_and_eight_pairs = 5 / 8
    found = losses.SemiHardTriplet(margin=3.0)(views)[0].item()
    assert found == pytest.approx((1 - 1.5 + 3.0) * of_five_examples_and_eight_pairs)


def test_an_example_without_candidates_costs_a_teacher_nothing():
    views = scored([[X, X, Y], [Y]], [[1.0, 0.0], []])
    for objective in (losses.KLDistillation(), losses.ListMLE()):
        found = objective(views)
        assert found[1] == 0
        assert found[0] > 0
        assert torch.autograd.grad(found.sum(), views.vectors)[0].isfinite().all()


def test_texts_without_a_positive_or_a_negative_count_nothing():
    lonely = labelled([*CLASSES, [Z]], [0, 0, 1, 1, 2])
    for objective in (losses.BatchHardTriplet(), losses.BatchAllTriplet(), losses.SemiHardTriplet(), losses.SupCon()):
        assert objective(lonely)[-1] == 0
        one_class = objective(lonely._replace(label=torch.zeros(5, dtype=torch.long)))
        assert one_class.tolist() == [0.0] * 5
        assert not torch.autograd.grad(one_class.sum(), lonely.vectors)[0].any()


def test_texts_without_a_class_are_left_out():
    known = labelled(CLASSES, [0, 0, 1, 1])
    more = labelled([*CLASSES, [X], [Y]], [0, 0, 1, 1, IGNORED, IGNORED])
    for objective in (losses.BatchHardTriplet(), losses.BatchAllTriplet(), losses.SemiHardTriplet(), losses.SupCon()):
        assert objective(more)[4:].tolist() == [0.0, 0.0]
        torch.testing.assert_close(objective(more).mean(), objective(known).mean())


def test_supcon_is_the_mean_log_probability_of_the_class():
    views = labelled([[X], [HALF], [X], [Y]], [0, 0, 0, 1])
    others = math.e**0.5 + math.e + 1
    of_first = -(0.5 - math.log(others) + 1 - math.log(others)) / 2
    found = losses.SupCon(temperature=1.0)(views)
    assert found[0].item() == pytest.approx(of_first * 4 / 3)  # three texts count, of four
    assert found[3] == 0


def test_mega_batch_margin_takes_the_hardest_positive_of_another_example():
    views = hand_views([[X, HALF], [Y, Y], [MINUS, MINUS]])
    # Of the first: 0.8 - 0.5, and the nearest other positive is Y, at 0. Of Y: HALF at √.75.
    assert values(losses.MegaBatchMargin(), views) == [0.3, math.sqrt(0.75) - 0.3, 0.0]
    same = views._replace(text_hash=torch.tensor([0, 1, 2, 1, 4, 5]))
    assert values(losses.MegaBatchMargin(), same) == [0.3, 0.0, 0.0]


RANKED = [[X, X, HALF, Y], [X, HALF, MINUS]]  # cosines 1, .5, 0 | .5, -1; the second has fewer candidates


def test_margins_of_a_teacher():
    views = scored(RANKED, [[0.9, 0.5, 0.1], [1.0, 0.0]])
    expected = [((0.5 - 0.4) ** 2 + (1 - 0.8) ** 2) / 2, (1.5 - 1) ** 2]
    assert values(losses.MarginMSE('cosine'), views) == expected


def test_divergence_from_a_teachers_distribution():
    views = scored(RANKED, [[1.0, 0.5, 0.0], [0.5, -1.0]])
    assert values(losses.KLDistillation('cosine'), views) == [0.0, 0.0]
    even = views._replace(score=views.score * 0)
    total = sum(math.exp(x) for x in (1, 0.5, 0))
    first = sum(math.log(1 / 3) - (x - math.log(total)) for x in (1, 0.5, 0)) / 3
    second = sum(math.log(1 / 2) - (x - math.log(math.exp(0.5) + math.exp(-1))) for x in (0.5, -1)) / 2
    assert values(losses.KLDistillation('cosine'), even) == [first, second]


def test_likelihood_of_a_teachers_order():
    views = scored(RANKED, [[0.1, 0.9, 0.5], [1.0, 0.0]])  # order of cosines: 0.5, 0, 1
    e = math.exp
    first = math.log(e(0.5) + e(0) + e(1)) - 0.5 + math.log(e(0) + e(1)) - 0
    assert values(losses.ListMLE('cosine'), views) == [first, math.log(e(0.5) + e(-1)) - 0.5]


def test_vectors_of_a_teacher_are_copied():
    views = hand_views([[X, X], [Y, Y]])
    views = views._replace(teacher=torch.tensor([X, Y, Y, Y], dtype=torch.float64))
    # Squares 0, 2, 0, 0 over three entries; the mean over texts is that over examples.
    assert values(losses.VectorDistillation(), views) == [2 / 3 / 2, 0.0]
    assert values(losses.VectorDistillation('euclidean'), views) == [math.sqrt(2) / 2, 0.0]
    assert values(losses.VectorDistillation('cosine'), views) == [0.5, 0.0]


# What holds of all of them

EVERY = {
    'InfoNCE': losses.InfoNCE,
    'InfoNCE, everything': functools.partial(
        losses.InfoNCE, directions=['q2d', 'd2q', 'q2q', 'd2d'], hardness='all', hardness_strength=5.0, guide_margin=0.0
    ),
    'InfoNCE, dot': functools.partial(losses.InfoNCE, similarity='dot', learn_temperature=True),
    'Matryoshka': functools.partial(losses.Matryoshka, dims=[4, 2]),
    'CosineScore': losses.CosineScore,
    'CoSENT': losses.CoSENT,
    'AnglE': losses.AnglE,
    'Contrastive': functools.partial(losses.Contrastive, 'euclidean'),
    'OnlineContrastive': losses.OnlineContrastive,
    'ContrastiveTension': losses.ContrastiveTension,
    'SoftmaxNLI': functools.partial(losses.SoftmaxNLI, 4),
    'Triplet': functools.partial(losses.Triplet, 'euclidean'),
    'Triplet, manhattan': functools.partial(losses.Triplet, 'manhattan', 1e6),
    'BatchAllTriplet': functools.partial(losses.BatchAllTriplet, 'euclidean', 1e6),
    'BatchHardTriplet': functools.partial(losses.BatchHardTriplet, 'euclidean', 1e6),
    'BatchHardTriplet, soft': functools.partial(losses.BatchHardTriplet, 'euclidean', None),
    'SemiHardTriplet': functools.partial(losses.SemiHardTriplet, 'euclidean'),
    'SupCon': losses.SupCon,
    'MegaBatchMargin': losses.MegaBatchMargin,
    'MarginMSE': losses.MarginMSE,
    'KLDistillation': losses.KLDistillation,
    'ListMLE': losses.ListMLE,
    'VectorDistillation': functools.partial(losses.VectorDistillation, 'euclidean'),
}


def everything(n_examples=6, **options):
    """Views that have all that any objective needs; labels of two classes."""
    return random_views(n_examples, n_negatives=2, d=4, score=True, label=2, teacher=4, guide=3, **options)


@pytest.mark.parametrize('name', EVERY)
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_never_nan(name, data):
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    views = everything(seed=data.draw(st.integers(0, 3)), dtype=dtype)
    size = data.draw(st.sampled_from([1e-7, 1.0, 300.0, 6e4]))
    kinds = data.draw(st.lists(st.sampled_from(['as is', 'zero', 'first', 'opposite']), min_size=24, max_size=24))
    vectors = views.vectors.detach() / views.vectors.detach().abs().max() * size
    for text, kind in enumerate(kinds):
        vectors[text] = {'as is': vectors[text], 'zero': vectors[0] * 0, 'first': vectors[0], 'opposite': -vectors[0]}[
            kind
        ]
    views = views._replace(vectors=vectors.requires_grad_())
    if data.draw(st.booleans()):
        views = views._replace(label=views.label * 0)
    torch.manual_seed(0)
    found = EVERY[name]()(views)
    assert found.shape == (views.n_examples,)
    assert found.isfinite().all()
    found.sum().backward()
    assert not vectors.grad.isnan().any()
    # A gradient in float16 may be beyond its range, where that of float32 is not.
    assert dtype == torch.float16 or vectors.grad.isfinite().all()


@pytest.mark.parametrize('name', EVERY)
def test_own_examples_have_their_losses_and_the_order_of_texts_does_not_matter(name):
    views = everything()
    torch.manual_seed(0)
    objective = EVERY[name]().double()
    whole = objective(views)
    parts = [objective(views._replace(own=slice(*ends))) for ends in itertools.pairwise([0, 2, 2, 6])]
    torch.testing.assert_close(torch.cat(parts), whole)
    order = torch.randperm(len(views.role), generator=torch.Generator().manual_seed(1))
    # Texts of one role keep their order: a teacher's order of equal scores is by place.
    order = order[views.role[order].argsort(stable=True)]
    fields = ('vectors', 'example', 'role', 'text_hash', 'score', 'teacher', 'guide')
    torch.testing.assert_close(
        objective(views._replace(**{field: getattr(views, field)[order] for field in fields})), whole
    )


@pytest.mark.parametrize('name', EVERY)
def test_a_rank_without_examples_takes_part_in_the_backward_pass(name):
    views = everything()
    torch.manual_seed(0)
    nothing = EVERY[name]().double()(views._replace(own=slice(3, 3)))
    assert nothing.shape == (0,)
    assert nothing.requires_grad
    assert not torch.autograd.grad(nothing.sum(), views.vectors)[0].any()


def test_a_loss_without_a_gradient_takes_part_too():
    class Nothing(losses.Objective):
        def losses(self, views):
            return torch.zeros(views.n_own, dtype=views.vectors.dtype)

    views = everything()
    assert not torch.autograd.grad(Nothing()(views).sum(), views.vectors)[0].any()


@pytest.mark.parametrize('size', [0.0, 1e-30, 1.0, 1e30])
def test_directions_of_any_length_are_normalized(size):
    vector = torch.tensor([[3.0, 4.0]], requires_grad=True)
    unit = normalize(vector * size)
    assert unit.tolist()[0] == pytest.approx([0.6, 0.8] if size else [0.0, 0.0])
    # Along the vector nothing changes, across it as 1 / length.
    (grad,) = torch.autograd.grad(unit[0, 0], vector)
    assert grad.tolist()[0] == pytest.approx([0.128, -0.096] if size else [0.0, 0.0], rel=1e-5)


@pytest.mark.parametrize('name', EVERY)
def test_learning_lowers_it(name):
    views = everything()
    torch.manual_seed(0)
    objective = EVERY[name]().double()
    vectors = views.vectors.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors, *objective.parameters()], 0.02)
    history = []
    for _ in range(30):
        loss = objective(views._replace(vectors=vectors)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0]


# Refusals


@pytest.mark.parametrize(
    ('objective', 'missing', 'message'),
    [
        (losses.CoSENT, {'score': None}, 'CoSENT needs scores'),
        (losses.SupCon, {'label': None}, 'SupCon needs labels'),
        (losses.VectorDistillation, {'teacher': None}, "VectorDistillation needs a teacher's vectors"),
        (losses.Triplet, {'role': 'no negatives'}, 'Triplet needs a text in the role `negatives`'),
        (losses.Contrastive, {'label': torch.tensor([0, 1, 2, 0, 0, 0])}, 'label 2, but Contrastive takes 1'),
        (functools.partial(losses.SoftmaxNLI, 4), {'label': torch.tensor([0, 3, 2, 0, 0, 0])}, 'classes 0 to 2'),
        (losses.CosineScore, {'score': torch.full((24,), 4.5).double()}, 'score 4.5, but a cosine lies in -1..1'),
        (losses.VectorDistillation, {'teacher': torch.zeros(24, 7).double()}, 'set d_vector and d_teacher'),
    ],
)
def test_what_an_objective_lacks_is_named(objective, missing, message):
    views = everything()
    if 'role' in missing:
        keep = views.role < NEGATIVE
        names = ('vectors', 'example', 'role', 'text_hash', 'score', 'teacher', 'guide')
        missing = {name: getattr(views, name)[keep] for name in names}
    with pytest.raises(ValueError, match=message):
        objective()(views._replace(**missing))


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: losses.CoSENT(0.0), 'temperature'),
        (lambda: losses.SupCon(-1.0), 'temperature'),
        (lambda: losses.KLDistillation(temperature=math.inf), 'temperatures'),
        (lambda: losses.ListMLE(temperature=0.0), 'temperature'),
        (lambda: losses.SoftmaxNLI(4, n_classes=1), 'n_classes is 1'),
        (lambda: losses.SoftmaxNLI(4, with_vectors=False, with_difference=False), 'no features'),
        (lambda: losses.VectorDistillation(d_vector=4), 'give both'),
    ],
)
def test_arguments_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# From batches


def make_batch(targets):
    return Batch(
        ids=torch.zeros(1, 10, dtype=torch.long),
        layout=Layout(torch.tensor([0, 3, 5, 8, 10]), 3),
        documents=torch.tensor([4, 4, 7, -1]),
        example=torch.tensor([0, 0, 1, -1]),
        role=torch.tensor([0, 1, 0, 0]),
        targets=targets,
        n_counted=2.0,
        seed=0,
    )


def test_views_of_a_batch_leave_padding_out():
    targets = PairTargets(torch.arange(4.0), torch.tensor([3, IGNORED]), torch.eye(4), torch.arange(4) + 10, 0)
    views = make_views(torch.eye(4), make_batch(targets))
    assert views.n_examples == views.n_own == 2
    assert views.text_hash.tolist() == [10, 11, 12]
    assert len(views.vectors) == len(views.score) == len(views.teacher) == 3
    with pytest.raises(ValueError, match='example 1 has 0 texts in the role of the positive'):
        views.positives()


def test_views_are_made_of_pairs_only():
    ids = torch.zeros(1, 10, dtype=torch.long)
    with pytest.raises(ValueError, match='TokenTargets, but an embedder trains on PairTargets'):
        make_views(torch.eye(4), make_batch(TokenTargets(ids, torch.zeros(4, dtype=torch.long))))


def test_no_examples_have_no_losses():
    nothing = Views(torch.zeros(0, 4, requires_grad=True), *(torch.zeros(0, dtype=torch.long),) * 2, n_examples=0)
    assert losses.InfoNCE()(nothing).shape == (0,)
