"""Figures of classifiers: worked by hand, and equal to scikit-learn's where it is installed."""

import math

import pytest
import torch

from xlabml.evaluation.classification import (
    binary_log_losses,
    brier_scores,
    class_report,
    confusion_matrix,
    is_correct,
    log_losses,
    multi_label_auroc,
    multi_label_report,
    one_vs_rest_auroc,
    report_of,
)
from xlabml.evaluation.ranks import auroc, average_ranks, pearson, spearman
from xlabml.evaluation.regression import mean_absolute_error, rmse

PROBS = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.125, 0.125, 0.75], [0.25, 0.5, 0.25]])
LABELS = torch.tensor([0, 2, 2, 1])


def make_probs(n=200, k=4, seed=0, rounded=False):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randn(n, k, generator=generator, dtype=torch.float64).mul(2).softmax(-1)
    if rounded:  # ties
        probs = (probs * 5).round() + 1
        probs = probs / probs.sum(1, keepdim=True)
    return probs, torch.randint(k, (n,), generator=generator)


# By hand


def test_log_loss_brier_and_accuracy_are_those_worked_by_hand():
    assert log_losses(PROBS.log(), LABELS).exp().tolist() == pytest.approx([2, 4, 4 / 3, 2])
    assert brier_scores(PROBS, LABELS).tolist() == pytest.approx([0.375, 0.0625 + 0.25 + 0.5625, 0.09375, 0.375])
    assert is_correct(PROBS, LABELS).tolist() == [1, 0, 1, 1]


def test_of_raters_the_loss_is_the_cross_entropy_with_their_shares():
    shares = torch.tensor([[0.5, 0.5, 0.0]])
    probs = torch.tensor([[0.5, 0.25, 0.25]])
    assert log_losses(probs.log(), shares).item() == pytest.approx(1.5 * math.log(2))
    assert brier_scores(probs, shares).item() == pytest.approx(0.0625 + 0.0625)


def test_a_class_without_share_and_probability_costs_nothing_and_one_with_share_all():
    probs = torch.tensor([[1.0, 0.0]])
    assert log_losses(probs.log(), torch.tensor([0])).item() == 0
    assert log_losses(probs.log(), torch.tensor([1])).item() == math.inf


def test_the_confusion_matrix_has_labels_in_rows():
    assert confusion_matrix(PROBS.argmax(-1), LABELS, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_the_report_of_each_class_is_that_worked_by_hand():
    report = report_of(torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]))
    assert report.precision.tolist() == [1, 0.5, 1, 0]
    assert report.recall.tolist() == [1, 1, 0.5, 0]
    assert report.f1.tolist() == pytest.approx([1, 2 / 3, 2 / 3, 0])
    assert report.macro_f1 == pytest.approx(7 / 9)  # the fourth class is nowhere
    assert report.describe(['a', 'b', 'c', 'd'])[2].split() == ['b', '0.500', '1.000', '0.667', '1', '2']


def test_ranks_share_ties():
    assert average_ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1, 3.5, 2]


@pytest.mark.parametrize(
    ('scores', 'positives', 'area'),
    [
        ([0.9, 0.8, 0.1], [True, True, False], 1.0),
        ([0.1, 0.8, 0.9], [True, False, False], 0.0),
        ([0.5, 0.5, 0.5], [True, False, False], 0.5),
        ([0.1, 0.4, 0.35, 0.8], [False, False, True, True], 0.75),
        ([0.4, 0.4, 0.2], [True, False, False], 0.75),
    ],
)
def test_a_tie_counts_half_in_the_area_under_the_curve(scores, positives, area):
    assert auroc(torch.tensor(scores), torch.tensor(positives)) == area


def test_an_area_or_a_correlation_that_is_not_defined_is_nan():
    assert math.isnan(auroc(torch.tensor([0.1, 0.2]), torch.tensor([True, True])))
    assert math.isnan(auroc(torch.tensor([math.nan, 0.2]), torch.tensor([True, False])))
    assert math.isnan(spearman(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0])))
    assert math.isnan(spearman(torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])))


def test_one_vs_rest_leaves_out_classes_without_examples():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]])
    assert one_vs_rest_auroc(probs, torch.tensor([0, 1])) == 1


def test_several_labels_are_counted_class_by_class():
    probs = torch.tensor([[0.9, 0.5], [0.4, 0.1]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    report = multi_label_report(probs, labels)
    assert report.recall.tolist() == [0.5, 0]
    assert report.n_predicted.tolist() == [1, 1]
    losses = binary_log_losses(torch.zeros(2, 2), labels)
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert math.isnan(multi_label_auroc(probs, labels))


def test_figures_of_numbers():
    predicted = torch.tensor([1.0, 2.0, 4.0])
    labels = torch.tensor([1.0, 3.0, 2.0])
    assert rmse(predicted, labels) == pytest.approx(math.sqrt(5 / 3))
    assert mean_absolute_error(predicted, labels) == 1
    assert spearman(predicted, labels) == 0.5
    assert spearman(predicted, predicted.exp()) == 1
    assert pearson(predicted, labels) == pytest.approx(1 / math.sqrt(28 / 3))


# Oracle


@pytest.mark.parametrize('rounded', [False, True])
def test_figures_are_those_of_scikit_learn(rounded):
    metrics = pytest.importorskip('sklearn.metrics')
    probs, labels = make_probs(rounded=rounded)
    p = probs.numpy()
    y = labels.numpy()
    said = p.argmax(-1)
    assert float(log_losses(probs.log(), labels).mean()) == pytest.approx(metrics.log_loss(y, p), abs=1e-9)
    confusion = confusion_matrix(probs.argmax(-1), labels, 4)
    assert confusion.tolist() == metrics.confusion_matrix(y, said).tolist()
    assert report_of(confusion).macro_f1 == pytest.approx(metrics.f1_score(y, said, average='macro'))
    wanted = metrics.roc_auc_score(y, p, multi_class='ovr')
    assert one_vs_rest_auroc(probs, labels) == pytest.approx(wanted, abs=1e-12)
    brier = metrics.brier_score_loss(y, p, scale_by_half=False)
    assert float(brier_scores(probs, labels).mean()) == pytest.approx(brier)


def test_figures_of_several_labels_are_those_of_scikit_learn():
    metrics = pytest.importorskip('sklearn.metrics')
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(100, 3, generator=generator, dtype=torch.float64)
    labels = (torch.rand(100, 3, generator=generator) < 0.3).double()
    probs = logits.sigmoid()
    said = (probs >= 0.5).numpy()
    wanted = metrics.roc_auc_score(labels.numpy(), probs.numpy(), average='macro')
    assert multi_label_auroc(probs, labels) == pytest.approx(wanted)
    wanted = metrics.f1_score(labels.numpy(), said, average='macro', zero_division=0)
    assert multi_label_report(probs, labels).macro_f1 == pytest.approx(wanted)


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip('scipy.stats')
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(10, (80,), generator=generator)
    y = x + torch.randint(6, (80,), generator=generator)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x.numpy(), y.numpy()).statistic)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x.numpy(), y.numpy()).statistic)


def test_a_report_without_any_class_is_nan():
    none = torch.zeros(2, dtype=torch.long)
    assert math.isnan(class_report(none, none, none).macro_f1)
