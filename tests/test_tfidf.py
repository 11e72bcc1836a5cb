"""TF-IDF features and the linear model over them: by hand, and equal to scikit-learn's own where it is installed."""

import math

import numpy as np
import pytest

from xlabml.evaluation.linear import fit_linear
from xlabml.tfidf import Tfidf, TfidfModel, characters_of, words_of

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
