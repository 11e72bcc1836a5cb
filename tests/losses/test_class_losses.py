"""Losses of classifiers: torch's own where it has them, worked by hand where it has not."""

import math

import pytest
import torch
import torch.nn.functional as F

from xlabml.batches import IGNORED
from xlabml.losses import BinaryCrossEntropy, ClassCrossEntropy, Distillation, Huber, SquaredError


def make(n=20, k=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(k, (n,), generator=generator)


def make_shares(n=20, k=4, seed=1):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_is_that_of_torch_for_classes_and_shares(smoothing):
    logits, labels = make()
    shares = make_shares()
    ours = ClassCrossEntropy(label_smoothing=smoothing)
    for target in (labels, shares):
        wanted = F.cross_entropy(logits, target, reduction='none', label_smoothing=smoothing)
        torch.testing.assert_close(ours(logits, target), wanted)


def test_weights_of_classes_are_those_of_torch():
    logits, labels = make()
    weights = [0.5, 1.0, 2.0, 0.0]
    wanted = F.cross_entropy(logits, labels, torch.tensor(weights, dtype=torch.float64), reduction='none')
    torch.testing.assert_close(ClassCrossEntropy(class_weights=weights)(logits, labels), wanted)


def test_all_ratings_of_an_item_are_the_mean_of_each():
    logits, _ = make(1)
    ratings = torch.tensor([0, 0, 3, 1])
    shares = F.one_hot(ratings, 4).double().mean(0)[None]
    each = ClassCrossEntropy()(logits.expand(4, -1), ratings)
    torch.testing.assert_close(ClassCrossEntropy()(logits, shares), each.mean()[None])


def test_focal_loss_is_that_worked_by_hand_and_its_gradient_finite_where_all_is_certain():
    logits = torch.tensor([[math.log(3.0), 0.0], [200.0, 0.0]], requires_grad=True)
    losses = ClassCrossEntropy(focal=2.0)(logits, torch.tensor([0, 0]))
    assert losses.tolist() == pytest.approx([0.25**2 * -math.log(0.75), 0], abs=1e-7)
    half = ClassCrossEntropy(focal=0.5)(logits, torch.tensor([0, 0]))
    assert torch.autograd.grad(half.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize(
    'loss', [ClassCrossEntropy(), ClassCrossEntropy(0.1, 2.0), Distillation(), Distillation(2.0, 0.5)]
)
def test_an_example_without_a_class_costs_nothing_and_has_no_gradient(loss):
    logits, labels = make()
    labels[3] = IGNORED
    losses = loss(logits, labels)
    assert losses[3] == 0
    gradient = torch.autograd.grad(losses.sum(), logits)[0]
    assert not gradient[3].any()
    assert gradient.isfinite().all()
    assert gradient[2].any()


def test_distillation_is_the_divergence_at_its_temperature():
    logits, _ = make()
    teacher, _ = make(seed=5)
    t = 3.0
    wanted = F.kl_div((logits / t).log_softmax(-1), (teacher / t).softmax(-1), reduction='none').sum(1) * t * t
    torch.testing.assert_close(Distillation(t)(logits, teacher.softmax(-1).detach()), wanted)
    hard = Distillation(t, hard_ratio=1.0)(logits, teacher.softmax(-1).detach())
    torch.testing.assert_close(hard, F.cross_entropy(logits, teacher.argmax(-1), reduction='none'))


def test_a_teacher_that_is_right_costs_nothing():
    logits, _ = make()
    losses = Distillation()(logits, logits.softmax(-1).detach())
    torch.testing.assert_close(losses, torch.zeros_like(losses))


def test_several_labels_are_those_of_torch():
    logits, _ = make()
    labels = (make_shares() > 0.25).double()
    weights = [1.0, 2.0, 0.5, 3.0]
    wanted = F.binary_cross_entropy_with_logits(
        logits, labels, reduction='none', pos_weight=torch.tensor(weights, dtype=torch.float64)
    ).mean(1)
    torch.testing.assert_close(BinaryCrossEntropy(positive_weights=weights)(logits, labels), wanted)
    smooth = BinaryCrossEntropy(label_smoothing=0.2)(logits, labels)
    wanted = F.binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1, reduction='none').mean(1)
    torch.testing.assert_close(smooth, wanted)


def test_focal_loss_of_several_labels_is_that_worked_by_hand():
    losses = BinaryCrossEntropy(focal=1.0)(torch.tensor([[math.log(3.0), math.log(3.0)]]), torch.tensor([[1.0, 0.0]]))
    assert losses.item() == pytest.approx((-0.25 * math.log(0.75) - 0.75 * math.log(0.25)) / 2)


def test_numbers_have_a_squared_error_or_a_line_beyond_delta():
    logits = torch.tensor([[1.0], [5.0]])
    labels = torch.tensor([[0.5], [2.0]])
    assert SquaredError()(logits, labels).tolist() == [0.25, 9]
    assert Huber(2.0)(logits, labels).tolist() == [0.125, 2 * 3 - 2]


def test_half_precision_is_computed_in_float32():
    logits, labels = make()
    found = ClassCrossEntropy()(logits.bfloat16(), labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ClassCrossEntropy()(logits.bfloat16().float(), labels))


@pytest.mark.parametrize(
    ('make_loss', 'message'),
    [
        (lambda: ClassCrossEntropy(label_smoothing=1.0), r'label_smoothing is 1\.0'),
        (lambda: ClassCrossEntropy(focal=-1.0), r'focal is -1\.0'),
        (lambda: ClassCrossEntropy(class_weights=[-1.0]), r'class_weights has -1\.0'),
        (lambda: BinaryCrossEntropy(label_smoothing=-0.1), r'label_smoothing is -0\.1'),
        (lambda: Distillation(0.0), r'temperature is 0\.0'),
        (lambda: Distillation(hard_ratio=2.0), r'hard_ratio is 2\.0'),
        (lambda: Huber(0.0), r'delta is 0\.0'),
    ],
)
def test_numbers_out_of_range_are_refused(make_loss, message):
    with pytest.raises(ValueError, match=message):
        make_loss()


def test_weights_of_another_number_of_classes_are_refused():
    logits, labels = make()
    with pytest.raises(ValueError, match='class_weights has 2 weights, but there are 4 classes'):
        ClassCrossEntropy(class_weights=[1.0, 2.0])(logits, labels)
