"""Weights that are no numbers are named where they would be used."""

import math

import pytest
import torch

from xlabml.finite import describe_nonfinite, find_nonfinite, require_finite


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_what_is_no_number_is_counted(dtype):
    weights = {
        'whole': torch.full((3, 4), torch.finfo(dtype).max, dtype=dtype).mul(torch.tensor([1, -1, 1, 1])),
        'nan': torch.tensor([1, math.nan, math.nan], dtype=dtype),
        'high': torch.tensor([[math.inf, 2]], dtype=dtype),
        'low': torch.tensor([-math.inf, 2], dtype=dtype),
        'both': torch.tensor([-math.inf, math.inf, 0], dtype=dtype),
        'empty': torch.zeros(0, dtype=dtype),
        'ids': torch.arange(3),
    }
    assert find_nonfinite(weights) == {'nan': 2, 'high': 1, 'low': 1, 'both': 2}


def test_they_are_named_with_the_file_and_a_remedy():
    weights = {f'w{i}': torch.tensor([math.nan] * (i + 1)) for i in range(7)}
    assert describe_nonfinite(find_nonfinite(weights)) == (
        '28 values in w0 (1), w1 (2), w2 (3), w3 (4), w4 (5) and 2 more tensors'
    )
    with pytest.raises(ValueError, match=r'the weights in x\.ckpt are not finite .*: 28 values in w0 .*; .*take a'):
        require_finite(weights, 'x.ckpt')
    require_finite({'w': torch.ones(2)}, 'x.ckpt')
