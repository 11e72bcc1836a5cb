"""Mistakes and probable label errors of results, by hand."""

import pytest
import torch

from xlabml.evaluation.class_errors import Mistake, confident_mistakes, probable_label_errors
from xlabml.evaluation.class_results import ClassResults


def make_results(task, outputs, labels, classes=('x', 'y')):
    n = len(labels)
    ids = tuple(map(str, range(n)))
    return ClassResults(task, classes, ids, ids, torch.tensor(labels), None, {'classifier': torch.tensor(outputs)})


def test_the_most_confident_mistakes_come_first():
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]], dtype=torch.float64)
    results = make_results('single-label', probs.log().tolist(), [0, 0, 0, 1])
    assert confident_mistakes(results, 9) == [
        Mistake(1, 'x', 'y', pytest.approx(0.8)),
        Mistake(2, 'x', 'y', pytest.approx(0.6)),
    ]
    assert len(confident_mistakes(results, 1)) == 1


def test_a_label_is_doubted_where_another_class_is_as_probable_as_it_is_for_its_own():
    # Of x the mean probability is .6, of y .75: .8 is enough for y, .6 is not.
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.9, 0.1], [0.25, 0.75]], dtype=torch.float64)
    results = make_results('single-label', probs.log().tolist(), [0, 0, 0, 0, 1])
    assert probable_label_errors(results) == [Mistake(1, 'x', 'y', pytest.approx(0.8))]


def test_labels_of_several_and_numbers_are_listed_by_how_far_they_are_off():
    several = make_results('multi-label', [[3.0, -3.0], [-1.0, -2.0]], [[1.0, 1.0], [1.0, 0.0]])
    found = confident_mistakes(several, 9)
    assert [(one.place, one.label, one.predicted) for one in found] == [(0, 'y', 'not y'), (1, 'x', 'not x')]
    numbers = make_results('regression', [[1.0], [5.0]], [[2.0], [1.5]], ())
    assert confident_mistakes(numbers, 1) == [Mistake(1, '1.5', '5', 3.5)]
    assert probable_label_errors(numbers) == probable_label_errors(several) == []
