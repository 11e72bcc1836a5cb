"""Singular values against torch's decomposition, and by hand."""

import math

import pytest
import torch
from torch import nn

from xlabml.heads import LanguageModel
from xlabml.telemetry import spectra
from xlabml.transformer import SwiGLU, Transformer


@pytest.mark.parametrize('shape', [(5, 9), (9, 5), (3, 8, 8)])
def test_singular_values_are_those_of_the_decomposition(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    expected = torch.linalg.svdvals(weight.double())
    torch.testing.assert_close(spectra.singular_values(weight), expected, rtol=1e-9, atol=1e-7)


def test_the_figures_by_hand():
    """Singular values 4, 2, 2, 0: squares 16, 4, 4 over 16; mean 2; median 2."""
    weight = torch.diag(torch.tensor([2.0, -4.0, 0.0, 2.0]))
    top, rank, mean_ratio, median_ratio = spectra.figures(spectra.singular_values(weight)).tolist()
    assert (top, rank, mean_ratio, median_ratio) == pytest.approx((4.0, 1.5, 2.0, 2.0))


@pytest.mark.parametrize(
    ('values', 'median'),
    [([5.0], 5.0), ([6.0, 2.0], 4.0), ([6.0, 2.0, 1.0], 2.0), ([8.0, 4.0, 1.0, 0.0], 2.5), ([9.0, 5, 4, 3, 2, 1], 3.5)],
)
def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two(values, median):
    stacked = torch.tensor([values, values[:1] * len(values)])
    ratios = spectra.figures(stacked)[:, spectra.FIGURES.index('median_ratio')]
    assert ratios.tolist() == pytest.approx([values[0] / median, 1.0])


def test_a_random_matrix_begins_where_theory_has_it():
    """Of a large d x 4d matrix of normal numbers, the largest is at sqrt(d) + sqrt(4d) (Marchenko and Pastur)."""
    torch.manual_seed(0)
    top, rank, mean_ratio, _ = spectra.figures(spectra.singular_values(torch.randn(256, 1024))).tolist()
    assert top == pytest.approx(3 * math.sqrt(256), rel=0.02)
    assert rank == pytest.approx(256 * 4 / 9, rel=0.03)
    assert mean_ratio == pytest.approx(1.54, abs=0.02)


def test_stacked_matrices_are_looked_at_apart_and_layers_averaged():
    torch.manual_seed(0)
    trunk = Transformer(50, 32, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, activation=SwiGLU, d_ff=24)
    found = spectra.summarize(LanguageModel(trunk))
    kinds = ('query', 'key', 'value', 'attention_output', 'feed_forward_input', 'feed_forward_output')
    assert list(found) == [f'{kind}/{figure}' for kind in kinds for figure in spectra.FIGURES]
    tops = {
        'key/top': [block.attention.projection.weight[16:24] for block in trunk.blocks],
        'feed_forward_input/top': [
            part for block in trunk.blocks for part in block.feed_forward.input.weight.split(24)
        ],
    }
    for name, weights in tops.items():
        mean = torch.stack([torch.linalg.matrix_norm(weight.detach(), 2) for weight in weights]).mean()
        assert found[name] == pytest.approx(float(mean), rel=1e-4)


def test_deep_models_are_looked_at_in_eight_layers_the_last_one_too():
    trunk = Transformer(50, 32, d_model=8, n_layers=11, n_heads=1)
    for i, block in enumerate(trunk.blocks):
        block.attention.output.weight.data = torch.eye(8) * i
    assert spectra.summarize(trunk)['attention_output/top'] == pytest.approx((0 + 1 + 3 + 4 + 6 + 7 + 9 + 10) / 8)


def test_a_model_of_other_parts_has_none():
    assert spectra.summarize(nn.Linear(3, 3)) == {}


@pytest.mark.parametrize('value', [math.nan, math.inf, 1e300])
def test_a_matrix_that_is_not_finite_has_no_spectrum_and_the_others_keep_theirs(value):
    weights = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    weights[1, 0, 0] = value
    values = spectra.singular_values(weights)
    assert values[0].tolist() == [1.0] * 3
    assert values[1].isnan().all()
