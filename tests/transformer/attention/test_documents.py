"""Attention inside long documents of packed rows on a CPU: what it multiplies out in bf16, and what together."""

import itertools
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trunks import mix_documents

from xlabml.transformer import attend
from xlabml.transformer.attention import (
    Documents,
    Rule,
    compiled_documents,
    documents,
    long_documents,
    make_masks,
    short_documents,
)

SEGMENTS = [(512, True)] * 2 + [(300, True), (97, True), (0, True), (115, False), (40, True), (40, True), (432, False)]
TEXTS = {
    'mixed': SEGMENTS,
    'long': [(257, True), (1100, True), (1, False), (300, True), (512, True), (448, True)],
    'longest': [(1030, True)],
}
RULES = {
    'causal': Rule(),
    'bidirectional': Rule(causal=False),
    'window': Rule(window=140),
    'bidirectional window': Rule(causal=False, window=300),
    'slopes': Rule(slopes=torch.tensor([0.5, 0.01])),
}


@pytest.fixture(autouse=True)
def amx(monkeypatch):
    """As on a machine with AMX: elsewhere torch takes the same products as they are."""
    monkeypatch.setattr('torch.cpu._is_amx_tile_supported', lambda: True)


def make_documents(segments=SEGMENTS, is_read=True):
    lengths = torch.tensor([length for length, _ in segments])
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int()
    texts = torch.tensor([is_text for _, is_text in segments])
    index = torch.repeat_interleave(lengths)[None]
    return Documents(starts, int(lengths.max()), texts, index, segments if is_read else None)


def make_parts(dtype, n_kv_heads=2, segments=SEGMENTS):
    """Queries, keys and values, t h c, with spreads at which rounding to bf16 shows."""
    torch.manual_seed(0)
    n = sum(length for length, _ in segments)
    return [torch.randn(n, h, 16).mul(2).to(dtype).requires_grad_() for h in (2, n_kv_heads, n_kv_heads)]


def define(parts, rule, segments=SEGMENTS):
    """The definition, document by document in float64; zeros where a segment is padding."""
    n_shared = parts[0].size(1) // parts[1].size(1)
    rule = rule._replace(slopes=None if rule.slopes is None else rule.slopes.double())
    rows = [part.double().transpose(0, 1)[None].split([length for length, _ in segments], dim=2) for part in parts]
    mixed = []
    for (length, is_text), q, k, v in zip(segments, *rows):
        place = torch.arange(length)
        visible, bias = make_masks(place[None], place, rule)
        k, v = (x.repeat_interleave(n_shared, dim=1) for x in (k, v))
        part = attend(q, k, v, visible, bias) if is_text and length else torch.zeros_like(q)
        mixed.append(part[0].transpose(0, 1))
    return torch.cat(mixed)


def gradients(mixed, parts):
    weight = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((mixed.float() * weight).sum(), parts)


@pytest.mark.parametrize('segments', TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize('rule', RULES.values(), ids=RULES)
@pytest.mark.parametrize('n_kv_heads', [2, 1])
@pytest.mark.parametrize('is_read', [True, False], ids=['read', 'operator'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)], ids=['fp32', 'bf16'])
def test_long_documents_give_what_the_definition_gives(dtype, tolerance, is_read, n_kv_heads, rule, segments):
    """In fp32 to its own rounding, so nothing of it is taken in bf16."""
    parts = make_parts(dtype, n_kv_heads, segments)
    mixed = mix_documents(*parts, rule, make_documents(segments, is_read))
    expected = define(parts, rule, segments)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.double(), expected, rtol=tolerance, atol=tolerance)
    for grad, wanted in zip(gradients(mixed, parts), gradients(expected, parts)):
        assert grad.dtype == dtype
        spread = wanted.double().std()
        assert (grad.double() - wanted.double()).std() < tolerance * spread


