"""Pairs scored by a classifier of two texts."""

import functools
import math

import pytest
import torch

from xlabml.errors import SettingsError
from xlabml.heads import SequenceClassifier
from xlabml.pipelines import TextClassifier
from xlabml.pipelines.framing import Framing
from xlabml.pipelines.reranking import check_scores, pair_scores
from xlabml.tokenizer import Tokenizer, train_tokenizer
from xlabml.transformer import Transformer

PAIRS = [('the cat', 'a mat'), ('a dog', 'the dog sat on the mat'), ('the cat', 'the cat sat')]
JOINED = Framing('joined', ('text', 'pair'), ('query', 'text'), False, (0.5, 0.5))


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp('tokenizer') / 'tiny.model'
    train_tokenizer(['the cat sat on the mat', 'a dog sat on a cat', 'the mat'] * 20, path, 300)
    return Tokenizer.load(path)


def make(tokenizer, classes, task='single-label', framing=JOINED):
    torch.manual_seed(0)
    trunk = functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2, causal=False)
    network = SequenceClassifier.build(len(tokenizer), 16, classes, task, trunk=trunk).eval()
    with torch.no_grad():
        network.head.output.weight.normal_()
    return TextClassifier(network, tokenizer, framing)


def test_the_score_is_the_log_odds_of_the_second_class(tokenizer):
    classifier = make(tokenizer, ['0', '1'])
    said = classifier.predict(PAIRS)
    expected = [math.log(one.probabilities['1'] / one.probabilities['0']) for one in said]
    assert pair_scores(classifier, PAIRS) == pytest.approx(expected)
    assert len(set(expected)) == len(PAIRS)


def test_the_score_of_a_regression_is_its_number(tokenizer):
    classifier = make(tokenizer, None, 'regression')
    assert pair_scores(classifier, PAIRS) == [one.number for one in classifier.predict(PAIRS)]


@pytest.mark.parametrize(
    ('classes', 'framing', 'message'),
    [
        (['a', 'b', 'c'], JOINED, 'the 3 classes a, b, c'),
        (['0', '1'], Framing(), r'reads 1 \(text\); train one with conf/cross_encoder\.yaml'),
    ],
)
def test_what_has_no_score_of_a_pair_is_refused(tokenizer, classes, framing, message):
    with pytest.raises(SettingsError, match=message):
        check_scores(make(tokenizer, classes, framing=framing))
