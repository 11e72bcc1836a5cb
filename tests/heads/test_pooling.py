"""Pooling of flat rows: every kind against its definition text by text; what does not count never shows."""

import math

import pytest
import torch
from trunks import make_layout

from xlabml.heads import (
    AttentionPooling,
    FirstPooling,
    LastPooling,
    MaxPooling,
    MeanPooling,
    WeightedMeanPooling,
)

D = 6
LENGTHS = [3, 1, 0, 5, 2, 0]
IS_TEXT = [True, True, True, True, False, True]


def make(kind):
    if kind is not AttentionPooling:
        return kind(D)
    pooling = AttentionPooling(D, n_heads=2)
    torch.nn.init.normal_(pooling.query, generator=torch.Generator().manual_seed(3))
    return pooling


def make_hidden(n=11):
    return torch.randn(1, n, D, generator=torch.Generator().manual_seed(0))


def attend(pooling, text):
    share = (text @ pooling.query.T / math.sqrt(D)).softmax(0)  # n h
    return torch.cat([share[:, :1].T @ text[:, :3], share[:, 1:].T @ text[:, 3:]], dim=1)[0]


# Of a text's hidden states, and the number of tokens that are skipped.
DEFINITIONS = {
    MeanPooling: lambda pooling, text, skip: text[skip:].mean(0),
    WeightedMeanPooling: lambda pooling, text, skip: (
        torch.stack([(skip + i + 1) * token for i, token in enumerate(text[skip:])]).sum(0)
        / sum(range(skip + 1, len(text) + 1))
    ),
    MaxPooling: lambda pooling, text, skip: text[skip:].amax(0),
    FirstPooling: lambda pooling, text, skip: text[0],
    LastPooling: lambda pooling, text, skip: text[-1],
    AttentionPooling: lambda pooling, text, skip: attend(pooling, text[skip:]),
}
KINDS = pytest.mark.parametrize('kind', list(DEFINITIONS), ids=lambda kind: kind.__name__)


def by_definition(pooling, hidden, skips):
    """One text after another; zeros for padding and empty segments."""
    rows, begin = [], 0
    for length, is_text, skip in zip(LENGTHS, IS_TEXT, skips):
        text = hidden[0, begin : begin + length]
        begin += length
        rows.append(DEFINITIONS[type(pooling)](pooling, text, skip) if is_text and length else torch.zeros(D))
    return torch.stack(rows)


@KINDS
@pytest.mark.parametrize('skips', [None, [1, 0, 0, 2, 0, 0]], ids=['all', 'without prompts'])
def test_each_text_is_pooled_as_alone(kind, skips):
    pooling = make(kind)
    hidden = make_hidden()
    given = None if skips is None else torch.tensor(skips)
    found = pooling(hidden, make_layout(LENGTHS, IS_TEXT), given)
    torch.testing.assert_close(found, by_definition(pooling, hidden, skips or [0] * 6))


@KINDS
def test_what_stands_in_padding_never_shows(kind):
    pooling = make(kind)
    clean = make_hidden()
    spoilt = clean.clone()
    spoilt[0, 9:] = math.nan
    layout = make_layout(LENGTHS, IS_TEXT)
    leaf = spoilt.requires_grad_()
    found = pooling(leaf, layout)
    assert torch.equal(found, pooling(clean, layout))
    found.square().sum().backward()
    assert leaf.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in pooling.parameters())


@KINDS
def test_a_text_that_is_all_prompt_is_a_zero_vector_or_its_token(kind):
    found = make(kind)(make_hidden(4), make_layout([2, 2]), torch.tensor([2, 0]))
    assert (found[0] == 0).all() == (kind not in (FirstPooling, LastPooling))
    assert (found[1] != 0).any()


@KINDS
def test_sums_of_half_precision_are_taken_in_float32(kind):
    pooling = make(kind)
    hidden = torch.randn(1, 4000, D, generator=torch.Generator().manual_seed(1)).bfloat16()
    layout = make_layout([4000])
    found = pooling(hidden, layout)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pooling(hidden.double(), layout).float(), rtol=1e-4, atol=1e-5)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(pooling(hidden, layout), found)


@KINDS
def test_gradients_are_those_of_the_definition(kind):
    pooling = make(kind).double()
    hidden = make_hidden(7).double().requires_grad_()
    layout = make_layout([4, 3])
    assert torch.autograd.gradcheck(lambda x: pooling(x, layout, torch.tensor([1, 0])), hidden)


def test_scores_of_any_size_make_finite_attention():
    pooling = make(AttentionPooling)
    hidden = make_hidden() * 1e4
    found = pooling(hidden, make_layout(LENGTHS, IS_TEXT))
    torch.testing.assert_close(found, by_definition(pooling, hidden, [0] * 6))


def test_attention_begins_as_the_mean():
    hidden = make_hidden()
    layout = make_layout(LENGTHS, IS_TEXT)
    torch.testing.assert_close(AttentionPooling(D, 3)(hidden, layout), MeanPooling(D)(hidden, layout))
    with pytest.raises(ValueError, match=r'pooling\.n_heads is 4; give a divisor of .*6'):
        AttentionPooling(D, 4)
