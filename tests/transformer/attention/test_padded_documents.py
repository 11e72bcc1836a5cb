"""Attention inside documents that are padded to few lengths, in bf16."""

import pytest
import torch
from test_documents import RULES, define, gradients, make_documents, make_parts
from test_tiled_documents import TEXTS, set_cpu
from trunks import mix_documents

from xlabml.transformer.attention import Rule, compiled_documents, documents, padded_documents
from xlabml.transformer.attention.padded_documents import Padding, make_padding

PADDED = {name: rule for name, rule in RULES.items() if rule.slopes is None}


@pytest.fixture
def padded(monkeypatch):
    """As on a machine with AVX-512-BF16 and no AMX; a pass that goes another way fails."""
    set_cpu(monkeypatch, False, True)
    monkeypatch.setattr(documents, '_SHORT', 0)
    monkeypatch.setattr(documents, 'make_blocks', None)
    monkeypatch.setattr(compiled_documents, '_PLANS', {})


@pytest.mark.parametrize('segments', TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize('rule', PADDED.values(), ids=PADDED)
@pytest.mark.parametrize('n_kv_heads', [2, 1])
@pytest.mark.parametrize('is_read', [True, False], ids=['read', 'operator'])
def test_padded_documents_give_what_the_definition_gives(padded, is_read, n_kv_heads, rule, segments):
    parts = make_parts(torch.bfloat16, n_kv_heads, segments)
    with torch.autocast('cpu', torch.bfloat16):  # which must change nothing
        mixed = mix_documents(*parts, rule, make_documents(segments, is_read))
        grads = gradients(mixed, parts)
    expected = define(parts, rule, segments)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.double(), expected, rtol=2e-2, atol=2e-2)
    for grad, wanted in zip(grads, gradients(expected, parts)):
        assert grad.dtype == torch.bfloat16
        assert (grad.double() - wanted.double()).std() <= 2e-2 * wanted.double().std()


@pytest.mark.parametrize('causal', [True, False])
def test_no_document_reads_another_one(padded, causal):
    """Each of the lengths 1 to 40 among others; a NaN in one document, or its gradient, stays there."""
    segments = [(length, True) for length in range(1, 41)]
    parts = make_parts(torch.bfloat16, segments=segments)
    first = sum(length for length, _ in segments[:20])
    place = slice(first, first + segments[20][0])
    for part in parts:
        part.data[0, place] = torch.nan
    mixed = mix_documents(*parts, Rule(causal), make_documents(segments))
    for found in (mixed, *gradients(mixed, parts)):
        is_bad = found.isnan().flatten(2).any(-1)[0]
        assert is_bad[place].all()
        assert not is_bad[:first].any()
        assert not is_bad[place.stop :].any()


def test_shapes_recur():
    """Rows of other documents have the same padded lengths, for which oneDNN has compiled its kernels."""
    lengths = {batch.length for first in range(1, 30) for batch in make_padding([(first, True)], Rule(), 2).batches}
    assert lengths == {32}


def test_only_bf16_is_padded(monkeypatch):
    set_cpu(monkeypatch, False, True)
    segments = [(100, True), (28, False)]
    for dtype in (torch.bfloat16, torch.float32):
        like = torch.empty(128, 2, 8, dtype=dtype)
        plan = documents.make_plan(documents.part_segments(segments, Rule(), like), segments, Rule(), like)
        assert isinstance(plan, Padding) == (dtype == torch.bfloat16)


def test_layers_of_a_compiled_pass_share_a_plan(padded, monkeypatch):
    """Forward and backward; another layout has a plan of its own, and the oldest plans are dropped."""
    made = []
    make_plan = compiled_documents.make_plan
    monkeypatch.setattr(compiled_documents, 'make_plan', lambda *parts: made.append(parts[1]) or make_plan(*parts))
    for length in (10, 20, 30, 40, 50, 10):
        segments = [(length, True), (60 - length, True)]
        for _ in range(2):
            parts = make_parts(torch.bfloat16, segments=segments)
            mixed = mix_documents(*parts, Rule(), make_documents(segments, is_read=False))
            gradients(mixed, parts)
    assert [segments[0][0] for segments in made] == [10, 20, 30, 40, 50, 10]
    assert len(compiled_documents._PLANS) == compiled_documents._MOST_PLANS


@pytest.mark.parametrize('causal', [True, False])
def test_a_compiled_pass_keeps_probabilities_where_there_is_room(padded, monkeypatch, causal):
    """Documents of one token take the most places per token; the gradients are the same."""
    calls = []
    own = padded_documents._probabilities
    monkeypatch.setattr(padded_documents, '_probabilities', lambda *parts: calls.append(0) or own(*parts))
    for segments in ([(1, True)] * 40, [(300, True), (40, False), (260, True)]):
        found = []
        for most, n_computed in ((1 << 28, 1), (0, 2)):
            monkeypatch.setattr(compiled_documents, '_MOST_KEPT', most)
            calls.clear()
            parts = make_parts(torch.bfloat16, segments=segments)
            mixed = mix_documents(*parts, Rule(causal), make_documents(segments, is_read=False))
            n_blocks = len(calls)
            found.append([mixed, *gradients(mixed, parts)])
            assert len(calls) == n_computed * n_blocks
        for kept, computed in zip(*found):
            assert torch.equal(kept, computed)
