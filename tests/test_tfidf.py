"""TF-IDF features and the linear model over them: by hand, and equal to scikit-learn's own where it is installed."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xlabml.evaluation.linear import fit_linear
from xlabml.tfidf import Tfidf, TfidfModel, TfidfPreference, characters_of, model_of_arrays, words_of

TEXTS = [
    'The cat sees the dog. A cat!',
    'the dog  eats the cat',
    'Ein Hund, café au lait',
    'a dog at the café \n\t lait',
    'x',
    'éé éé dog 12 cat_1',
]


def test_features_of_a_text_are_words_pairs_and_runs_of_characters():
    assert words_of('The cat, a DOG') == ['the', 'cat', 'dog', 'the cat', 'cat dog']
    assert characters_of('ab') == [' a', 'ab', 'b ', ' ab', 'ab ', ' ab ']


def test_weights_are_those_of_the_formula():
    tfidf = Tfidf.of(['aa bb', 'aa'], 10)
    assert tfidf.words == ('aa',)
    rows = tfidf.rows([('aa aa aa bb',)])
    idf = math.log(3 / 3) + 1
    assert tfidf.idf[0] == pytest.approx(idf)
    # Of the block of words there is one feature, of length 1; of the characters all have one count and one frequency.
    assert rows.values[0] == pytest.approx(1)
    assert np.square(rows.values[1:]).sum() == pytest.approx(1)
    assert len(rows.columns) == 1 + len(tfidf.characters)
    two = tfidf.rows([('aa', 'aa')])
    assert two.n_columns == 2 * len(tfidf.idf)
    assert two.columns.max() == len(tfidf.idf) + len(tfidf.idf) - 1


def test_arrays_hold_all_of_a_model_and_refuse_what_does_not_fit():
    tfidf = Tfidf.of(TEXTS, 40)
    n = len(tfidf.idf)
    generator = np.random.default_rng(0)
    model = TfidfModel(
        tfidf, generator.standard_normal((3, n)).astype(np.float32), generator.standard_normal(3).astype(np.float32)
    )
    arrays = model.arrays()
    again = TfidfModel.of_arrays(arrays)
    texts = [(text,) for text in TEXTS]
    assert np.array_equal(again.logits(texts), model.logits(texts))
    assert model.logits([]).shape == (0, 3)
    with pytest.raises(ValueError, match='do not fit each other'):
        TfidfModel.of_arrays({**arrays, 'idf': arrays['idf'][1:]})


def make_labelled(n=120, seed=0):
    generator = np.random.default_rng(seed)
    words = ['cat', 'dog', 'café', 'lait', 'Hund', 'sees', 'über', '12', 'x']
    texts = [' '.join(generator.choice(words, 6)) for _ in range(n)]
    return texts, np.array([(text.count('cat') + 2 * text.count('dog')) % 3 for text in texts])


@pytest.mark.parametrize('n_classes', [2, 3])
def test_probabilities_are_those_of_scikit_learns_own_pipeline(n_classes):
    pytest.importorskip('sklearn')
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    texts, classes = make_labelled()
    classes = classes % n_classes
    options = {'sublinear_tf': True, 'min_df': 2}
    union = make_union(
        TfidfVectorizer(ngram_range=(1, 2), **options),
        TfidfVectorizer(analyzer='char_wb', ngram_range=(2, 5), **options),
    )
    theirs = make_pipeline(union, LogisticRegression(C=10, max_iter=1000, tol=1e-4)).fit(texts, classes)
    ours = fit_linear([(text,) for text in texts], classes, 'single-label', n_classes)
    unseen = [*TEXTS, *make_labelled(20, 1)[0]]
    logits = ours.logits([(text,) for text in unseen])
    probs = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(probs, theirs.predict_proba(unseen), atol=1e-6)


def test_shares_several_labels_and_numbers_are_learned_too():
    pytest.importorskip('sklearn')
    texts, classes = make_labelled()
    fields = [(text,) for text in texts]
    hard = fit_linear(fields, classes, 'single-label', 3)
    shares = np.eye(3, dtype=np.float32)[classes]
    np.testing.assert_allclose(
        fit_linear(fields, shares, 'single-label', 3).logits(fields), hard.logits(fields), atol=1e-5
    )
    several = fit_linear(fields, shares, 'multi-label', 3).logits(fields)
    assert ((several > 0) == (shares > 0)).mean() > 0.9
    counts = np.array([[text.count('cat')] for text in texts], np.float32)
    numbers = fit_linear(fields, counts, 'regression', 1).logits(fields)
    assert np.corrcoef(numbers[:, 0], counts[:, 0])[0, 1] > 0.95
    lone = fit_linear(fields, np.full(len(texts), 1), 'single-label', 3).logits(fields)
    assert (lone.argmax(1) == 1).all()


def make_preferences(n=40):
    """Prompt, A and B of each example, and which is better: the answer with more cats."""
    texts, _ = make_labelled(2 * n)
    fields = [('a prompt', a, b) for a, b in zip(texts[:n], texts[n:])]
    leads = [np.sign(b.count('cat') - a.count('cat')) for _, a, b in fields]
    return fields, np.array(leads, np.int64) + 1


def test_weights_of_answers_are_those_of_the_smallest_penalised_loss():
    pytest.importorskip('scipy')
    pytest.importorskip('sklearn')
    fields, outcomes = make_preferences()
    shares = 0.8 * np.eye(3)[outcomes] + 0.2 / 3
    model = fit_linear(fields, shares.astype(np.float32), 'preference', 3)
    assert isinstance(model, TfidfPreference)

    def dense(texts):
        rows = model.tfidf.rows([(text,) for text in texts])
        found = torch.zeros(len(texts), rows.n_columns, dtype=torch.float64)
        for i, (first, last) in enumerate(zip(rows.starts, rows.starts[1:])):
            found[i, rows.columns[first:last]] = torch.from_numpy(rows.values[first:last])
        return found

    # The definition, by torch's gradients of dense matrices.
    difference = dense([a for _, a, _ in fields]) - dense([b for *_, b in fields])
    parameters = torch.zeros(difference.size(1) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=500, tolerance_grad=1e-9, line_search_fn='strong_wolfe')

    def closure():
        optimizer.zero_grad()
        half = difference @ parameters[:-1] / 2
        logits = torch.stack([half, parameters[-1].expand_as(half), -half], dim=1)
        loss = F.cross_entropy(logits, torch.from_numpy(shares), reduction='sum') + parameters.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(model.weights, parameters[:-1].detach(), atol=1e-3)
    np.testing.assert_allclose(model.log_tie_ratio, parameters[-1:].detach(), atol=1e-3)
    hard = fit_linear(fields, outcomes, 'preference', 3).logits(fields)
    assert (hard.argmax(1) == outcomes).mean() > 0.7
    # No example is a tie: its ratio is small, and finite.
    lone = fit_linear(fields, outcomes // 2 * 2, 'preference', 3)
    assert -20 < lone.log_tie_ratio[0] < -2


def test_exchanged_answers_have_exchanged_logits_to_the_last_bit_also_after_saving():
    generator = np.random.default_rng(0)
    texts = make_labelled(400)[0]
    tfidf = Tfidf.of(texts, 5000)
    weights = (generator.standard_normal(len(tfidf.idf)) * 10 ** generator.uniform(-8, 8, len(tfidf.idf))).astype('f4')
    model = TfidfPreference(tfidf, weights, np.array([-0.7], np.float32))
    fields = [('a prompt', *generator.choice([*texts, ''], 2)) for _ in range(500)]
    logits = model.logits(fields)
    exchanged = model_of_arrays(model.arrays()).logits([(a, b) for _, b, a in reversed(fields)])
    assert np.array_equal(logits, exchanged[::-1, ::-1])
    assert model.logits([]).shape == (0, 3)
    with pytest.raises(ValueError, match='do not fit each other'):
        TfidfPreference.of_arrays({**model.arrays(), 'log_tie_ratio': np.zeros(2, np.float32)})
