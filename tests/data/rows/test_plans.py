"""Plans lose no target, fill rows well, and say whose each slot is."""

import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlabml.data import Chunk, Concat, Corpus, Pack, open_plan
from xlabml.datamodules import XLabDataModule

from_0 = np.arange


def some_lengths(n, seed=0, scale=60):
    return np.random.default_rng(seed).exponential(scale, n).astype(np.int64) + 1


PLANS = [
    Pack(32),
    Pack(32, max_documents=3),
    Pack(7, max_documents=2),
    Concat(32),
    Concat(32, max_documents=2),
    Concat(7, max_documents=3),
    Chunk(32),
    Chunk(32, 16),
    Chunk(10, 3),
    Chunk(8, 1),
]


def pieces_of(rows):
    return list(zip(rows.documents.tolist(), rows.begins.tolist(), rows.lengths.tolist(), rows.first_counted.tolist()))


@pytest.mark.parametrize('plan', PLANS, ids=lambda plan: str(plan.settings()))
@pytest.mark.parametrize('counted_once', [False, True])
def test_every_slot_of_every_document_is_in_a_row(plan, counted_once):
    lengths = some_lengths(200)
    rows = plan.build(lengths, 1000 + from_0(200), counted_once)
    seen = np.zeros((200, int(lengths.max()) + 1), np.int64)
    for document, begin, length, first_counted in pieces_of(rows):
        seen[document - 1000, begin + first_counted : begin + length] += 1
    real = np.arange(seen.shape[1]) <= lengths[:, None]
    assert (seen[~real] == 0).all()
    if counted_once or isinstance(plan, Pack | Concat):
        assert (seen[real] == 1).all()
        assert rows.n_counted == (lengths + 1).sum()
    else:
        assert (seen[real] >= 1).all()
        assert rows.n_counted == rows.n_used


@pytest.mark.parametrize('plan', PLANS, ids=lambda plan: str(plan.settings()))
def test_no_row_is_too_long_or_has_too_many_segments(plan):
    rows = plan.build(some_lengths(500), from_0(500))
    for row in range(len(rows)):
        pieces = slice(rows.row_starts[row], rows.row_starts[row + 1])
        used = int(rows.lengths[pieces].sum())
        n_segments = len(rows.lengths[pieces]) + (used < plan.length)
        assert 0 < used <= plan.length
        assert 0 < n_segments <= plan.max_documents
    assert rows.max_pieces == np.diff(rows.row_starts).max()
    assert rows.n_used + rows.n_padded == len(rows) * plan.length
    assert rows.fill_ratio == rows.n_used / (len(rows) * plan.length)


def test_windows_by_hand():
    # streams of 2, 5 and 8 slots
    rows = Chunk(4, 2).build(np.array([1, 4, 7]), np.array([5, 6, 7]))
    assert pieces_of(rows) == [(5, 0, 2, 0), (6, 0, 4, 0), (6, 2, 3, 0), (7, 0, 4, 0), (7, 2, 4, 0), (7, 4, 4, 0)]
    rows = Chunk(4, 2).build(np.array([1, 4, 7]), np.array([5, 6, 7]), counted_once=True)
    assert [first for *_, first in pieces_of(rows)] == [0, 0, 2, 0, 2, 2]


def test_packing_by_hand():
    # streams of 9, 3, 2, 5 and 1 slots in rows of 4: whole pieces first, then the tails 3 + 1, 2, 1, 1 by best fit
    rows = Pack(4).build(np.array([8, 2, 1, 4, 0]), from_0(5))
    assert np.diff(rows.row_starts).tolist() == [1, 1, 1, 2, 3]
    assert pieces_of(rows) == [
        (0, 0, 4, 0),
        (0, 4, 4, 0),
        (3, 0, 4, 0),
        (1, 0, 3, 0),
        (0, 8, 1, 0),
        (2, 0, 2, 0),
        (3, 4, 1, 0),
        (4, 0, 1, 0),
    ]


def test_rows_back_to_back_by_hand():
    # streams of 9, 3, 2, 5 and 1 slots in rows of 4, cut at 4, 8, 12, 16 and 20
    rows = Concat(4).build(np.array([8, 2, 1, 4, 0]), from_0(5))
    assert np.diff(rows.row_starts).tolist() == [1, 1, 2, 2, 2]
    pieces = [(0, 0, 4, 0), (0, 4, 4, 0), (0, 8, 1, 0), (1, 0, 3, 0), (2, 0, 2, 0), (3, 0, 2, 0), (3, 2, 3, 0)]
    assert pieces_of(rows) == [*pieces, (4, 0, 1, 0)]
    assert (rows.n_used, rows.n_padded, rows.n_cut) == (20, 0, 8)
    # at most two segments in a row: one document and padding
    rows = Concat(4, max_documents=2).build(np.array([8, 2, 1]), from_0(3))
    assert pieces_of(rows) == [(0, 0, 4, 0), (0, 4, 4, 0), (0, 8, 1, 0), (1, 0, 3, 0), (2, 0, 2, 0)]
    assert np.diff(rows.row_starts).tolist() == [1] * 5


