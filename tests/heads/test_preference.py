"""Preferences: what is mirrored when answers change places, to the last bit; ties by hand."""

import functools
import math

import pytest
import torch
from trunks import MAX_LEN, N_VOCAB, make_ids, make_layout

from xlabml.errors import SettingsError
from xlabml.heads import Calibration, CrossPreferenceModel, Davidson, PreferenceModel, RaoKupper
from xlabml.heads.preference import mirrored_log_softmax
from xlabml.transformer import Transformer

D = 16
LENGTHS = [5, 7, 3, 9, 2, 6, 4]
EXAMPLE = torch.tensor([0, 0, 1, 1, -1, 2, 2])
ROLE = torch.tensor([0, 1, 1, 0, 0, 0, 1])


def make_model(kind=PreferenceModel, **options):
    torch.manual_seed(0)
    trunk = functools.partial(Transformer, d_model=D, n_layers=2, n_heads=4, causal=False)
    model = kind.build(N_VOCAB, MAX_LEN, trunk, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def predict(model, role=ROLE):
    ids = make_ids(sum(LENGTHS))
    layout = make_layout(LENGTHS, [True] * 4 + [False] + [True] * 2)
    return model(ids, layout, EXAMPLE, role, 3)


@pytest.mark.parametrize('ties', [Davidson, RaoKupper])
def test_exchanged_answers_have_exchanged_probabilities_to_the_last_bit(ties):
    model = make_model(ties=ties)
    model.calibration.fit(3 * predict(model), torch.tensor([0, 1, 2]))
    logits = predict(model)
    swapped = predict(model, 1 - ROLE)
    assert not torch.equal(logits, swapped)
    assert torch.equal(logits, swapped.flip(-1))
    assert torch.equal(model.probabilities(logits), model.probabilities(swapped).flip(-1))


def test_both_orders_together_are_mirrored_to_the_last_bit_and_one_alone_is_not():
    model = make_model(CrossPreferenceModel)
    ids = make_ids(sum(LENGTHS))
    layout = make_layout(LENGTHS)
    assert torch.equal(predict(model), predict(model, 1 - ROLE).flip(-1))
    orders = model.orders(ids, layout, EXAMPLE, ROLE, 3)
    assert not torch.allclose(orders[:, 0], orders[:, 1])
    torch.testing.assert_close(predict(model).exp(), orders.exp().mean(1))


def test_the_mirror_of_a_softmax_is_exact_for_any_numbers():
    logits = 5 * torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0))
    found = mirrored_log_softmax(logits)
    assert torch.equal(found, mirrored_log_softmax(logits.flip(-1)).flip(-1))
    torch.testing.assert_close(found, logits.log_softmax(-1))


def test_a_score_does_not_depend_on_the_other_answer():
    model = make_model()
    ids = make_ids(12)
    both = model.score(ids, make_layout([5, 7]), torch.zeros(2, dtype=torch.long), torch.arange(2), 1)
    alone = model.score(ids[:, :5], make_layout([5]), torch.zeros(1, dtype=torch.long), torch.zeros(1).long(), 1)
    torch.testing.assert_close(both[0, 0], alone[0, 0])


def test_davidson_is_that_of_its_source():
    ties = Davidson(0.7)
    u, v = torch.tensor([1.3]), torch.tensor([0.4])
    a, b = math.exp(1.3), math.exp(0.4)
    total = a + b + 0.7 * math.sqrt(a * b)
    wanted = [a / total, 0.7 * math.sqrt(a * b) / total, b / total]
    assert mirrored_log_softmax(ties(u - v)).exp()[0].tolist() == pytest.approx(wanted)


def test_rao_and_kupper_is_that_of_its_source():
    ties = RaoKupper(0.5)
    theta, a, b = math.exp(0.5), math.exp(1.3), math.exp(0.4)
    wanted_a = a / (a + theta * b)
    wanted_b = b / (b + theta * a)
    found = ties(torch.tensor([1.3]) - torch.tensor([0.4])).exp()[0].tolist()
    assert found == pytest.approx([wanted_a, 1 - wanted_a - wanted_b, wanted_b])
    far = ties(torch.tensor([80.0, -80.0]))
    assert far.isfinite().all()


