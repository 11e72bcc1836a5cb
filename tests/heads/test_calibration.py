"""Calibration: what is fitted is what was put in, it is saved, and sets and answers keep their promises."""

import math

import pytest
import torch
import torch.nn.functional as F

from xlabml.errors import SettingsError
from xlabml.evaluation.calibration import class_reliability
from xlabml.heads import Calibration


def make_examples(n, k=4, factor=3.0, seed=0):
    """Logits that are `factor` times too large: the classes are drawn by the true ones."""
    generator = torch.Generator().manual_seed(seed)
    true = 1.5 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(true.softmax(-1), 1, generator=generator)[:, 0]
    return true * factor, labels


def test_the_temperature_that_was_put_in_is_found():
    logits, labels = make_examples(20_000)
    calibration = Calibration(4)
    calibration.fit(logits, labels)
    assert 1 / calibration.scale[0] == pytest.approx(3, rel=0.03)
    assert (calibration.scale == calibration.scale[0]).all()
    assert not calibration.shift.any()


def test_the_temperature_is_the_best_of_a_line_search():
    logits, labels = make_examples(300, seed=1)
    calibration = Calibration(4)
    calibration.fit(logits, labels)
    scales = torch.linspace(0.05, 2, 4000, dtype=torch.float64)
    losses = [float(F.cross_entropy(logits * scale, labels)) for scale in scales]
    assert calibration.scale[0] == pytest.approx(float(scales[losses.index(min(losses))]), abs=0.001)


def test_scales_and_shifts_of_classes_that_were_put_in_are_found():
    generator = torch.Generator().manual_seed(2)
    raw = 2 * torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    shift = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)
    labels = torch.multinomial((raw * scale + shift).softmax(-1), 1, generator=generator)[:, 0]
    calibration = Calibration(3, 'vector')
    calibration.fit(raw, labels)
    assert calibration.scale.tolist() == pytest.approx(scale.tolist(), abs=0.06)
    assert (calibration.shift - calibration.shift.mean()).tolist() == pytest.approx(shift.tolist(), abs=0.06)


def test_mirrored_classes_have_one_scale_and_one_shift():
    generator = torch.Generator().manual_seed(3)
    raw = 2 * torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.5, 2.0, 0.5], dtype=torch.float64)
    shift = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    labels = torch.multinomial((raw * scale + shift).softmax(-1), 1, generator=generator)[:, 0]
    calibration = Calibration(3, 'vector', is_mirrored=True)
    calibration.fit(raw, labels)
    assert calibration.scale.tolist() == pytest.approx(scale.tolist(), abs=0.06)
    assert (calibration.shift - calibration.shift[0]).tolist() == pytest.approx(shift.tolist(), abs=0.06)
    assert torch.equal(calibration.logits(raw.flip(-1)), calibration.logits(raw).flip(-1))


@pytest.mark.parametrize('kind', ['noise', 'auto'])
def test_what_knows_no_mirror_is_refused(kind):
    with pytest.raises(SettingsError, match='take temperature, vector or none'):
        Calibration(3, kind, is_mirrored=True)