def test_back_to_back_pads_the_last_row_alone_and_cuts_more_than_packing():
    lengths = some_lengths(5_000)
    concat, packed = (plan.build(lengths, from_0(5_000)) for plan in (Concat(512), Pack(512)))
    assert 0 <= concat.n_padded < 512
    assert np.diff(concat.counted_before)[:-1].tolist() == [512] * (len(concat) - 1)
    assert concat.n_cut > 100 * packed.n_cut


def test_what_is_cut_is_counted():
    # windows of 4 slots every 2: of the stream of 8, the last 4 targets count in windows that begin inside it
    rows = Chunk(4, 2).build(np.array([1, 7]), np.array([0, 1]), counted_once=True)
    assert rows.n_cut == 4
    assert Chunk(4, 2).build(np.array([1, 7]), np.array([0, 1])).n_cut == 8
    assert Pack(4).build(np.array([8, 2]), from_0(2)).n_cut == 5


def test_without_overlap_both_plans_cut_documents_at_the_same_places():
    lengths = some_lengths(300)
    packed, chunked = (plan.build(lengths, from_0(300)) for plan in (Pack(32), Chunk(32)))
    assert sorted(pieces_of(packed)) == sorted(pieces_of(chunked))


@pytest.mark.parametrize(('length', 'at_least'), [(512, 0.99), (128, 0.98)])
def test_packing_fills_rows(length, at_least):
    lengths = np.random.default_rng(1).normal(125, 60, 9_000).clip(5).astype(np.int64)
    assert Pack(length).build(lengths, from_0(9_000)).fill_ratio > at_least


@settings(max_examples=6, deadline=None)
@given(
    draw=st.sampled_from(['exponential', 'uniform', 'lognormal']),
    mean=st.integers(40, 170),
    seed=st.integers(0, 2**32 - 1),
)
def test_from_1000_rows_on_rows_are_99_percent_full_where_lengths_are_spread(draw, mean, seed):
    rng = np.random.default_rng(seed)
    n = 1_100 * 512 // mean
    spread = {
        'exponential': rng.exponential(mean, n),
        'uniform': rng.uniform(1, 2 * mean, n),
        'lognormal': rng.lognormal(np.log(mean) - 0.5, 1.0, n),
    }
    rows = Pack(512, max_documents=512).build(spread[draw].clip(1).astype(np.int64), from_0(n))
    assert len(rows) >= 1_000
    assert rows.fill_ratio >= 0.99


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60), length=st.integers(1, 40), most=st.integers(2, 6))
def test_a_row_is_only_begun_where_no_other_has_room(lengths, length, most):
    rows = Pack(length, most).build(np.array(lengths), from_0(len(lengths)))
    pieces = np.split(rows.lengths, rows.row_starts[1:-1])
    assert sum(map(sum, pieces)) == sum(lengths) + len(lengths)
    for i, row in enumerate(pieces):
        for later in pieces[i + 1 :]:
            has_fewer = len(row) < most - 1
            assert not (has_fewer and row[row >= later.max()].sum() + later.max() <= length)


def test_a_block_of_documents_is_laid_out_on_its_own(monkeypatch):
    lengths = some_lengths(300)
    monkeypatch.setattr('xlabml.data.rows.plans._BLOCK_DOCUMENTS', 100)
    rows = Pack(32).build(lengths, from_0(300))
    parts = [Pack(32).build(lengths[i : i + 100], from_0(300)[i : i + 100]) for i in (0, 100, 200)]
    assert pieces_of(rows) == [piece for part in parts for piece in pieces_of(part)]


def test_every_position_leads_back_to_its_document():
    lengths = some_lengths(40)
    rows = Pack(16).build(lengths, from_0(40))
    found = [rows.locate(row, position) for row in range(len(rows)) for position in range(16)]
    slots = [slot for slot in found if slot is not None]
    assert sorted(slots) == [(i, offset) for i, length in enumerate(lengths) for offset in range(length + 1)]
    assert len(found) - len(slots) == rows.n_padded
    with pytest.raises(ValueError, match=f'there is no row {len(rows)}, position 0'):
        rows.locate(len(rows), 0)
    with pytest.raises(ValueError, match='there is no row 0, position 16'):
        rows.locate(0, 16)


