"""Evaluators of vectors have hand-worked figures, the same for any batches and ranks, ties against the model."""

import json
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from xlabml import settings
from xlabml.batches import ANCHOR, IGNORED, NEGATIVE, POSITIVE, Batch, PairTargets
from xlabml.evaluation import (
    Bitext,
    Clustering,
    Evaluator,
    Geometry,
    LinearProbe,
    Neighbours,
    PairClassification,
    Reranking,
    Retrieval,
    Similarity,
    Texts,
    TripletAccuracy,
    evaluate_search,
    evaluate_similarity,
    k_means,
    make_relevance,
    v_measure,
)
from xlabml.evaluation.geometry import describe_shape, find_collapse
from xlabml.evaluation.probes import logistic_regression, macro_f1
from xlabml.evaluation.similarity import draw_triplets, separate

X, Y, Z, MINUS = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [-1.0, 0, 0]
HALF = [0.5, math.sqrt(0.75), 0]


def groups(examples, hashes=None, scores=None, labels=None):
    """Texts of written-out groups: anchor, positive, negatives."""
    rows = [(i, min(place, NEGATIVE), vector) for i, group in enumerate(examples) for place, vector in enumerate(group)]
    return Texts(
        vectors=np.array([row[2] for row in rows], np.float32).reshape(len(rows), -1),
        example=np.array([row[0] for row in rows], np.int64),
        role=np.array([row[1] for row in rows], np.int64),
        text_hash=np.arange(len(rows)) if hashes is None else np.array(hashes),
        score=None if scores is None else np.array(scores, np.float32),
        label=None if labels is None else np.array(labels, np.int64),
    )


def random_texts(n_groups=40, n_negatives=1, d=8, seed=0, n_classes=4):
    generator = np.random.default_rng(seed)
    n_each = 2 + n_negatives
    base = generator.normal(size=(n_groups, d)).repeat(n_each, 0)
    return Texts(
        vectors=(base + generator.normal(size=base.shape)).astype(np.float32),
        example=np.arange(n_groups).repeat(n_each),
        role=np.tile([ANCHOR, POSITIVE] + [NEGATIVE] * n_negatives, n_groups),
        text_hash=generator.integers(-(2**62), 2**62, n_groups * n_each),
        score=generator.random(n_groups * n_each, dtype=np.float32),
        label=generator.integers(0, n_classes, n_groups),
        document=np.arange(n_groups).repeat(n_each),
    )


class Outputs(NamedTuple):
    """Those of a task that embeds."""

    vectors: torch.Tensor


EVERY = (
    *(Retrieval, Reranking, Similarity, TripletAccuracy, PairClassification, Bitext, Clustering, LinearProbe),
    *(Neighbours, Geometry),
)


def as_batch(texts, which):
    """Some groups as a batch, with a segment of padding at its end."""
    kept = np.isin(texts.example, which)
    number = {group: place for place, group in enumerate(which)}
    example = torch.tensor([*(number[one] for one in texts.example[kept].tolist()), -1])

    def padded(values):
        return torch.from_numpy(np.concatenate([values[kept], values[:1]]))

    targets = PairTargets(padded(texts.score), torch.from_numpy(texts.label[which]), None, padded(texts.text_hash), 0)
    batch = Batch(
        torch.zeros(1, 1, dtype=torch.long), None, padded(texts.document), example, padded(texts.role), targets, 1.0, 0
    )
    return Outputs(padded(texts.vectors)), batch


class OneRank:
    """Gathers what there is."""

    def everything(self, values):
        return [values]

    def total(self, values):
        return values


class Ranks(OneRank):
    """Gathers what was put by for the other ranks."""

    def __init__(self, others):
        self.others = others

    def everything(self, values):
        return [*self.others, values]


class Keeps(OneRank):
    """Notes what a rank has."""

    def everything(self, values):
        self.values = values
        return [values]