def make_noisy(n, share=0.2, seed=5):
    """Logits that are twice too large, and labels of which a share is drawn from (.1, .1, .8) whatever they say."""
    logits, labels = make_examples(n, 3, factor=2.0, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    others = torch.multinomial(torch.tensor([0.1, 0.1, 0.8]), n, replacement=True, generator=generator)
    return logits, torch.where(torch.rand(n, generator=generator) < share, others, labels)


def test_labels_that_say_nothing_of_the_text_are_found():
    logits, labels = make_noisy(40_000)
    calibration = Calibration(3, 'noise')
    calibration.fit(logits, labels)
    assert calibration.noise.tolist() == pytest.approx([0.02, 0.02, 0.16], abs=0.015)
    assert calibration.scale.tolist() == pytest.approx([0.5, 0.5, 0.5], rel=0.06)
    raw = torch.tensor([[1.0, 2.0, -0.5]], dtype=torch.float64)
    scaled = (raw * calibration.scale + calibration.shift).softmax(-1)
    by_hand = (1 - calibration.noise.double().sum()) * scaled + calibration.noise
    assert calibration(raw)[0].tolist() == pytest.approx(by_hand[0].tolist())
    assert calibration(logits).sum(-1).tolist() == pytest.approx([1] * len(logits))


def test_with_such_labels_new_examples_have_better_probabilities_than_by_a_scale_and_a_shift():
    logits, labels = make_noisy(40_000, share=0.3)
    eces, losses = {}, {}
    for kind in ('temperature', 'vector', 'noise'):
        calibration = Calibration(3, kind)
        calibration.fit(logits[:20_000], labels[:20_000])
        probs = calibration(logits[20_000:])
        eces[kind] = class_reliability(probs, labels[20_000:]).ece
        losses[kind] = float(F.nll_loss(probs.log(), labels[20_000:]))
    assert losses['noise'] < losses['vector'] - 0.005 < losses['temperature'] - 0.02
    assert eces['noise'] < 0.6 * eces['temperature']


@pytest.mark.parametrize(
    ('examples', 'expected'),
    [(make_noisy(4000), 'noise'), (make_examples(40, 3, seed=1), 'temperature'), (make_examples(3, 3), 'temperature')],
    ids=['noisy', 'few', 'three'],
)
def test_auto_takes_the_kind_that_is_the_best_on_what_it_did_not_see(examples, expected):
    chosen, named = Calibration(3, 'auto'), Calibration(3, expected)
    chosen.fit(*examples)
    named.fit(*examples)
    assert torch.equal(chosen.scale, named.scale)
    assert torch.equal(chosen.shift, named.shift)
    assert chosen.noise.tolist() == (named.noise.tolist() if expected == 'noise' else [0, 0, 0])


def test_auto_of_several_labels_has_no_noise():
    logits = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    labels = (torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) < (logits + 2).sigmoid()).float()
    calibration = Calibration(2, 'auto', is_multi_label=True)
    calibration.fit(logits, labels)
    assert calibration.noise is None
    assert calibration.shift.tolist() == pytest.approx([2, 2], abs=0.5)
    with pytest.raises(SettingsError, match='one class an example'):
        Calibration(2, 'noise', is_multi_label=True)


def test_shares_of_raters_count_as_that_many_labels():
    logits, _ = make_examples(50, 3)
    shares = (4 * (logits / 4).softmax(-1)).round() + 1
    repeated = [(i, j) for i in range(50) for j in range(3) for _ in range(int(shares[i, j]))]
    rows = torch.tensor([i for i, _ in repeated])
    hard = torch.tensor([j for _, j in repeated])
    weights = (1 / shares.sum(1))[rows]
    calibration = Calibration(3)
    calibration.fit(logits, shares / shares.sum(1, keepdim=True))
    scale = float(calibration.scale[0])

    def loss(at):
        return float((F.cross_entropy(logits[rows] * at, hard, reduction='none') * weights).sum())

    assert loss(scale) <= min(loss(scale * 0.99), loss(scale * 1.01))


def test_with_several_labels_each_class_has_a_scale_of_its_own():
    generator = torch.Generator().manual_seed(4)
    true = 2 * torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    labels = (torch.rand(20_000, 2, generator=generator) < true.sigmoid()).double()
    calibration = Calibration(2, is_multi_label=True)
    calibration.fit(true * torch.tensor([4.0, 0.5]), labels)
    assert calibration.scale.tolist() == pytest.approx([0.25, 2], rel=0.06)


def test_no_prediction_changes_under_a_temperature_and_none_at_all_without_calibration():
    logits, labels = make_examples(500)
    calibration = Calibration(4)
    calibration.fit(logits, labels)
    assert (calibration(logits).argmax(-1) == logits.argmax(-1)).all()
    none = Calibration(4, 'none')
    none.fit(logits, labels)
    assert torch.equal(none(logits), logits.softmax(-1))
    assert none.n_fitted == 500


