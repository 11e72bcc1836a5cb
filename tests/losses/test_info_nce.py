"""InfoNCE equals hand-worked values and a definition in plain loops, and never pushes equal texts apart."""

import itertools
import math

import pytest
import torch
from grouped_views import hand_views, random_views

from xlabml.batches import ANCHOR, NEGATIVE, POSITIVE
from xlabml.losses import InfoNCE

E = math.e
PAIRS = [[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]


def loop_definition(views, scale, directions, symmetric, hardness, strength, margin=None, relative=False):
    """The loss of each example, one number at a time."""
    texts = range(len(views.role))
    hashes = views.text_hash.tolist()
    example = views.example.tolist()
    role = views.role.tolist()

    def cosine(vectors, i, j):
        return torch.cosine_similarity(vectors[i], vectors[j], dim=0).item()

    guide = views.vectors if views.guide is None else views.guide
    anchor_of = {example[i]: i for i in texts if role[i] == ANCHOR}
    of_example = [[] for _ in range(views.n_examples)]
    for positive in (i for i in texts if role[i] == POSITIVE):
        query = anchor_of[example[positive]]
        bar = cosine(guide, query, positive)
        sums = []
        for direction in directions:
            compared = query if direction[0] == 'q' else positive
            terms = []
            for other in texts:
                if (role[other] == ANCHOR) != (direction[-1] == 'q'):
                    continue
                is_pair = (direction == 'q2d' and other == positive) or (direction == 'd2q' and other == query)
                value = cosine(views.vectors, compared, other) * scale
                own = example[other] == example[positive]
                if not is_pair:
                    if own and not (direction == 'q2d' and role[other] >= NEGATIVE):
                        continue
                    if hashes[other] in (hashes[query], hashes[positive]):
                        continue
                    if role[other] == POSITIVE and hashes[anchor_of[example[other]]] == hashes[query]:
                        continue
                    least = bar - (abs(bar) * margin if relative else margin) if margin is not None else math.inf
                    if cosine(guide, compared, other) > least:
                        continue
                    kinds = {'in_batch': not own, 'own': own, 'all': True}
                    if direction == 'q2d' and kinds[hardness]:
                        value += strength * cosine(views.vectors, compared, other)
                terms.append(math.exp(value))
            sums.append(terms)
        pair = cosine(views.vectors, query, positive) * scale
        if symmetric:
            total = sum(math.log(sum(terms)) for terms in sums) / len(sums)
        else:
            total = math.log(sum(itertools.chain(*sums)))
        of_example[example[positive]].append(total - pair)
    return torch.tensor([sum(some) / len(some) for some in of_example], dtype=torch.float64)


def test_two_orthogonal_pairs_cost_what_is_worked_out_by_hand():
    views = hand_views(PAIRS)
    each = math.log(E + 1) - 1
    torch.testing.assert_close(InfoNCE(temperature=1.0)(views).tolist(), [each, each])
    # All four: the pair twice, the other document, anchor twice, and document, all at similarity 0.
    both = math.log(2 * E + 4) - 1
    every = InfoNCE(temperature=1.0, directions=['q2d', 'd2q', 'q2q', 'd2d'])
    torch.testing.assert_close(every(views).tolist(), [both, both])


def test_a_hard_negative_counts_for_every_anchor():
    views = hand_views([[*PAIRS[0], [0.0, 1.0]], [*PAIRS[1], [-1.0, 0.0]]])
    first = math.log(E + 1 + 1 + 1 / E) - 1
    second = math.log(E + 1 + E + 1) - 1
    torch.testing.assert_close(InfoNCE(temperature=1.0)(views).tolist(), [first, second])


@pytest.mark.parametrize('directions', [['q2d'], ['q2d', 'd2q'], ['q2d', 'q2q'], ['q2d', 'd2q', 'q2q', 'd2d']])
@pytest.mark.parametrize('hardness', ['in_batch', 'own', 'all'])
@pytest.mark.parametrize('margin', [None, 0.1, -0.2])
def test_equals_the_definition_in_loops(directions, hardness, margin):
    views = random_views(n_negatives=2, guide=4)
    # Two anchors of equal text; a negative equal to another example's positive; a document equal to an anchor.
    hashes = views.text_hash.clone()

    def text(example, role):
        return int(((views.example == example) & (views.role == role)).nonzero())

    hashes[text(1, ANCHOR)] = hashes[text(0, ANCHOR)]
    hashes[text(2, NEGATIVE)] = hashes[text(3, POSITIVE)]
    hashes[text(4, NEGATIVE + 1)] = hashes[text(3, ANCHOR)]
    # Example 2 gets a second positive.
    role = views.role.clone()
    role[text(2, NEGATIVE + 1)] = POSITIVE
    views = views._replace(text_hash=hashes, role=role)
    for symmetric, relative in itertools.product(
        [False, True] if set(directions) <= {'q2d', 'd2q'} else [False], [0, 1]
    ):
        options = {
            'symmetric': symmetric,
            'hardness': hardness,
            'guide_margin': margin,
            'guide_relative': bool(relative),
        }
        ours = InfoNCE(0.2, directions=directions, hardness_strength=0.7, **options)(views)
        plain = loop_definition(views, 5.0, directions, symmetric, hardness, 0.7, margin, relative)
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_equal_texts_are_not_pushed_apart():
    views = hand_views(PAIRS)
    same_answer = views._replace(text_hash=torch.tensor([0, 1, 2, 1]))
    assert InfoNCE(temperature=1.0)(same_answer).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    same_query = views._replace(text_hash=torch.tensor([0, 1, 0, 3]))
    assert InfoNCE(temperature=1.0)(same_query).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    kept = InfoNCE(temperature=1.0, mask_duplicates=False)(same_answer)
    assert kept.tolist() == pytest.approx([math.log(E + 1) - 1] * 2)


def test_own_examples_have_the_losses_that_they_have_among_all():
    views = random_views(n_examples=6, n_negatives=1)
    objective = InfoNCE(directions=['q2d', 'd2q', 'q2q', 'd2d'])
    torch.testing.assert_close(objective(views._replace(own=slice(2, 5))), objective(views)[2:5])


def test_a_learned_temperature_has_a_gradient_and_a_floor():
    views = random_views()
    objective = InfoNCE(0.05, learn_temperature=True).double()
    torch.testing.assert_close(objective(views), InfoNCE(0.05)(views), rtol=1e-6, atol=1e-6)
    objective(views).sum().backward()
    assert objective.log_scale.grad.abs() > 0
    with torch.no_grad():
        objective.log_scale.fill_(100.0)
    assert objective.scale.item() == pytest.approx(100.0)
    assert torch.autograd.grad(objective.scale, objective.log_scale)[0] != 0


def test_vectors_in_half_precision_are_compared_in_float32():
    views = random_views(dtype=torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        ours = InfoNCE()(views)
    assert ours.dtype == torch.float32
    exact = InfoNCE()(views._replace(vectors=views.vectors.detach().double()))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'temperature': 0.0}, 'temperature is 0'),
        ({'temperature': 0.001, 'learn_temperature': True}, 'start it there'),
        ({'directions': ['d2q']}, 'name q2d'),
        ({'directions': ['q2d', 'q2d']}, 'each once'),
        ({'directions': ['q2d', 'q2q'], 'symmetric': True}, 'do not hold the positive'),
        ({'hardness_strength': -1.0}, 'hardness_strength'),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        InfoNCE(**options)


def test_a_batch_without_positives_is_refused_by_name():
    with pytest.raises(ValueError, match='InfoNCE needs a text in the role `positive`'):
        InfoNCE()(random_views(has_positive=False))


def test_an_example_with_two_anchors_is_refused():
    views = random_views()
    with pytest.raises(ValueError, match='2 texts in the role of the anchor'):
        InfoNCE()(views._replace(role=torch.where(views.example == 3, ANCHOR, views.role)))
