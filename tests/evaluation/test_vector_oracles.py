"""Figures equal those of scikit-learn, sentence-transformers and mteb, where these libraries are installed."""

import math

import numpy as np
import pytest
import torch

from xlabml.evaluation import (
    evaluate_similarity,
    k_means,
    make_relevance,
    rank_relevant,
    ranking_figures,
    separate,
    v_measure,
)
from xlabml.evaluation.bootstrap import paired_interval
from xlabml.evaluation.probes import logistic_regression, macro_f1
from xlabml.evaluation.similarity import _found


def case(n_queries=40, n_documents=60, seed=0):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(n_queries, n_documents)).astype(np.float32)
    relevant = [
        dict(zip(generator.permutation(n_documents)[: generator.integers(1, 5)].tolist(), (1.0, 3.0, 2.0, 1.0)))
        for _ in range(n_queries)
    ]
    return scores, relevant


def our_figures(scores, relevant, at=(1, 5, 10)):
    relevance = make_relevance(relevant)
    ranks = rank_relevant(lambda some: scores[some], relevance, scores.shape[1])
    return {name: values.mean() for name, values in ranking_figures(ranks, relevance, at).items()}


def test_search_equals_pytrec_eval():
    trec = pytest.importorskip('pytrec_eval', reason='needs pytrec_eval, which mteb installs')
    scores, relevant = case()
    judged = {f'q{q}': {f'd{d}': int(gain) for d, gain in some.items()} for q, some in enumerate(relevant)}
    run = {f'q{q}': {f'd{d}': float(value) for d, value in enumerate(row)} for q, row in enumerate(scores)}
    measures = {f'{name}.1,5,10' for name in ('ndcg_cut', 'map_cut', 'recall', 'P')}
    found = trec.RelevanceEvaluator(judged, measures).evaluate(run)
    ours = our_figures(scores, relevant)
    for k in (1, 5, 10):
        for name, theirs in (('ndcg', 'ndcg_cut'), ('map', 'map_cut'), ('recall', 'recall'), ('precision', 'P')):
            mean = np.mean([one[f'{theirs}_{k}'] for one in found.values()])
            assert ours[f'{name}_at_{k}'] == pytest.approx(mean, abs=1e-9)


def test_search_equals_sentence_transformers():
    evaluation = pytest.importorskip('sentence_transformers.sentence_transformer.evaluation')
    scores, relevant = case()
    relevant = [dict.fromkeys(some, 1.0) for some in relevant]
    evaluator = evaluation.InformationRetrievalEvaluator(
        {f'q{q}': '' for q in range(40)},
        {f'd{d}': '' for d in range(60)},
        {f'q{q}': {f'd{d}' for d in some} for q, some in enumerate(relevant)},
        mrr_at_k=[5, 10], ndcg_at_k=[5, 10], accuracy_at_k=[5], precision_recall_at_k=[5, 10], map_at_k=[5, 10],
    )  # fmt: skip
    lists = [[{'corpus_id': f'd{d}', 'score': float(value)} for d, value in enumerate(row)] for row in scores]
    theirs = evaluator.compute_metrics(lists)
    ours = our_figures(scores, relevant)
    for k in (5, 10):
        for name, kind in (
            ('mrr', 'mrr@k'),
            ('ndcg', 'ndcg@k'),
            ('map', 'map@k'),
            ('precision', 'precision@k'),
            ('recall', 'recall@k'),
        ):
            assert ours[f'{name}_at_{k}'] == pytest.approx(theirs[kind][k], abs=1e-9)


def test_separation_equals_scikit_learn_and_sentence_transformers():
    metrics = pytest.importorskip('sklearn.metrics')
    generator = np.random.default_rng(0)
    scores = generator.normal(size=200)
    labels = (scores + generator.normal(size=200)) > 0.3
    found = separate(scores, labels)
    assert found.ap == pytest.approx(metrics.average_precision_score(labels, scores))
    tied = scores.round(1)
    assert separate(tied, labels).ap == pytest.approx(metrics.average_precision_score(labels, tied))
    assert found.f1 == pytest.approx(metrics.f1_score(labels, scores >= found.f1_threshold))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, scores >= found.accuracy_threshold))
    evaluation = pytest.importorskip('sentence_transformers.sentence_transformer.evaluation')
    theirs = evaluation.BinaryClassificationEvaluator
    f1, _, _, threshold = theirs.find_best_f1_and_threshold(scores, labels, True)
    assert (found.f1, found.f1_threshold) == pytest.approx((f1, threshold))
    accuracy, threshold = theirs.find_best_acc_and_threshold(scores, labels, True)
    assert (found.accuracy, found.accuracy_threshold) == pytest.approx((accuracy, threshold))


