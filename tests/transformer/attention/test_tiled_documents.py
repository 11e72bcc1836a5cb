"""Attention inside documents by tiles, and which processor goes which way."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_documents import RULES, define, gradients, make_documents, make_parts
from trunks import copy_weights, make_ids, make_layout, make_trunk, mix_documents
from trunks import gradients as trunk_gradients

from xlabml.transformer.attention import Rule, compiled_documents, documents
from xlabml.transformer.attention.tiled_documents import _TILE, Tiling, make_tiling

TEXTS = {
    'mixed': [
        (130, True),
        (3, True),
        (0, True),
        (115, False),
        (1, True),
        (1, True),
        (64, True),
        (200, True),
        (7, False),
    ],
    'one': [(512, True)],
    'short': [(5, True)] * 30,
    'padding first': [(150, False), (60, True), (64, True), (128, False)],
}
TILED = {name: rule for name, rule in RULES.items() if rule.slopes is None}


def set_cpu(monkeypatch, has_amx, has_bf16):
    monkeypatch.setattr('torch.cpu._is_amx_tile_supported', lambda: has_amx)
    monkeypatch.setattr('torch.cpu._is_avx512_bf16_supported', lambda: has_bf16)


@pytest.fixture
def tiled(monkeypatch):
    """As on a machine with AVX-512-BF16 and no AMX; a pass that goes another way fails."""
    set_cpu(monkeypatch, False, True)
    monkeypatch.setattr(documents, '_SHORT', 1000)
    monkeypatch.setattr(documents, 'make_blocks', None)
    monkeypatch.setattr(compiled_documents, '_PLANS', {})


@pytest.mark.parametrize('segments', TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize('rule', TILED.values(), ids=TILED)
@pytest.mark.parametrize('n_kv_heads', [2, 1])
@pytest.mark.parametrize('is_read', [True, False], ids=['read', 'operator'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=['fp32', 'bf16'])
def test_tiles_give_what_the_definition_gives(tiled, dtype, tolerance, is_read, n_kv_heads, rule, segments):
    parts = make_parts(dtype, n_kv_heads, segments)
    with torch.autocast('cpu', torch.bfloat16):  # which must change nothing
        mixed = mix_documents(*parts, rule, make_documents(segments, is_read))
        grads = gradients(mixed, parts)
    expected = define(parts, rule, segments)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.double(), expected, rtol=tolerance, atol=tolerance)
    for grad, wanted in zip(grads, gradients(expected, parts)):
        assert grad.dtype == dtype
        assert (grad.double() - wanted.double()).std() <= tolerance * wanted.double().std()


def test_padding_alone_gives_zeros(monkeypatch):
    set_cpu(monkeypatch, False, True)
    segments = [(70, False)]
    parts = make_parts(torch.float32, segments=segments)
    mixed = mix_documents(*parts, Rule(), make_documents(segments))
    assert not any(x.count_nonzero() for x in (mixed, *gradients(mixed, parts)))


@given(
    segments=st.lists(st.tuples(st.sampled_from([0, 1, 3, 31, 32, 33, 64, 130, 300]), st.booleans()), max_size=8),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 40, 64, 200]),
)
def test_each_query_attends_to_its_document_and_to_nothing_else(segments, causal, window):
    starts = [0, *itertools.accumulate(length for length, _ in segments)]
    spans = {}  # of each token of text: the first and last key that it attends to
    for start, (length, is_text) in zip(starts, segments):
        for i in range(start, start + length if is_text else start):
            far = length if window is None else window - 1
            spans[i] = max(start, i - far), min(i if causal else start + length - 1, i + far)
    tiling, found = make_tiling(segments, Rule(causal, window), torch.empty(0)), {}
    for group in tiling.groups:
        assert group.bias.size(2) <= 2 * (max(length for length, _ in segments) + _TILE)  # no n x n mask
        keys = group.keys.view(group.tiles.numel(), -1)
        places = (_TILE * keys[:, :, None] + torch.arange(_TILE)).flatten(1)
        for tile, place, bias in zip(group.tiles.tolist(), places, group.bias):
            for i in range(_TILE):
                seen = place[bias[i] == 0].tolist()
                assert set(bias[i].tolist()) <= {0.0, float('-inf')}
                assert seen == list(range(seen[0], seen[-1] + 1))
                if _TILE * tile + i in spans:
                    found[_TILE * tile + i] = seen[0], seen[-1]
    assert found == spans


@pytest.mark.parametrize('options', [{}, {'n_kv_heads': 2, 'window': [5, None]}, {'causal': False}], ids=str)
@pytest.mark.parametrize('checkpointing', ['none', 'full', 'selective'])
def test_a_trunk_learns_by_tiles_what_it_learns_by_the_definition(tiled, checkpointing, options):
    trunk = make_trunk(checkpointing=checkpointing, **options).train()
    plain = copy_weights(trunk, attention='plain', **options)
    ids, layout = make_ids(80, batch=2), make_layout([25, 30, 25, 32, 32, 16], [True] * 5 + [False])
    is_text = torch.arange(160) < 144
    hidden, expected = (one(ids, layout).flatten(0, 1)[is_text] for one in (trunk, plain))
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-4)
    for grad, wanted in zip(trunk_gradients(trunk, hidden), trunk_gradients(plain, expected)):
        torch.testing.assert_close(grad, wanted, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(trunk(ids, layout).flatten(0, 1)[is_text], expected, rtol=1e-4, atol=1e-4)


def test_the_operator_is_what_torch_asks_of_one(tiled):
    segments = [(70, True), (20, True), (60, False)]
    parts, layout = make_parts(torch.bfloat16, segments=segments), make_documents(segments)
    arguments = *parts, layout.starts, layout.is_text, layout.max_length, True, None, None
    torch.library.opcheck(
        compiled_documents._attend_documents,
        arguments,
        test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'),
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(('has_amx', 'has_bf16', 'lengths', 'slopes', 'is_tiled'), [
    (True, True, [31, 31], None, False),  # AMX: as it was
    (True, False, [31, 31], None, False),
    (False, True, [31, 31], None, True),
    (False, True, [31, 33], None, False),  # not short on average
    (False, True, [512] + 60 * [20], None, True),
    (False, True, [513] + 60 * [20], None, False),  # the mask would be large
    (False, True, [31, 31], torch.ones(2), False),
    (False, True, [], None, False),
    (False, False, [31, 31], None, False),  # not measured: as it was
])  # fmt: skip
def test_the_processors_flags_and_the_documents_decide(
    monkeypatch, has_amx, has_bf16, lengths, slopes, is_tiled, dtype
):
    set_cpu(monkeypatch, has_amx, has_bf16)
    segments = [(length, True) for length in lengths] + [(80, False), (0, True)]
    rule = Rule(slopes=slopes)
    like = torch.empty(0, 2, 8, dtype=dtype)
    parts = documents.part_segments(segments, rule, like)
    assert isinstance(documents.make_plan(parts, segments, rule, like), Tiling) == is_tiled


def test_a_torch_without_the_flags_goes_as_before(monkeypatch):
    monkeypatch.delattr('torch.cpu._is_amx_tile_supported')
    monkeypatch.delattr('torch.cpu._is_avx512_bf16_supported')
    assert documents.cpu_kind() == 'other'


def test_a_line_says_which_way_and_why(monkeypatch):
    set_cpu(monkeypatch, False, True)
    said = make_trunk().describe_documents('cpu', torch.bfloat16)
    assert said == 'documents: padded in bf16, by tiles below 32 tokens on average (the CPU has AVX-512-BF16, no AMX)'
    set_cpu(monkeypatch, True, True)
    said = make_trunk().describe_documents('cpu', torch.float32)
    assert said == 'documents: by blocks (the CPU has AMX)'
    assert make_trunk(dropout=0.1).describe_documents('cpu', torch.float32) is None
    assert make_trunk(score_cap=5.0).describe_documents('cpu', torch.float32) is None
    assert make_trunk().describe_documents('meta', torch.float32) is None


def test_without_a_gradient_nothing_is_kept(tiled):
    parts, kept = make_parts(torch.float32, segments=TEXTS['mixed']), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x), torch.no_grad():
        mix_documents(*parts, Rule(), make_documents(TEXTS['mixed']))
    assert not kept
