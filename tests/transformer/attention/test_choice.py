"""Passes: one for each kind of layer and call, of the kind that the call needs."""

import pytest
import torch
from trunks import make_ids, make_layout, make_trunk

from xlabml.transformer.attention import documents
from xlabml.transformer.attention.cached import CachePass, FillPass
from xlabml.transformer.attention.compiled_documents import OperatorPass
from xlabml.transformer.attention.documents import DocumentsPass
from xlabml.transformer.attention.masked import MaskedPass, RowsPass

WINDOWS = [3, None, 3, None]
LAYOUT = make_layout([3, 5])


def open_passes(layout=None, cache_rows=0, device='cpu', **options):
    trunk = make_trunk(n_layers=4, window=WINDOWS, **options).to(device)
    cache = trunk.new_cache(cache_rows, 9) if cache_rows else None
    return trunk._open(make_ids(8).to(device), layout, cache)[1]


@pytest.mark.parametrize('layout', [None, LAYOUT], ids=['row', 'packed'])
def test_layers_that_attend_alike_share_a_pass(layout):
    passes = open_passes(layout)
    assert passes[0] is passes[2] is not passes[1] is passes[3]
    assert [one.rule.window for one in passes] == WINDOWS


def test_documents_are_cut_once_for_each_kind_of_layer(monkeypatch):
    cut = []
    make_plan = documents.make_plan
    monkeypatch.setattr(documents, 'make_plan', lambda *parts: cut.append(parts[2].window) or make_plan(*parts))
    trunk = make_trunk(n_layers=4, window=WINDOWS, checkpointing='full').train()
    for _ in range(2):  # with what is computed once more for the gradient
        trunk(make_ids(8), LAYOUT).sum().backward()
    assert cut == [3, None] * 2


def test_a_call_takes_the_pass_of_its_kind(monkeypatch):
    assert {type(one) for one in open_passes()} == {RowsPass}
    assert {type(one) for one in open_passes(LAYOUT)} == {DocumentsPass}
    there = LAYOUT._replace(starts=LAYOUT.starts.to('meta'))
    assert {type(one) for one in open_passes(there, device='meta')} == {MaskedPass}
    monkeypatch.setattr('torch.compiler.is_compiling', lambda: True)
    assert {type(one) for one in open_passes(LAYOUT)} == {OperatorPass}
    assert {type(one) for one in open_passes(LAYOUT, attention='plain')} == {MaskedPass}


def test_with_a_cache_each_layer_has_a_pass_of_its_own():
    decoding = open_passes(cache_rows=1)
    assert [(type(one), one.layer, one.rule.window) for one in decoding] == [
        (CachePass, layer, window) for layer, window in enumerate(WINDOWS)
    ]
    filling = open_passes(LAYOUT, cache_rows=2)
    assert [(type(one), one.layer) for one in filling] == [(FillPass, layer) for layer in range(4)]
    assert filling[0].inner is filling[2].inner is not filling[1].inner


@pytest.mark.parametrize('layout', [None, LAYOUT], ids=['row', 'packed'])
def test_a_layer_in_evaluation_drops_nothing_in_a_trunk_in_training(layout):
    trunk = make_trunk(dropout=0.5, pos_drop=False, ff_drop=False, block_drop=False).train()
    trunk.blocks[0].attention.eval()
    dropping, whole = trunk._open(make_ids(8), layout, None)[1][::-1]
    assert (dropping.rule.dropout, whole.rule.dropout) == (0.5, 0.0)
    trunk.blocks[1].attention.eval()
    torch.testing.assert_close(trunk(make_ids(8), layout), trunk.eval()(make_ids(8), layout))