@pytest.mark.parametrize('ties', [Davidson, RaoKupper])
def test_at_the_start_all_three_are_alike(ties):
    trunk = functools.partial(Transformer, d_model=D, n_layers=1, n_heads=2)
    model = PreferenceModel.build(N_VOCAB, MAX_LEN, trunk, ties=ties).eval()
    torch.testing.assert_close(predict(model).exp(), torch.full((3, 3), 1 / 3))


def test_a_larger_score_of_a_makes_a_more_probable_and_a_tie_most_where_both_are_alike():
    for ties in (Davidson(), RaoKupper()):
        probs = mirrored_log_softmax(ties(torch.linspace(-6, 6, 13))).exp()
        assert (probs[:, 0].diff() > 0).all()
        assert probs[:, 1].argmax() == 6


def test_scores_and_ties_have_gradients():
    model = make_model()
    model.zero_grad()
    predict(model)[:, 0].sum().backward()
    for name in ('trunk.embedding.weight', 'head.output.weight', 'ties.log_ratio'):
        assert model.get_parameter(name).grad.abs().sum() > 0, name


def test_a_calibration_that_would_tell_a_from_b_is_refused():
    with pytest.raises(SettingsError, match='may treat A and B differently'):
        make_model(calibration='auto')
    model = make_model()
    with pytest.raises(SettingsError, match='may treat A and B differently'):
        PreferenceModel(model.trunk, model.pooling, model.head, model.ties, Calibration(3, 'vector'))
    assert isinstance(make_model(calibration='none').calibration, Calibration)


@pytest.mark.parametrize('kind', [PreferenceModel, CrossPreferenceModel])
def test_scales_and_shifts_that_are_fitted_keep_the_mirror(kind):
    model = make_model(kind, calibration='vector')
    logits = torch.randn(200, 3)
    model.calibration.fit(logits, torch.tensor([0.1, 0.6, 0.3]).expand(200, 3))
    assert model.calibration.shift[1] != 0
    assert torch.equal(model.probabilities(logits.flip(-1)), model.probabilities(logits).flip(-1))


@pytest.mark.parametrize('make_ties', [lambda: Davidson(0.0), lambda: RaoKupper(-1.0)])
def test_ties_that_cannot_be_are_refused(make_ties):
    with pytest.raises(ValueError, match='give a positive number'):
        make_ties()


@pytest.mark.parametrize('kind', [PreferenceModel, CrossPreferenceModel])
def test_an_example_of_one_text_has_two_equal_answers(kind):
    model = make_model(kind)
    found = predict(model)
    alone = model(make_ids(5), make_layout([5]), torch.zeros(1, dtype=torch.long), torch.zeros(1).long(), 1)
    assert torch.equal(alone, alone.flip(-1))
    assert not torch.equal(found, found.flip(-1))


@torch.no_grad()
def test_a_second_pass_is_made_where_the_first_is_not_certain():
    model = make_model(CrossPreferenceModel)
    layout = make_layout(LENGTHS, [True] * 4 + [False] + [True] * 2)
    ids = make_ids(sum(LENGTHS))
    orders = model.orders(ids, layout, EXAMPLE, ROLE, 3)
    # of example 1 the text of role 1 stands first
    first = model(ids[:, 12:15], None, torch.zeros(1).long(), torch.ones(1).long(), 1, by_order=True)[0, 0]
    torch.testing.assert_close(orders[1, 0], first)
    confidences = model.probabilities(orders[:, 0]).max(-1).values
    between = float(confidences.sort().values[1]) + 1e-4
    found, is_second = model.gated(ids, layout, EXAMPLE, ROLE, 3, between)
    assert is_second.tolist() == (confidences < between).tolist()
    assert is_second.sum() == 2
    wanted = torch.where(is_second[:, None], model.combine(orders), orders[:, 0])
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(model.gated(ids, layout, EXAMPLE, ROLE, 3, 1.0)[0], model.combine(orders))
    never, none = model.gated(ids, layout, EXAMPLE, ROLE, 3, 0.0)
    torch.testing.assert_close(never, orders[:, 0])
    assert not none.any()
    mirrored, _ = model.gated(ids, layout, EXAMPLE, 1 - ROLE, 3, between)
    assert torch.equal(mirrored.flip(-1), found)