@pytest.mark.parametrize('kind', EVERY)
def test_batches_and_ranks_change_no_digit(kind):
    texts = random_texts()
    texts = texts._replace(label=texts.label % 2 if kind is PairClassification else texts.label)
    whole = kind()
    whole.start()
    whole.update(*as_batch(texts, np.arange(40)))
    expected = whole.result(OneRank())
    assert list(expected) == whole.names()
    assert whole.n_counted == 40

    other = kind()
    other.start()
    for some in ([39, 3, 8], [], list(range(20, 39))):
        other.update(*as_batch(texts, np.array(some, np.int64)))
    keeps = Keeps()
    other.result(keeps)
    ours = kind()
    for _ in range(2):  # an evaluator is used again and again
        ours.start()
        for some in ([0, 1, 2, 4, 5, 6, 7], list(range(9, 20))):
            ours.update(*as_batch(texts, np.array(some, np.int64)))
        assert ours.result(Ranks([keeps.values])) == expected


@pytest.mark.parametrize('kind', EVERY)
def test_a_split_without_groups_has_no_figures(kind):
    evaluator = kind()
    evaluator.start()
    found = evaluator.result(OneRank())
    assert list(found) == evaluator.names()
    assert all(math.isnan(value) for value in found.values())
    assert evaluator.n_counted == 0


def test_search_counts_each_text_once():
    # Queries 0 and 2 are equal texts, so both answers are right for it; documents 1 and 7 are equal.
    texts = groups([[X, HALF], [Y, Y], [X, Z], [MINUS, HALF]], [0, 1, 2, 3, 0, 5, 6, 1])
    found = Retrieval([1, 2, 3], ['recall', 'mrr']).figures(texts)
    # X: HALF .5, then Y and Z at 0: Z relevant and so last of the two. Y: itself. MINUS: Y and Z at 0, HALF at -.5.
    assert found['recall_at_1'] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found['recall_at_3'] == pytest.approx(1.0)
    assert found['mrr_at_3'] == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert Retrieval().count(texts) == 3


def test_a_collapsed_model_finds_nothing():
    texts = random_texts()
    texts = texts._replace(vectors=np.ones_like(texts.vectors))
    assert set(Retrieval().figures(texts).values()) == {0.0}
    assert Bitext().figures(texts)['bitext_accuracy'] == 0
    assert TripletAccuracy().figures(texts) == {'triplet_accuracy': 0.0}
    assert math.isnan(Similarity().figures(texts)['cosine_spearman'])


def test_reranking_looks_at_a_groups_own_candidates():
    texts = groups([[X, HALF, X, Y], [X, X, Y], [X, X]])  # the last has nothing to rank
    assert Reranking([10], ['mrr']).figures(texts) == {'reranking_mrr_at_10': pytest.approx((1 / 2 + 1) / 2)}


def test_any_callable_can_be_scored():
    known = {'a': X, 'b': HALF, 'c': Y}

    def encode(texts):
        return np.array([known[text] for text in texts], np.float32)

    found = evaluate_search(encode, ['a', 'c'], ['a', 'b', 'c'], make_relevance([[1], [2]]), [1], ['recall'])
    assert found['recall_at_1'].tolist() == [0, 1]
    scores = np.array([1.0, 0.5, 0.0])
    assert evaluate_similarity(encode, 'aab', 'abc', scores)['cosine_pearson'] < 0.5


def test_correlation_is_over_the_whole_split():
    texts = groups([[X, X], [X, HALF], [X, Y], [X, MINUS]], scores=[0, 3, 0, 1, 0, 2, 0, 0])
    # Ranks 4, 3, 2, 1 against 4, 2, 3, 1.
    found = Similarity(['cosine', 'euclidean']).figures(texts)
    assert found['cosine_spearman'] == pytest.approx(0.8)
    assert found['euclidean_spearman'] == pytest.approx(0.8)
    assert found['cosine_pearson'] == pytest.approx(np.corrcoef([1, 0.5, 0, -1], [3, 1, 2, 0])[0, 1])


def test_triplets_are_those_of_the_groups():
    texts = groups([[X, HALF, Y, X], [X, X, X]])
    assert TripletAccuracy().figures(texts) == {'triplet_accuracy': pytest.approx(1 / 3)}


