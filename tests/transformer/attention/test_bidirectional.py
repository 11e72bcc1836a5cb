"""A bidirectional trunk on packed rows: each document as alone, values and gradients, by every way of the CPU."""

import pytest
import torch
from trunks import MAX_LEN, N_VOCAB, copy_weights, gradients, make_ids, make_layout, make_trunk

from xlabml.transformer import ALiBi, Learned, NoPositions, Rotary, Sinusoidal
from xlabml.transformer.attention import documents, long_documents, short_documents, tiled_documents

LENGTHS = [4, 6, 1, 9, 0, 3, 17, 0]
"""Two rows of 20 tokens, with empty segments, a document of one token, and padding (the 3 tokens)."""
TEXTS = [True, True, True, True, True, False, True, True]
OPTIONS = {
    'plain trunk': {},
    'window': {'window': [3, None]},
    'groups': {'n_kv_heads': 2},
    'slopes': {'positions': ALiBi},
    'slopes in a window': {'positions': ALiBi, 'window': 3},
    'sinusoids': {'positions': Sinusoidal},
    'learned': {'positions': Learned, 'bias': True},
    'post-norm': {'prenorm': False, 'qk_norm': False},
}


def set_cpu(monkeypatch, has_amx=False, has_bf16=False):
    monkeypatch.setattr('torch.cpu._is_amx_tile_supported', lambda: has_amx)
    monkeypatch.setattr('torch.cpu._is_avx512_bf16_supported', lambda: has_bf16)


def blocks(monkeypatch):
    """Several blocks of queries in a document."""
    set_cpu(monkeypatch)
    monkeypatch.setattr(short_documents, '_BLOCK', 4)


def tiles(monkeypatch):
    set_cpu(monkeypatch, has_bf16=True)
    monkeypatch.setattr(tiled_documents, '_TILE', 8)


def torch_kernel(monkeypatch):
    """As where a document has more than 1024 tokens."""
    set_cpu(monkeypatch)
    monkeypatch.setattr(documents, '_LONGEST', 0)


def operator(monkeypatch):
    """As in a compiled model, whose lengths are read inside the operator only."""
    set_cpu(monkeypatch)
    monkeypatch.setattr('torch.compiler.is_compiling', lambda: True)


WAYS = [blocks, tiles, torch_kernel, operator]


def run_alone(trunk, ids):
    """Each document as a row of its own; zeros for padding."""
    parts = zip(ids.view(1, -1).split(LENGTHS, dim=1), TEXTS)
    rows = [trunk(part) if is_text else torch.zeros(*part.shape, 16) for part, is_text in parts if part.size(1)]
    return torch.cat(rows, dim=1)


def find_text():
    return torch.tensor(TEXTS).repeat_interleave(torch.tensor(LENGTHS))


@pytest.mark.parametrize(
    ('dtype', 'shape'), [(torch.float64, (1, 40)), (torch.float32, (2, 20))], ids=['fp64, one row', 'fp32, two rows']
)
@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize('way', [*WAYS, None], ids=lambda way: 'plain' if way is None else way.__name__)
def test_a_document_is_the_same_packed_or_alone(way, options, shape, dtype, monkeypatch):
    """In fp64 to 10 digits: what differs by more than rounding fails."""
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    attention = 'plain' if way is None else 'sdpa'
    trunk = make_trunk(causal=False, attention=attention, **options).to(dtype)
    definition = copy_weights(trunk, causal=False, attention='plain', **options).to(dtype)
    definition.load_state_dict(trunk.state_dict())  # in fp64 too
    ids, is_text = make_ids(40), find_text()
    expected = run_alone(definition, ids)[:, is_text]
    alone = run_alone(trunk, ids)[:, is_text]
    if way is not None:
        way(monkeypatch)
    packed = trunk(ids.view(shape), make_layout(LENGTHS, TEXTS)).view(1, 40, -1)
    assert packed.isfinite().all()
    wanted = gradients(definition, expected)
    for hidden in (packed[:, is_text], alone):
        torch.testing.assert_close(hidden, expected, rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(gradients(trunk, hidden), wanted):
            torch.testing.assert_close(ours, theirs, rtol=20 * tolerance, atol=20 * tolerance)


@pytest.mark.parametrize('way', [*WAYS, None], ids=lambda way: 'plain' if way is None else way.__name__)
@pytest.mark.parametrize('batch', [1, 2])
def test_every_token_of_a_document_attends_to_every_other_and_to_no_other_document(way, batch, monkeypatch):
    trunk = make_trunk(causal=False, attention='plain' if way is None else 'auto')
    ids, layout = make_ids(24).view(batch, -1), make_layout([5, 7, 12])
    if way is not None:
        way(monkeypatch)
    hidden = trunk(ids, layout).flatten(0, 1)
    ends = [5, 12, 24]
    for start, end in zip([0, *ends], ends):
        for place in {start, (start + end) // 2, end - 1}:
            changed = ids.flatten().clone()
            changed[place] = (changed[place] + 1) % N_VOCAB
            moved = (trunk(changed.view(batch, -1), layout).flatten(0, 1) - hidden).abs().amax(-1)
            assert moved[start:end].min() > 1e-4
            assert moved[:start].sum() + moved[end:].sum() == 0


@pytest.mark.parametrize('positions', [Rotary, ALiBi, NoPositions])
def test_long_documents_in_bf16_are_the_same_packed_or_alone(positions, monkeypatch):
    """The way of AMX, which takes documents of at least `LEAST` tokens in bf16 only."""
    set_cpu(monkeypatch, has_amx=True)
    monkeypatch.setattr(documents, 'LEAST', 8)
    monkeypatch.setattr(long_documents, '_ROWS', 8)
    monkeypatch.setattr(long_documents, '_STEP', 4)
    runs = []
    attend_long = long_documents.attend_long
    monkeypatch.setattr(documents, 'attend_long', lambda *parts: runs.append(parts) or attend_long(*parts))
    trunk = make_trunk(causal=False, positions=positions)
    definition = copy_weights(trunk, causal=False, positions=positions, attention='plain')
    ids, is_text = make_ids(40), find_text()
    with torch.autocast('cpu', torch.bfloat16):
        packed = trunk(ids, make_layout(LENGTHS, TEXTS))[:, is_text]
        assert len(runs) > 0
        grads = gradients(trunk, packed)
        rounded = gradients(definition, run_alone(definition, ids)[:, is_text])
    expected = run_alone(definition, ids)[:, is_text]
    wanted = gradients(definition, expected)
    torch.testing.assert_close(packed.float(), expected, rtol=0.1, atol=0.1)
    for ours, theirs, exact in zip(grads, rounded, wanted):
        # No further from the exact gradient than the definition is in bf16, give or take.
        distance = (ours - exact).norm()
        assert distance <= 2 * (theirs - exact).norm() + 1e-2 * exact.norm()


def test_a_document_as_long_as_the_row_needs_no_layout():
    trunk, ids = make_trunk(causal=False), make_ids(MAX_LEN, batch=2)
    packed = trunk(ids, make_layout([MAX_LEN, MAX_LEN]))
    torch.testing.assert_close(packed, trunk(ids), rtol=1e-5, atol=1e-5)
