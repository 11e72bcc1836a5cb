"""Evaluators of classifiers: the same figures for any batches and ranks, fitted where asked, on halves."""

import math

import pytest
import torch
import torch.nn.functional as F

from xlabml.batches import IGNORED, Batch, ClassTargets
from xlabml.evaluation import ClassEvaluator, ExampleOutputs, MultiLabelEvaluator, RegressionEvaluator
from xlabml.evaluation.class_evaluators import majority_figures
from xlabml.heads import Calibration


class OneRank:
    def total(self, values):
        return values

    def everything(self, values):
        return [values]


class Ranks(OneRank):
    """What ranks before this one have."""

    def __init__(self, *others):
        self.others = others

    def everything(self, values):
        return [*self.others, values]


def make_batch(outputs):
    none = torch.zeros(0, dtype=torch.long)
    targets = ClassTargets(outputs.labels, outputs.weights)
    return Batch(torch.zeros(1, 0, dtype=torch.long), None, none, none, none, targets, 1, 0)


def make_outputs(n=120, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, generator=generator)
    labels = torch.multinomial((logits / 2).softmax(-1), 1, generator=generator)[:, 0]
    return ExampleOutputs(logits, labels, torch.ones(n), torch.randperm(n, generator=generator))


def take(outputs, at):
    return ExampleOutputs(*(None if part is None else part[at] for part in outputs))


def evaluate(evaluator, *some, gather=None):
    evaluator.start()
    for outputs in some:
        evaluator.update(outputs, make_batch(outputs))
    return evaluator.result(OneRank() if gather is None else gather)


def same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert right[name] == value or (math.isnan(value) and math.isnan(right[name])), name


def test_the_figures_have_the_names_that_were_said_and_the_values_of_their_functions():
    outputs = make_outputs()
    evaluator = ClassEvaluator()
    figures = evaluate(evaluator, outputs)
    assert list(figures) == evaluator.names()
    assert figures['loss'] == pytest.approx(float(F.cross_entropy(outputs.logits.double(), outputs.labels)))
    assert figures['accuracy'] == pytest.approx(float((outputs.logits.argmax(-1) == outputs.labels).double().mean()))
    assert figures['loss_low'] < figures['loss'] < figures['loss_high']
    assert evaluator.n_counted == 120
    assert evaluator.confusion.sum() == 120


@pytest.mark.parametrize('kind', [ClassEvaluator, MultiLabelEvaluator, RegressionEvaluator])
def test_batches_and_ranks_change_nothing(kind):
    outputs = make_outputs()
    if kind is not ClassEvaluator:
        k = 3 if kind is MultiLabelEvaluator else 1
        outputs = outputs._replace(logits=outputs.logits[:, :k], labels=F.one_hot(outputs.labels, 3)[:, :k].float())
    whole = evaluate(kind(), outputs)
    first = take(outputs, torch.arange(0, 50))
    second = take(outputs, torch.arange(50, 120))
    same(whole, evaluate(kind(), second, first))
    other = kind()
    other.start()
    other.update(second, make_batch(second))
    same(whole, evaluate(kind(), first, gather=Ranks(other._seen)))
    same(whole, evaluate(kind(), outputs, gather=Ranks([])))


@pytest.mark.parametrize('changed', ['weights', 'documents', 'labels'])
def test_examples_without_weight_document_or_class_are_left_out(changed):
    outputs = make_outputs()
    value = {'weights': 0, 'documents': -1, 'labels': IGNORED}[changed]
    padded = outputs._replace(**{changed: getattr(outputs, changed).index_fill(0, torch.tensor([3, 7]), value)})
    kept = torch.tensor([i for i in range(120) if i not in (3, 7)])
    same(evaluate(ClassEvaluator(), take(outputs, kept)), evaluate(ClassEvaluator(), padded))


def test_a_split_without_examples_has_no_figures():
    evaluator = ClassEvaluator(Calibration(3))
    figures = evaluate(evaluator)
    assert list(figures) == evaluator.names()
    assert all(math.isnan(value) for value in figures.values())
    assert evaluator.n_counted == 0


def test_calibration_is_fitted_on_all_and_judged_on_the_other_half():
    outputs = make_outputs(400)
    calibration = Calibration(3)
    evaluator = ClassEvaluator(calibration)
    evaluator.fits = True
    figures = evaluate(evaluator, outputs)
    assert list(figures) == evaluator.names()
    assert calibration.n_fitted == 400
    order = outputs.documents.argsort()
    logits = outputs.logits[order].double()
    labels = outputs.labels[order]
    total = 0.0
    for half in (0, 1):
        other = Calibration(3)
        other.fit(logits[1 - half :: 2], labels[1 - half :: 2])
        total += float(F.cross_entropy(other.logits(logits[half::2]), labels[half::2], reduction='sum'))
    assert figures['loss'] == pytest.approx(total / 400)
    assert figures['uncalibrated_loss'] == pytest.approx(float(F.cross_entropy(logits, labels)))
    assert figures['loss'] < figures['uncalibrated_loss']
    assert figures['ece'] < figures['uncalibrated_ece']


