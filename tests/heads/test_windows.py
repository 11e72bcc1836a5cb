"""What windows say together, by hand; and the network around it."""

import functools
import math

import pytest
import torch

from xlabml.batches import Layout
from xlabml.errors import SettingsError
from xlabml.heads import SequenceClassifier
from xlabml.heads.windows import combine_windows
from xlabml.transformer import Transformer

TRUNK = functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2, causal=False)
PROBS = torch.tensor([[[0.7, 0.3], [0.1, 0.9], [0.2, 0.8]], [[0.6, 0.4], [9.0, 9.0], [9.0, 9.0]]])  # e w k
IS_THERE = torch.tensor([[True, True, True], [True, False, False]])


@pytest.mark.parametrize(
    ('windows', 'expected'),
    [
        ('mean', [[1 / 3, 2 / 3], [0.6, 0.4]]),
        ('max', [[0.7 / 1.6, 0.9 / 1.6], [0.6, 0.4]]),
        ('vote', [[1.5 / 4, 2.5 / 4], [1.5 / 2, 0.5 / 2]]),
    ],
)
def test_probabilities_of_windows_by_hand(windows, expected):
    logits = PROBS.log() + torch.tensor([[[5.0], [-3.0], [0.0]]])  # a shift changes nothing
    found = combine_windows(logits, IS_THERE, windows, 'single-label')
    found = found.softmax(-1) if windows == 'max' else found.exp()
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize(
    ('windows', 'expected'),
    [
        ('mean', [[1 / 3, 2 / 3], [0.6, 0.4]]),
        ('max', [[0.7, 0.9], [0.6, 0.4]]),
        ('vote', [[1.5 / 4, 2.5 / 4], [1.5 / 2, 0.5 / 2]]),
    ],
)
def test_several_labels_are_put_together_one_by_one(windows, expected):
    logits = PROBS.clamp(max=0.999).logit()
    found = combine_windows(logits, IS_THERE, windows, 'multi-label').sigmoid()
    torch.testing.assert_close(found, torch.tensor(expected))


def test_numbers_have_their_mean_or_the_largest():
    numbers = torch.tensor([[[1.0], [4.0], [-2.0]], [[3.0], [9.0], [9.0]]])
    assert combine_windows(numbers, IS_THERE, 'mean', 'regression').tolist() == [[1.0], [3.0]]
    assert combine_windows(numbers, IS_THERE, 'max', 'regression').tolist() == [[4.0], [3.0]]


def make_network(**options):
    torch.manual_seed(0)
    network = SequenceClassifier.build(50, 16, ['a', 'b', 'c'], trunk=TRUNK, **options).eval()
    with torch.no_grad():
        network.head.output.weight.normal_()
    return network


@pytest.mark.parametrize('windows', ['mean', 'max'])
def test_a_text_has_the_logits_of_its_windows_whatever_stands_around_it(windows):
    network = make_network(max_windows=3, windows=windows)
    ids = torch.randint(4, 50, (1, 20), generator=torch.Generator().manual_seed(0))
    layout = Layout(torch.tensor([0, 5, 9, 14, 17, 20]), 16, torch.tensor([True, True, True, True, False]))
    example = torch.tensor([0, 0, 1, 0, -1])
    role = torch.tensor([0, 1, 0, 2, 0])
    found = network(ids, layout, example, role, 2).softmax(-1)
    alone = [network(ids[:, a:b]).softmax(-1)[0] for a, b in ((0, 5), (5, 9), (14, 17), (9, 14))]
    together = torch.stack(alone[:3])
    expected = together.mean(0) if windows == 'mean' else together.amax(0) / together.amax(0).sum()
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], alone[3])
    by_window = network(ids, layout, example, role, 2, by_window=True)
    assert by_window.shape == (2, 3, 3)
    torch.testing.assert_close(by_window[0].softmax(-1), together)


def test_texts_in_one_window_are_what_they_were():
    ids = torch.randint(4, 50, (3, 7), generator=torch.Generator().manual_seed(0))
    plain = make_network()
    assert torch.equal(make_network(max_windows=1)(ids), plain(ids))
    torch.testing.assert_close(make_network(max_windows=2)(ids).softmax(-1), plain(ids).softmax(-1))


def test_probabilities_stay_finite_where_all_windows_are_certain():
    logits = torch.tensor([[[200.0, -200.0], [180.0, -300.0]]])
    is_there = torch.ones(1, 2, dtype=torch.bool)
    for windows in ('mean', 'max', 'vote'):
        for task in ('single-label', 'multi-label'):
            assert combine_windows(logits, is_there, windows, task).isfinite().all()
    assert combine_windows(logits, is_there, 'vote', 'single-label').exp()[0, 0] == pytest.approx(2.5 / 3)
    assert math.isfinite(make_network(max_windows=2)(torch.zeros(1, 3, dtype=torch.long)).sum().item())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'windows': 'median', 'max_windows': 2}, "windows is 'median'; choose one of mean, max, vote"),
        ({'windows': 'vote'}, 'texts are read in one window'),
        ({'windows': 'vote', 'max_windows': 2, 'task': 'regression', 'classes': None}, 'no classes to vote for'),
        ({'max_windows': 2, 'n_texts': 2}, 'an example has 2 texts'),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    settings = {'classes': ['a', 'b'], **options}
    with pytest.raises(SettingsError, match=message):
        SequenceClassifier.build(50, 16, trunk=TRUNK, **settings)
