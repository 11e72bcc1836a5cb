"""Every way to compute attention gives what the definition gives."""

import itertools
import math

import pytest
import torch
from trunks import mix_documents

from xlabml.transformer import ALiBi, Rotary, attend
from xlabml.transformer.attention import Documents, Rule, make_masks
from xlabml.transformer.attention.masked import attend_fused
from xlabml.transformer.positions import rotate

RULES = {
    'causal': Rule(),
    'bidirectional': Rule(causal=False),
    'window': Rule(window=3),
    'bidirectional window': Rule(causal=False, window=3),
    'alibi': Rule(slopes=torch.tensor([0.5, 0.25, 0.125, 0.1])),
    'bidirectional alibi': Rule(causal=False, slopes=torch.tensor([0.5, 0.25, 0.125, 0.1])),
    'cap': Rule(score_cap=1.5),
    'all': Rule(window=4, slopes=torch.tensor([0.5, 0.25, 0.125, 0.1]), score_cap=1.5),
}


def make_heads(n, m=None, batch=2, n_kv_heads=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, 4, n, 8, generator=generator)
    k, v = torch.randn(2, batch, n_kv_heads, m or n, 8, generator=generator) * 2
    return [x.requires_grad_() for x in (q, k, v)]


def is_plain(rule):
    return rule.score_cap is not None


def make_documents(lengths, texts, is_read=True):
    """Those of one row."""
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    segment = torch.repeat_interleave(starts.diff())[None]
    segments = list(zip(lengths, texts)) if is_read else None
    return Documents(starts, max(lengths), torch.tensor(texts), segment, segments)


def defined(q, k, v, rule, position):
    visible, bias = make_masks(position, torch.arange(k.size(2)), rule)
    return attend(q, k, v, visible, bias, rule.score_cap)


def assert_same(got, expected, parts):
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    grads = [torch.autograd.grad((x * weight).sum(), parts) for x in (got, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def test_the_definition_by_hand():
    q, k = torch.tensor([[[[2.0]]]]), torch.tensor([[[[1.0], [-1.0]]]])
    v = torch.tensor([[[[10.0], [20.0]]]])
    share = math.exp(2) / (math.exp(2) + math.exp(-2))
    assert attend(q, k, v).item() == pytest.approx(10 * share + 20 * (1 - share))
    assert attend(q, k, v, torch.tensor([[[[False, True]]]])).item() == 20
    capped = 1 / (1 + math.exp(-2 * math.tanh(2)))
    assert attend(q, k, v, score_cap=1.0).item() == pytest.approx(10 * capped + 20 * (1 - capped))
    assert attend(q, k, v, bias=torch.tensor([[[[-4.0, 0.0]]]])).item() == pytest.approx(15)


def test_masks_by_hand():
    visible, bias = make_masks(torch.tensor([[2]]), torch.arange(5), Rule(window=2, slopes=torch.tensor([0.5])))
    assert visible.flatten().tolist() == [False, True, True, False, False]
    assert bias.flatten().tolist() == [-1.0, -0.5, -0.0, -0.5, -1.0]
    visible, _ = make_masks(torch.tensor([[2]]), torch.arange(5), Rule(causal=False, window=2))
    assert visible.flatten().tolist() == [False, True, True, True, False]


@pytest.mark.parametrize('rule', RULES.values(), ids=RULES)
@pytest.mark.parametrize('n_kv_heads', [4, 2, 1])
@pytest.mark.parametrize('n', [1, 3, 11])
def test_rows_equal_the_definition(rule, n_kv_heads, n, monkeypatch):
    monkeypatch.setattr('xlabml.transformer.attention.masked._BLOCK', 4)
    parts = make_heads(n, n_kv_heads=n_kv_heads)
    assert_same(
        attend_fused(*parts, rule, is_plain=is_plain(rule)), defined(*parts, rule, torch.arange(n)[None]), parts
    )


@pytest.mark.parametrize('rule', [rule for rule in RULES.values() if rule.causal], ids=str)
@pytest.mark.parametrize('n', [1, 5])
def test_queries_behind_a_cache_equal_the_definition(rule, n, monkeypatch):
    monkeypatch.setattr('xlabml.transformer.attention.masked._BLOCK', 4)
    parts = make_heads(n, 9, n_kv_heads=2)
    assert_same(
        attend_fused(*parts, rule, is_plain=is_plain(rule)), defined(*parts, rule, torch.arange(9 - n, 9)[None]), parts
    )
    position = torch.tensor([[3], [8 - n + 1]]) + torch.arange(n)
    assert_same(attend_fused(*parts, rule, position, is_plain=is_plain(rule)), defined(*parts, rule, position), parts)


@pytest.mark.parametrize('rule', RULES.values(), ids=RULES)
@pytest.mark.parametrize('n_kv_heads', [4, 2])
@pytest.mark.parametrize('longest', [0, 1024])
def test_documents_equal_the_definition_one_by_one(rule, n_kv_heads, longest, monkeypatch):
    monkeypatch.setattr('xlabml.transformer.attention.documents._LONGEST', longest)
    lengths, texts = [3, 1, 7, 0, 4, 5, 0], [True, True, True, True, False, True, True]
    parts = [x[0].transpose(0, 1).detach().requires_grad_() for x in make_heads(20, batch=1, n_kv_heads=n_kv_heads)]
    documents = make_documents(lengths, texts)
    expected = [
        defined(*(x.transpose(0, 1)[None] for x in part), rule, torch.arange(length)[None])[0].transpose(0, 1) * is_text
        for length, is_text, *part in zip(lengths, texts, *(x.split(lengths) for x in parts))
        if length
    ]
    assert_same(mix_documents(*parts, rule, documents, is_plain(rule)), torch.cat(expected), parts)


def test_rotation_keeps_lengths_and_depends_on_distance_alone():
    positions, (q, k) = Rotary(32, 2, 64), torch.randn(2, 1, 1, 2, 16, generator=torch.Generator().manual_seed(0))

    def turned(x, position):
        return rotate(x, *positions.angles(torch.tensor([[position]])))

    torch.testing.assert_close(turned(q, 0), q)
    torch.testing.assert_close(turned(q, 40).norm(dim=-1), q.norm(dim=-1))
    score = (turned(q, 7) * turned(k, 2)).sum(-1)
    torch.testing.assert_close((turned(q, 45) * turned(k, 40)).sum(-1), score, rtol=1e-4, atol=1e-4)
    assert ((turned(q, 8) * turned(k, 2)).sum(-1) - score).abs().max() > 1e-3


def test_rotation_without_complex_numbers_is_the_same(monkeypatch):
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0))
    angles = Rotary(24, 3, 64).angles(torch.arange(5)[None])
    fast = rotate(x, *angles)
    monkeypatch.setattr('torch.compiler.is_compiling', lambda: True)
    torch.testing.assert_close(rotate(x, *angles), fast)


def test_alibi_slopes():
    assert ALiBi(16, 8, 8).slopes.tolist() == [2.0**-i for i in range(1, 9)]
    torch.testing.assert_close(ALiBi(12, 6, 8).slopes, torch.tensor([2.0**-i for i in (2, 4, 6, 8, 1, 3)]))
    assert 'slopes' not in ALiBi(16, 8, 8).state_dict()