def test_drawn_triplets_are_of_their_classes():
    labels = np.array([3, 5, 3, 9, 5, 3])  # 9 is alone
    seen = set()
    for seed in range(40):
        anchor, positive, negative = draw_triplets(labels, seed)
        assert anchor.tolist() == [0, 1, 2, 4, 5]
        assert (labels[anchor] == labels[positive]).all()
        assert (anchor != positive).all()
        assert (labels[anchor] != labels[negative]).all()
        seen |= set(zip(anchor.tolist(), positive.tolist(), negative.tolist()))
    assert {(0, 2), (0, 5)} == {(a, p) for a, p, _ in seen if a == 0}
    assert {1, 3, 4} == {n for a, _, n in seen if a == 0}
    assert len(draw_triplets(np.zeros(3, np.int64))[0]) == 0


def test_separation_by_hand():
    found = separate(np.array([0.9, 0.8, 0.7, 0.7, 0.1]), np.array([True, False, True, True, False]))
    # At .9: 1 of 1; at .8: 1 of 2; at .7, both at once: 3 of 4.
    assert found.ap == pytest.approx((1 + 2 * 3 / 4) / 3)
    assert found.f1 == pytest.approx(6 / 7)
    assert found.f1_threshold == pytest.approx(0.4)
    assert found.accuracy == pytest.approx(4 / 5)
    assert found.accuracy_threshold == pytest.approx(0.4)
    none = separate(np.array([0.9, 0.1, 0.2]), np.array([False, True, False]))
    assert none.accuracy == pytest.approx(2 / 3)
    assert none.accuracy_threshold == math.inf
    assert math.isnan(separate(np.array([0.5]), np.array([True])).ap)


def test_translations_are_looked_for_both_ways():
    texts = groups([[X, X], [HALF, Y], [Y, HALF]])
    # X finds X; HALF finds HALF, wrong; Y finds Y, wrong. Back: the same.
    assert Bitext().figures(texts)['bitext_a_to_b'] == pytest.approx(1 / 3)
    same = groups([[X, X], [X, X]], [0, 1, 0, 1])  # equal texts are one
    assert Bitext().figures(same)['bitext_accuracy'] == 1


def test_v_measure_by_hand():
    assert v_measure(np.array([0, 0, 1, 1]), np.array([7, 7, 3, 3]))['v_measure'] == pytest.approx(1)
    assert v_measure(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))['v_measure'] == pytest.approx(0)
    # One cluster: complete, and not homogeneous at all.
    assert v_measure(np.array([0, 0, 1, 1]), np.zeros(4, np.int64)) == {
        'v_measure': 0, 'homogeneity': 0, 'completeness': 1,
    }  # fmt: skip
    half = v_measure(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]))
    assert half['homogeneity'] == pytest.approx(1)
    assert half['completeness'] == pytest.approx(math.log(2) / (1.5 * math.log(2)))


def test_k_means_finds_what_is_apart():
    generator = np.random.default_rng(0)
    centers = 10 * np.eye(5)
    labels = generator.integers(0, 5, 200)
    clusters = k_means(centers[labels] + generator.normal(size=(200, 5)), 5)
    assert v_measure(labels, clusters)['v_measure'] == pytest.approx(1)
    assert (k_means(np.zeros((4, 2)), 3) < 3).all()  # all in one place
    with pytest.raises(ValueError, match='2 vectors cannot make 3 clusters'):
        k_means(np.zeros((2, 2)), 3)


def test_probes_tell_classes_that_are_apart_and_only_those():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    told = groups([[vector] for vector in (3 * np.eye(4)[labels] + generator.normal(size=(300, 4)))], labels=labels)
    blind = told._replace(vectors=generator.normal(size=(300, 4)).astype(np.float32))
    for kind in (LinearProbe, Neighbours):
        first = kind().names()[0]
        assert kind().figures(told)[first] > 0.85
        assert kind().figures(blind)[first] < 0.5


def test_a_probe_has_not_seen_what_it_predicts():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(60, 80)).astype(np.float32)  # more directions than texts: any labels can be fitted
    labels = generator.integers(0, 2, 60)
    texts = groups([[vector] for vector in vectors], labels=labels)
    twice = Texts(*(np.concatenate([part, part]) if part is not None else None for part in texts))
    twice = twice._replace(example=np.arange(120))  # every text is there twice, under one hash
    for kind in (LinearProbe, lambda: Neighbours(1)):
        assert next(iter(kind().figures(twice).values())) < 0.75