def test_clusters_equal_scikit_learn():
    cluster = pytest.importorskip('sklearn.cluster')
    metrics = pytest.importorskip('sklearn.metrics')
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 6, 300)
    vectors = 2.5 * np.eye(6)[labels] + generator.normal(size=(300, 6))
    random = generator.integers(0, 6, 300)
    for clusters in (random, labels, k_means(vectors, 6)):
        parts = metrics.homogeneity_completeness_v_measure(labels, clusters)
        found = v_measure(labels, clusters)
        assert (found['homogeneity'], found['completeness'], found['v_measure']) == pytest.approx(parts)
    theirs = cluster.KMeans(6, n_init=10, random_state=0).fit(vectors)

    def cost(clusters):
        return sum(np.square(vectors[clusters == c] - vectors[clusters == c].mean(0)).sum() for c in range(6))

    assert cost(k_means(vectors, 6, n_starts=10)) == pytest.approx(theirs.inertia_, rel=0.01)


def test_the_probe_equals_scikit_learn():
    linear = pytest.importorskip('sklearn.linear_model')
    metrics = pytest.importorskip('sklearn.metrics')
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 200)
    vectors = np.eye(5)[labels] + generator.normal(size=(200, 5))
    for strength in (0.1, 1.0, 10.0):
        weight, bias, _ = logistic_regression(vectors, labels, strength)
        theirs = linear.LogisticRegression(C=strength, max_iter=2000, tol=1e-10).fit(vectors, labels)
        np.testing.assert_allclose(weight, theirs.coef_, atol=2e-4)
        np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-4)
    predicted = theirs.predict(vectors)
    assert macro_f1(labels, predicted) == pytest.approx(metrics.f1_score(labels, predicted, average='macro'))


def test_similarity_equals_scipy():
    stats = pytest.importorskip('scipy.stats')
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 80, 6)).astype(np.float32)
    scores = generator.integers(0, 6, 80) / 5  # ties
    found = evaluate_similarity(lambda texts: {'a': a, 'b': b}[texts[0]], ['a'], ['b'], scores)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    kinds = {'cosine': cosine, 'dot': (a * b).sum(1), 'euclidean': -np.linalg.norm(a - b, axis=1)}
    for kind, values in kinds.items():
        assert found[f'{kind}_spearman'] == pytest.approx(stats.spearmanr(values, scores).statistic, abs=1e-4)
        assert found[f'{kind}_pearson'] == pytest.approx(stats.pearsonr(values, scores).statistic, abs=1e-6)


def test_bitext_equals_sentence_transformers():
    evaluation = pytest.importorskip('sentence_transformers.sentence_transformer.evaluation')
    generator = np.random.default_rng(0)
    a = generator.normal(size=(60, 6)).astype(np.float32)
    b = a + generator.normal(size=a.shape).astype(np.float32)

    class Model:
        model_card_data = None

        def encode(self, texts, **_):
            return list(torch.from_numpy(a if texts[0].startswith('a') else b))

    theirs = evaluation.TranslationEvaluator(
        [f'a{i}' for i in range(60)], [f'b{i}' for i in range(60)], write_csv=False
    )
    theirs.store_metrics_in_model_card_data = lambda *_: None
    found = theirs(Model())
    hashes = np.arange(60)
    assert _found(a, b, hashes, 'cosine') == pytest.approx(found['src2trg_accuracy'])
    assert _found(b, a, hashes, 'cosine') == pytest.approx(found['trg2src_accuracy'])


def test_intervals_equal_scipy():
    stats = pytest.importorskip('scipy.stats')
    generator = np.random.default_rng(0)
    a = generator.normal(size=200)
    b = a - 0.1 + 0.2 * generator.normal(size=200)
    found = paired_interval(torch.from_numpy(a), torch.from_numpy(b), n_draws=10_000)
    theirs = stats.bootstrap((a - b,), np.mean, method='percentile', n_resamples=10_000, rng=generator)
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval, abs=0.002)
    assert not math.isnan(found.value)


def test_bm25_equals_bm25s():
    bm25s = pytest.importorskip('bm25s')
    from xlabml.bm25 import BM25, split_words

    generator = np.random.default_rng(0)
    words = [f'w{i}' for i in range(50)]
    texts = [' '.join(generator.choice(words, generator.integers(1, 40))) for _ in range(80)]
    theirs = bm25s.BM25(method='lucene', k1=1.5, b=0.75)
    theirs.index([split_words(text) for text in texts], show_progress=False)
    ours = BM25(texts)
    for query in texts[:10]:
        once = sorted(set(split_words(query)))
        np.testing.assert_allclose(ours.scores([' '.join(once)])[0], theirs.get_scores(once), rtol=1e-5, atol=1e-5)
