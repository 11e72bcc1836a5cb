"""A run says how attention is computed, and refuses a way that cannot do so here."""

import pytest


@pytest.mark.parametrize(('precision', 'said'), [
    ('32-true', "attention: sdpa (packed rows, fp32, torch's scaled_dot_product_attention)"),
    ('bf16-mixed', "attention: sdpa (packed rows, bf16, torch's scaled_dot_product_attention)"),
    pytest.param(
        'bf16-true',
        "attention: sdpa (packed rows, bf16, torch's scaled_dot_product_attention)",
        marks=pytest.mark.slow,
    ),
])  # fmt: skip
def test_a_run_says_once_how_attention_is_computed_and_why(xlab, tiny, precision, said):
    status, printed = xlab('fit', *tiny, f'--trainer.precision={precision}')
    assert status == 0, printed
    assert printed.count('attention: ') == 1
    assert said in printed


def test_a_forced_way_that_cannot_run_is_refused_before_any_work(xlab, tiny, tmp_path):
    status, printed = xlab('fit', *tiny, '--model.trunk.attention=varlen', '--trainer.accelerator=cpu')
    assert status == 2
    assert 'trunk.attention varlen runs on cuda only, not on cpu; set trunk.attention to auto' in printed
    assert not (tmp_path / 'logs').exists()


def test_a_way_that_other_settings_forbid_is_refused(xlab, tiny):
    status, printed = xlab('fit', *tiny, '--model.trunk.attention=flex', '--model.trunk.dropout=0.1')
    assert status == 2
    assert 'trunk.attention flex has no dropout on probabilities' in printed