@pytest.mark.parametrize('rule', [Rule(), Rule(causal=False)], ids=['causal', 'bidirectional'])
@pytest.mark.parametrize(
    ('dtype', 'module', 'tolerance'),
    [(torch.float32, short_documents, 1e-6), (torch.bfloat16, long_documents, 4e-3)],
    ids=['fp32', 'bf16'],
)
def test_documents_looked_at_together_give_what_each_gives_alone(monkeypatch, dtype, module, tolerance, rule):
    parts = make_parts(dtype)
    together = mix_documents(*parts, rule, make_documents())
    grads = gradients(together, parts)
    monkeypatch.setattr(module, '_AT_ONCE', 1)
    alone = mix_documents(*parts, rule, make_documents())
    torch.testing.assert_close(together, alone, rtol=2 * tolerance, atol=tolerance)
    torch.testing.assert_close(grads, gradients(alone, parts), rtol=20 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize('rule', RULES.values(), ids=RULES)
def test_autocast_changes_nothing(rule):
    parts = make_parts(torch.bfloat16)
    mixed = mix_documents(*parts, rule, make_documents())
    with torch.autocast('cpu', torch.bfloat16):
        cast = mix_documents(*parts, rule, make_documents())
        cast_grads = gradients(cast, parts)
    assert torch.equal(mixed, cast)
    for grad, wanted in zip(cast_grads, gradients(mixed, parts)):
        assert torch.equal(grad, wanted)


@pytest.mark.parametrize('rule', [Rule(), Rule(causal=False)], ids=['causal', 'bidirectional'])
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_what_is_not_finite_stays_in_its_document(bad, rule):
    segments = [(300, True), (290, True), (500, True)]
    parts = make_parts(torch.bfloat16, segments=segments)
    with torch.no_grad():
        for part in parts:
            part[300:590] = bad
    mixed = mix_documents(*parts, rule, make_documents(segments))
    weight = torch.ones_like(mixed)
    weight[300:590] = 0
    for x in (mixed, *torch.autograd.grad(mixed, parts, weight)):
        assert x[:300].isfinite().all()
        assert x[590:].isfinite().all()


@pytest.mark.parametrize('is_read', [True, False], ids=['read', 'unread'])
def test_on_another_device_all_stays_there(is_read):
    """A device's layout is read where there is a cache."""
    parts = [part.detach().to('meta') for part in make_parts(torch.float32)]
    layout = make_documents(is_read=is_read)
    layout = layout._replace(**{name: getattr(layout, name).to('meta') for name in ('starts', 'is_text', 'segment')})
    mixed = mix_documents(*parts, Rule(), layout)
    assert mixed.device.type == 'meta'
    assert mixed.shape == parts[0].shape


def test_without_a_gradient_no_probabilities_are_kept(monkeypatch):
    kept, mix = [], documents.attend_plan
    monkeypatch.setattr(documents, 'attend_plan', lambda *parts: kept.append(parts[4]) or mix(*parts))
    parts = make_parts(torch.float32)
    mix_documents(*(part.detach() for part in parts), Rule(), make_documents())
    mix_documents(*parts, Rule(), make_documents())
    assert kept[0] is None
    assert kept[1]


def count_kept(segments, dtype, causal=True):
    """Bytes kept for the gradient, each memory once; and those of queries, keys and values."""
    parts, kept = make_parts(dtype, segments=segments), {}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.data_ptr(), x), lambda x: x):
        mix_documents(*parts, Rule(causal), make_documents(segments))
    return sum(x.nbytes for x in kept.values()), sum(x.nbytes for x in parts)


@pytest.mark.parametrize('causal', [True, False])
def test_of_long_documents_only_what_came_in_is_kept(causal):
    long = [(512, True), (1300, True), (40, False)]
    n_kept, n_in = count_kept(long, torch.bfloat16, causal)
    assert n_kept == n_in
    n_kept, n_in = count_kept([*long, (100, True)], torch.bfloat16, causal)
    assert n_kept == n_in + 3 * 100 * 2 * 16 * 4 + 2 * 100 * 100 * 4  # and what is kept of the short one


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_of_short_documents_what_came_in_is_not_kept_besides(dtype):
    n_kept, _ = count_kept([(100, True), (50, False)], dtype)
    assert n_kept == 3 * 150 * 2 * 16 * 4 + 2 * 100 * 100 * 4


def test_what_is_added_to_scores_is_shared_by_all_documents():
    """Else it would grow by heads x documents x length²."""
    rule = Rule(causal=False, slopes=torch.ones(4))
    runs = long_documents.make_runs([slice(start, start + 990) for start in range(0, 9900, 990)], rule)
    assert len(runs) == 10
    assert len({run.bias.untyped_storage().data_ptr() for run in runs}) == 1


