"""The gate: fitted to the log loss, never worse than one weight for all, and the mixture sums to one."""

import numpy as np
import pytest

from xlabml.errors import DataError
from xlabml.ngram import Documents, Gate, KneserNey, Known, Mixture, count_ngrams, fit_gate, open_ngrams

ORDER = 3


def known_of(matched, draw):
    n = len(matched)
    return Known(matched, draw.integers(0, 50, n).astype(np.uint32), draw.random(n), draw.random(n) * 3)


def loss(model, ngram, share):
    return -np.log((1 - share) * model + share * ngram).sum()


@pytest.fixture(scope='module')
def fitted():
    """N-grams that are right where two tokens are known, and wrong elsewhere."""
    draw = np.random.default_rng(0)
    known = known_of(draw.integers(0, ORDER, 3000), draw)
    is_good = known.matched == 2
    ngram = np.where(is_good, 0.6, 0.1)
    model = np.where(draw.random(3000) < 0.1, 0.7, 0.2)
    return model, ngram, known, fit_gate(model, ngram, known, ORDER)


def test_the_gate_learns_where_n_grams_are_right(fitted):
    *_, known, gate = fitted
    share = gate.share(known)
    assert share[known.matched == 2].min() > 0.7
    assert share[known.matched != 2].max() < 0.05
    assert gate.n_tokens == 3000


def test_the_constant_is_the_best_one(fitted):
    model, ngram, _, gate = fitted
    tried = np.linspace(0.001, 0.999, 999)
    best = tried[np.argmin([loss(model, ngram, share) for share in tried])]
    assert abs(gate.constant - best) < 2e-3
    assert loss(model, ngram, gate.constant) < min(loss(model, ngram, 0), loss(model, ngram, 1))


def test_the_gate_is_no_worse_than_the_constant_where_nothing_tells(fitted):
    draw = np.random.default_rng(1)
    known = known_of(draw.integers(0, ORDER, 2000), draw)
    model, ngram = draw.random((2, 2000)) * 0.98 + 0.01
    gate = fit_gate(model, ngram, known, ORDER)
    assert loss(model, ngram, gate.share(known)) <= loss(model, ngram, gate.constant) + 1e-6


def test_nothing_is_learned_of_a_number_of_known_tokens_that_never_was():
    draw = np.random.default_rng(0)
    known = known_of(np.full(500, 2), draw)
    gate = fit_gate(np.full(500, 0.1), draw.random(500), known, ORDER)
    assert gate.weights[0] == gate.weights[1] != gate.weights[2]


@pytest.fixture(scope='module')
def counted(tmp_path_factory):
    folder = tmp_path_factory.mktemp('n') / 'grams'
    draw = np.random.default_rng(0)
    texts = [draw.integers(4, 10, 12) for _ in range(20)]
    count_ngrams(Documents(texts, 10, 1, 2, 'ours'), folder, ORDER, held_out=[np.array([5, 6]), np.array([7])])
    return open_ngrams(folder)


def test_the_mixture_sums_to_one_and_is_that_of_a_batch(counted):
    draw = np.random.default_rng(0)
    mixture = Mixture(KneserNey(counted), Gate(draw.normal(size=Gate.n_features(ORDER)), 0.3, 1))
    inputs = np.array([1, 5, 6, 5, 1, 9])
    targets = np.array([5, 6, 5, 2, 9, 2])
    model = draw.dirichlet(np.ones(10), size=6)
    entropy = -(model * np.log(model)).sum(1)
    found = mixture.score(inputs, targets, np.array([0, 4]), model[np.arange(6), targets], entropy)
    for i, begin in enumerate([0, 0, 0, 0, 4, 4]):
        following = mixture.next(inputs[begin : i + 1].tolist(), model[i], entropy[i])
        np.testing.assert_allclose(following.sum(), 1)
        np.testing.assert_allclose(found.gated[i], following[targets[i]])
    np.testing.assert_allclose(found.constant, 0.7 * model[np.arange(6), targets] + 0.3 * found.ngram)


def test_the_share_is_logistic_in_what_is_known():
    known = Known(np.array([0, 2]), np.array([0, 7], np.uint32), np.array([1, 0.25]), np.array([2.0, 0.5]))
    gate = Gate(np.array([-1, 9, 0.5, 0.1, -2, 0.3]), 0.5, 1)
    sums = np.array([-1 + 0.3 * 2, 0.5 + 0.1 * np.log(8) - 2 * np.log(0.25) + 0.3 * 0.5])
    np.testing.assert_allclose(gate.share(known), 1 / (1 + np.exp(-sums)))


def test_gates_and_held_out_texts_are_kept(counted):
    assert [text.tolist() for text in counted.held_out.texts()] == [[5, 6], [7]]
    gate = Gate(np.arange(Gate.n_features(ORDER)) / 7, 0.25, 9)
    counted.write_gate('a1', gate)
    again = open_ngrams(counted.folder).read_gate('a1')
    assert again.weights.tolist() == gate.weights.tolist()
    assert (again.constant, again.n_tokens) == (0.25, 9)
    assert counted.read_gate('b2') is None


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"order": 3, "weights": [1], "constant": 0.5, "n_tokens": 9}', 'weights has 1 numbers'),
        ('{"order": 5, "weights": [], "constant": 0.5, "n_tokens": 9}', 'order is 5'),
        ('{"order": 3, "weights": [0,0,0,0,0,NaN], "constant": 0.5, "n_tokens": 9}', 'not all finite'),
        ('{"order": 3, "weights": [0,0,0,0,0,0], "constant": 2, "n_tokens": 9}', 'constant is 2'),
        ('{"order"', 'broken'),
    ],
)
def test_a_damaged_gate_is_refused(counted, text, message):
    path = counted.folder / 'gate-bad.json'
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        counted.read_gate('bad')