@pytest.mark.parametrize('kind', [TripletAccuracy, PairClassification, Clustering, LinearProbe, Neighbours])
def test_texts_without_a_class_are_left_out(kind):
    texts = random_texts(n_negatives=0, n_classes=2)
    known = texts.label.copy()
    known[30:] = IGNORED
    is_kept = texts.example < 30
    kept = Texts(*(None if part is None else part[is_kept] for part in texts._replace(label=None)))
    found = kind().figures(texts._replace(label=known))
    assert found == kind().figures(kept._replace(label=texts.label[:30]))
    assert all(math.isnan(value) for value in kind().figures(texts._replace(label=known * 0 + IGNORED)).values())


def test_macro_f1_by_hand():
    # Class 0: 1 of 2 found, 1 predicted; class 1: 1 of 1 found, 2 predicted.
    assert macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1])) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_logistic_regression_is_where_its_gradient_is_zero():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 3))
    y = generator.integers(0, 3, 50)
    weight, bias, classes = logistic_regression(x, y, strength=0.7)
    logits = x @ weight.T + bias
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gap = prob - np.eye(3)[y]
    np.testing.assert_allclose(gap.T @ x + weight / 0.7, 0, atol=1e-5)
    np.testing.assert_allclose(gap.sum(0), 0, atol=1e-5)
    assert classes.tolist() == [0, 1, 2]
    with torch.inference_mode():  # as in a validation
        np.testing.assert_allclose(logistic_regression(x, y, strength=0.7)[0], weight)


def test_geometry_by_hand():
    shape = describe_shape(np.array([X, Y, Z, MINUS], np.float32))
    # Cosines: five pairs at 0, one at -1.
    assert shape['mean_cosine'] == pytest.approx(-1 / 6)
    assert shape['uniformity'] == pytest.approx(math.log((5 * math.exp(-4) + math.exp(-8)) / 6))
    share = np.array([math.sqrt(2), 1, 1]) / (2 + math.sqrt(2))
    assert shape['effective_rank'] == pytest.approx(math.exp(-(share * np.log(share)).sum()))
    found = Geometry().figures(groups([[X, HALF], [Y, Y]]))
    assert found['alignment'] == pytest.approx(0.5)
    assert found['collapse'] == 0


def test_a_collapse_is_named():
    generator = np.random.default_rng(0)

    def collapse(vectors):
        evaluator = Geometry()
        figures = evaluator.figures(groups([[vector] for vector in vectors]))
        assert figures['collapse'] == (evaluator.collapsed is not None)
        return evaluator.collapsed

    assert collapse(generator.normal(size=(50, 8))) is None
    assert 'point one way: the mean cosine of 50' in collapse(1 + 0.05 * generator.normal(size=(50, 8)))
    assert 'lie on a line' in collapse(generator.normal(size=(50, 1)) * np.ones(8))
    assert 'not finite' in collapse(np.full((50, 8), math.nan))
    assert 'lie on a line' in collapse(np.zeros((50, 8)))
    assert find_collapse({'mean_cosine': 1.0, 'effective_rank': 1.0}, 8, 3) is None


@pytest.mark.parametrize(
    ('kind', 'field', 'message'),
    [
        (Similarity, 'score', 'needs scores of pairs'),
        (PairClassification, 'label', 'needs labels of pairs'),
        (Clustering, 'label', 'needs labels'),
        (LinearProbe, 'label', 'LinearProbe needs labels'),
        (Neighbours, 'label', 'Neighbours needs labels'),
    ],
)
def test_what_an_evaluator_lacks_is_named(kind, field, message):
    with pytest.raises(ValueError, match=message):
        kind().figures(random_texts()._replace(**{field: None}))


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: Retrieval(at=[0]), 'at is'),
        (lambda: Retrieval(metrics=[]), 'no metrics'),
        (lambda: LinearProbe(n_folds=1), 'n_folds is 1'),
        (lambda: Neighbours(k=0), 'k is 0'),
    ],
)
def test_arguments_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize('kind', EVERY)
def test_a_checkpoint_can_hold_an_evaluator(kind):
    written = settings.describe(kind())
    assert written['class_path'] == f'xlabml.evaluation.{kind.__name__}'
    built = settings.build(json.loads(json.dumps(written)), Evaluator)
    assert type(built) is kind
    assert settings.describe(built) == written