def test_products_are_as_they_were_afterwards(monkeypatch):
    matmul = torch.backends.mkldnn.matmul
    before, seen = matmul.fp32_precision, []
    bmm = torch.bmm
    monkeypatch.setattr(torch, 'bmm', lambda *parts: seen.append(matmul.fp32_precision) or bmm(*parts))
    parts = make_parts(torch.bfloat16)
    mixed = mix_documents(*parts, Rule(), make_documents())
    gradients(mixed, parts)
    assert set(seen) == {'bf16', before}
    assert matmul.fp32_precision == before

    def fail(*_):
        raise RuntimeError('on purpose')

    mixed = mix_documents(*parts, Rule(), make_documents())
    monkeypatch.setattr(long_documents.torch, 'bmm', fail)
    with pytest.raises(RuntimeError, match='on purpose'):
        gradients(mixed, parts)
    assert matmul.fp32_precision == before


def test_threads_leave_products_as_they_were():
    """Each restores what it found, and not what another had set."""
    matmul = torch.backends.mkldnn.matmul
    before, met = matmul.fp32_precision, threading.Barrier(2)

    def hold():
        met.wait()
        with long_documents._products_in_bf16():
            time.sleep(0.01)

    for _ in range(5):
        threads = [threading.Thread(target=hold) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert matmul.fp32_precision == before


@pytest.mark.parametrize('rule', [Rule(), RULES['slopes'], Rule(causal=False)], ids=['causal', 'slopes', 'both ways'])
def test_the_operator_is_what_torch_asks_of_one(rule):
    segments = [(257, True), (20, True), (280, False)]
    parts, layout = make_parts(torch.bfloat16, segments=segments), make_documents(segments)
    arguments = *parts, layout.starts, layout.is_text, layout.max_length, rule.causal, rule.window, rule.slopes
    torch.library.opcheck(
        compiled_documents._attend_documents,
        arguments,
        test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'),
    )


@given(
    segments=st.lists(st.tuples(st.sampled_from([0, 1, 97, 128, 256, 300, 512, 1000]), st.booleans()), max_size=8),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 100, 256, 700]),
    is_narrow=st.booleans(),
    has_slopes=st.booleans(),
)
def test_each_query_is_computed_once_with_all_keys_that_it_attends_to(segments, causal, window, is_narrow, has_slopes):
    starts = [0, *itertools.accumulate(length for length, _ in segments)]
    ends = {start: start + length for start, (length, is_text) in zip(starts, segments) if is_text and length}
    rows: list[int] = []
    rule = Rule(causal, window, torch.ones(2) if has_slopes else None)
    like = torch.empty(0, dtype=torch.bfloat16 if is_narrow else torch.float32)
    plan = documents.make_plan(documents.part_segments(segments, rule, like), segments, rule, like)
    others = None if plan.tokens is None else plan.tokens.tolist()
    for block in plan.blocks:
        length = (block.documents.stop - block.documents.start) // block.n_documents
        assert block.n_documents == 1 or not has_slopes
        for first in range(block.documents.start, block.documents.stop, length):
            start = first if others is None else others[first]
            assert ends[start] == start + length
            assert others is None or others[first : first + length] == list(range(start, start + length))
            rows += range(start + block.queries.start, start + block.queries.stop)
        reach = length if window is None else window - 1
        last = block.queries.stop if causal else min(length, block.queries.stop + reach)
        assert 0 <= block.keys.start <= max(0, block.queries.start - reach)
        assert last <= block.keys.stop <= length
    assert is_narrow or not plan.runs
    for run in plan.runs:
        assert run.padded % 64 == 0  # else oneDNN would compile ever new kernels
        assert run.n_documents == sum(count for _, count in run.places)
        for place, count in run.places:
            length = (place.stop - place.start) // count
            assert run.padded - 256 < length <= run.padded
            for start in range(place.start, place.stop, length):
                assert ends[start] == start + length
                rows += range(start, start + length)
    assert sorted(rows) == [i for start, end in ends.items() for i in range(start, end)]