@pytest.mark.parametrize('kind', ['vector', 'noise', 'auto'])
def test_what_was_fitted_is_saved_with_the_weights(kind):
    logits, labels = make_examples(500)
    fitted = Calibration(4, kind)
    fitted.fit(logits, labels)
    loaded = Calibration(4, kind)
    loaded.load_state_dict(fitted.state_dict())
    probs = fitted(logits)
    assert torch.equal(loaded(logits), probs)
    assert torch.equal(loaded.sets(probs), fitted.sets(probs))
    assert torch.equal(loaded.answers(probs), fitted.answers(probs))


@pytest.mark.parametrize('kind', ['temperature', 'vector', 'noise', 'auto'])
def test_classes_that_can_be_told_apart_or_that_have_no_examples_leave_finite_numbers(kind):
    logits = 5 * F.one_hot(torch.arange(40) % 2, 3).double()
    calibration = Calibration(3, kind)
    calibration.fit(logits, torch.arange(40) % 2)
    assert calibration.scale.isfinite().all()
    assert calibration.shift.abs().max() < 20
    assert (calibration(logits).argmax(-1) == torch.arange(40) % 2).all()


@pytest.mark.parametrize('logits', [torch.zeros(0, 3), torch.full((5, 3), math.nan)])
def test_what_cannot_be_fitted_leaves_all_as_before_any_fit(logits):
    calibration = Calibration(3, 'noise')
    calibration.fit(*make_noisy(100))
    calibration.fit(logits, torch.zeros(len(logits), dtype=torch.long))
    assert calibration.state_dict()['scale'].tolist() == [1, 1, 1]
    assert calibration.state_dict()['noise'].tolist() == [0, 0, 0]
    assert calibration.n_fitted == 0
    assert calibration.sets(torch.tensor([[0.8, 0.1, 0.1]])).all()
    assert calibration.answers(torch.tensor([[0.4, 0.3, 0.3]])).all()


@pytest.mark.parametrize('coverage', [0.8, 0.9])
def test_sets_hold_the_class_of_new_examples_as_often_as_was_asked_for(coverage):
    logits, labels = make_examples(8000)
    calibration = Calibration(4, set_coverage=coverage)
    calibration.fit(logits[:4000], labels[:4000])
    sets = calibration.sets(calibration(logits[4000:]))
    covered = sets.gather(1, labels[4000:, None]).double().mean()
    assert float(covered) == pytest.approx(coverage, abs=0.02)
    assert sets.sum(1).min() == 1


def test_the_threshold_of_sets_is_that_worked_by_hand():
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1])  # scores .1, .2, .3, .6
    calibration = Calibration(2, 'none', set_coverage=0.6)  # ceil(5 x .6) is the third
    calibration.fit(probs.log(), labels)
    assert calibration.set_threshold == pytest.approx(0.3)
    assert calibration.sets(torch.tensor([[0.71, 0.29], [0.5, 0.5]])).tolist() == [[True, False], [True, False]]
    few = Calibration(2, 'none', set_coverage=0.9)  # ceil(5 x .9) is more than there are
    few.fit(probs.log(), labels)
    assert few.sets(torch.tensor([[0.99, 0.01]])).all()


def test_answers_are_given_to_as_many_as_was_asked_for():
    logits, labels = make_examples(1000)
    calibration = Calibration(4, answered=0.7)
    calibration.fit(logits, labels)
    probs = calibration(logits)
    answers = calibration.answers(probs)
    assert answers.sum() == 700
    right = probs.argmax(-1) == labels
    assert right[answers].double().mean() > right.double().mean()


def test_a_ratio_that_is_none_is_refused():
    with pytest.raises(SettingsError, match=r'model\.set_coverage is 1\.5'):
        Calibration(2, set_coverage=1.5)