def test_what_was_fitted_is_applied_to_another_split_and_stays_as_it_is():
    calibration = Calibration(3)
    evaluator = ClassEvaluator(calibration)
    evaluator.fits = True
    evaluate(evaluator, make_outputs(400))
    before = {name: value.clone() for name, value in calibration.state_dict().items()}
    evaluator.fits = False
    outputs = make_outputs(300, seed=1)
    figures = evaluate(evaluator, outputs)
    probs = calibration(outputs.logits.double())
    assert figures['loss'] == pytest.approx(float(F.nll_loss(probs.log(), outputs.labels)))
    covered = calibration.sets(probs).gather(1, outputs.labels[:, None]).double().mean()
    assert figures['set_coverage'] == pytest.approx(float(covered))
    answered = calibration.answers(probs)
    assert figures['answered'] == pytest.approx(float(answered.double().mean()))
    right = (probs.argmax(-1) == outputs.labels)[answered].double().mean()
    assert figures['answered_accuracy'] == pytest.approx(float(right))
    assert all(torch.equal(value, before[name]) for name, value in calibration.state_dict().items())


def test_of_raters_the_error_of_calibration_is_that_of_the_share_of_the_predicted_class():
    logits = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    labels = torch.tensor([[0.5, 0.5], [0.7, 0.3]])
    outputs = ExampleOutputs(logits, labels, torch.ones(2), torch.arange(2))
    figures = evaluate(ClassEvaluator(), outputs)
    assert figures['ece'] == pytest.approx(0, abs=1e-6)
    assert figures['accuracy'] == 1  # the largest share; of equal ones the first


def test_ordinal_classes_count_how_far_a_prediction_is_off():
    logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [9.0, 0, 0]])
    outputs = ExampleOutputs(logits, torch.tensor([0, 1, 2]), torch.ones(3), torch.arange(3))
    figures = evaluate(ClassEvaluator(is_ordinal=True), outputs)
    assert figures['class_error'] == pytest.approx(2 / 3)
    assert figures['spearman'] == pytest.approx(0)


def test_several_labels_are_calibrated_class_by_class():
    generator = torch.Generator().manual_seed(5)
    true = 2 * torch.randn(2000, 2, generator=generator)
    labels = (torch.rand(2000, 2, generator=generator) < true.sigmoid()).float()
    outputs = ExampleOutputs(true * torch.tensor([5.0, 0.3]), labels, torch.ones(2000), torch.arange(2000))
    evaluator = MultiLabelEvaluator(Calibration(2, is_multi_label=True))
    evaluator.fits = True
    figures = evaluate(evaluator, outputs)
    assert list(figures) == evaluator.names()
    assert figures['ece'] < 0.02 < figures['uncalibrated_ece']
    assert figures['loss'] < figures['uncalibrated_loss'] - 0.05


def test_numbers_have_the_loss_of_their_squared_error():
    outputs = ExampleOutputs(torch.tensor([[1.0], [4.0]]), torch.tensor([[1.0], [2.0]]), torch.ones(2), torch.arange(2))
    evaluator = RegressionEvaluator()
    figures = evaluate(evaluator, outputs)
    assert list(figures) == evaluator.names()
    assert figures['loss'] == 2
    assert figures['rmse'] == pytest.approx(math.sqrt(2))


def test_what_the_majority_reaches_stands_beside_and_a_report_says_what_to_doubt():
    outputs = make_outputs()
    evaluator = ClassEvaluator(class_counts=[40.0, 40.0, 40.0])
    figures = evaluate(evaluator, outputs)
    assert list(figures) == evaluator.names()
    assert figures['majority_loss'] == pytest.approx(math.log(3))
    lines = evaluator.report(['a', 'b', 'c'])
    assert [line.split()[0] for line in lines[:4]] == ['class', 'a', 'b', 'c']
    assert not any('collapsed' in line for line in lines)
    collapsed = ExampleOutputs(torch.tensor([[1.0, 0, 0]]).expand(9, 3), torch.arange(9) % 3, *outputs[2:])
    collapsed = collapsed._replace(weights=torch.ones(9), documents=torch.arange(9))
    evaluate(evaluator, collapsed)
    *_, one, two = evaluator.report(['a', 'b', 'c'])
    assert "predicted to be 'a'" in one
    assert 'not clearly below' in two


def test_sets_and_answers_that_miss_what_was_asked_for_are_named():
    outputs = make_outputs(n=400)
    evaluator = ClassEvaluator(Calibration(3))
    evaluator.fits = True
    evaluate(evaluator, outputs)
    evaluator.fits = False
    evaluate(evaluator, outputs)
    assert not any('asked for' in line for line in evaluator.report(['a', 'b', 'c']))
    sure = make_outputs(n=400)
    evaluate(evaluator, sure._replace(logits=torch.nn.functional.one_hot(sure.labels, 3) * 9.0))
    assert not any('sets of classes' in line for line in evaluator.report(['a', 'b', 'c']))  # more than was asked for
    # Labels of another time: sets hold fewer of them.
    evaluate(evaluator, outputs._replace(labels=(outputs.labels + 1) % 3))
    lines = [line for line in evaluator.report(['a', 'b', 'c']) if 'asked for' in line]
    assert len(lines) == 1
    assert 'the sets of classes hold the true one of' in lines[0]
    assert 'where 90% was asked for' in lines[0]


def test_the_majority_answers_with_the_shares_of_the_training_split():
    figures = majority_figures([3.0, 1.0, 0.0], torch.tensor([0, 0, 1, 2]))
    shares = [3 / 4.5, 1 / 4.5, 0.5 / 4.5]
    wanted = -sum(math.log(shares[label]) for label in (0, 0, 1, 2)) / 4
    assert figures == {'majority_loss': pytest.approx(wanted), 'majority_accuracy': 0.5}