def test_the_pieces_of_a_row_say_where_each_slot_is_from():
    rows = Pack(4).build(np.array([8, 2, 1, 4, 0]), from_0(5))
    assert rows.pieces(1) == [(0, 0, 4, 4)]
    assert rows.pieces(4) == [(0, 2, 0, 2), (2, 3, 4, 1), (3, 4, 0, 1)]
    with pytest.raises(ValueError, match='there is no row 5; rows are 0 to 4'):
        rows.pieces(5)


def test_counts_are_those_of_the_rows_and_nothing_for_fillers():
    rows = Chunk(10, 5).build(some_lengths(50), from_0(50), counted_once=True)
    each = rows.counts(np.arange(len(rows))).tolist()
    assert sum(each) == rows.n_counted
    assert rows.counts(np.array([3, -1, 5, 3])).tolist() == [each[3], 0, each[5], each[3]]


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: Pack(0), 'a row cannot have 0 tokens; set data.max_len'),
        (lambda: Pack(8, max_documents=1), 'max_documents is 1'),
        (lambda: Concat(8, max_documents=1), 'max_documents is 1'),
        (lambda: Chunk(8, 0), 'stride_tokens is 0; set it to 1 to 8'),
        (lambda: Chunk(8, 9), 'stride_tokens is 9'),
    ],
)
def test_impossible_plans_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_plan_is_written_once_and_mapped(corpus, tmp_path, monkeypatch):
    plan = Pack(32)
    first = open_plan(plan, corpus, 'train', False, tmp_path)
    documents = corpus.documents('train')
    _, lengths = corpus.token_spans(documents)
    assert pieces_of(first) == pieces_of(plan.build(lengths, documents))
    monkeypatch.setattr(Pack, 'block', lambda *_: pytest.fail('laid out twice'))
    again = open_plan(plan, corpus, 'train', False, tmp_path)
    travelled = pickle.loads(pickle.dumps(again))
    for rows in (again, travelled):
        assert (pieces_of(rows), rows.fingerprint) == (pieces_of(first), first.fingerprint)
    assert len(pickle.dumps(again)) < 1000


def test_another_split_length_setting_or_corpus_is_another_plan(corpus, two_stores, tmp_path):
    plans = [
        open_plan(Pack(32), corpus, 'train', False, tmp_path),
        open_plan(Pack(32), corpus, 'test', False, tmp_path),
        open_plan(Pack(64), corpus, 'train', False, tmp_path),
        open_plan(Pack(32, max_documents=3), corpus, 'train', False, tmp_path),
        open_plan(Concat(32), corpus, 'train', False, tmp_path),
        open_plan(Chunk(32), corpus, 'train', False, tmp_path),
        open_plan(Chunk(32, 16), corpus, 'train', False, tmp_path),
        open_plan(Chunk(32, 16), corpus, 'train', True, tmp_path),
        open_plan(Pack(32), two_stores, 'train', False, tmp_path),
        open_plan(Pack(32), Corpus(corpus.stores, {'train': 0.5}), 'train', False, tmp_path),
    ]
    assert len({plan.folder for plan in plans}) == len({plan.fingerprint for plan in plans}) == len(plans)


def test_an_empty_split_is_refused_with_what_there_is(corpus, tmp_path):
    with pytest.raises(
        ValueError, match=r"'predict' has none of the 300 documents .*train 0\.8.*data\.splits\.predict"
    ):
        open_plan(Pack(32), corpus, 'predict', True, tmp_path)
    with pytest.raises(ValueError, match="there is no split 'dev'; the splits are train, val, test, predict"):
        open_plan(Pack(32), corpus, 'dev', True, tmp_path)


def test_an_edited_plan_is_refused_by_name(corpus, tmp_path):
    rows = open_plan(Pack(32), corpus, 'val', True, tmp_path)
    (rows.folder / 'begins.bin').write_bytes(b'short')
    with pytest.raises(ValueError, match=r'begins\.bin has 5 bytes'):
        open_plan(Pack(32), corpus, 'val', True, tmp_path)


@pytest.mark.slow
def test_the_embedded_corpus_is_packed_to_99_percent():
    data = XLabDataModule()
    data.prepare_data()
    rows = data.texts.train_examples
    assert len(rows) >= 1_000
    assert rows.plan.fill_ratio >= 0.99


@pytest.mark.slow
def test_a_million_documents_are_packed_in_seconds():
    lengths = some_lengths(1_000_000, scale=200)
    start = time.perf_counter()
    rows = Pack(512).build(lengths, from_0(1_000_000))
    assert time.perf_counter() - start < 20
    assert rows.fill_ratio > 0.99
