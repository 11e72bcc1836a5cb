"""The parts of a step and what a row makes of them, by a clock that the test turns."""

import itertools

import pytest
import torch
from token_batches import token_batch

from xlabml.batches import Layout
from xlabml.telemetry import step_clock
from xlabml.telemetry.meter import Meter
from xlabml.telemetry.step_clock import PARTS, StepClock
from xlabml.transformer import Transformer

CPU = torch.device('cpu')


@pytest.fixture
def turn(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(step_clock.time, 'perf_counter', lambda: now[0])

    def turn(seconds):
        now[0] += seconds

    return turn


def test_every_moment_of_a_step_belongs_to_one_part(turn):
    clock = StepClock(lambda: None)
    clock.start()
    for part, seconds in (('data', 1), ('forward', 2), ('other', 4), ('backward', 8), ('optimizer', 16), ('other', 32)):
        clock.enter(part)
        turn(seconds)
    assert clock.stop() == {'data': 1, 'forward': 2, 'backward': 8, 'optimizer': 16, 'other': 36}
    assert clock.stop() is None


def test_what_comes_between_is_left_out(turn):
    clock = StepClock(lambda: None)
    clock.start()
    turn(1)
    turn(5)
    clock.leave_out(5.0)
    clock.enter('forward')
    turn(2)
    assert sum(clock.stop().values()) == 3


def test_the_device_is_waited_for_in_measured_steps_only(turn):
    waits = []
    clock = StepClock(lambda: waits.append(1))
    for part in PARTS:
        clock.enter(part)
    clock.fetch()
    turn(3)
    clock.fetched()
    assert not waits
    assert clock.waited_seconds == 3
    clock.start()
    clock.enter('forward')
    clock.stop()
    assert len(waits) == 3


def meter(world=1):
    trunk = Transformer(50, 32, d_model=16, n_layers=1, n_heads=4)
    return Meter(trunk, CPU, 0.5, world, lambda tensor: tensor * world, lambda tensor: tensor)


def test_a_row_has_what_its_steps_did_and_the_next_one_begins_anew():
    """Two steps of 8 tokens each, over 4 seconds."""
    one = meter()
    ids = torch.zeros(2, 4, dtype=torch.long)
    batch = token_batch(ids, ids)
    for norm in (2.0, 0.5):
        one.count_batch(batch)
        one.count_step(torch.tensor(norm), 1.0)
    row = one.row(16.0, 4.0)
    assert row['tokens_per_second'] == 4.0
    assert row['clipped_ratio'] == 0.5
    assert row['time/mean_step_seconds'] == 2.0
    matrices = 16 * 48 + 16 * 16 + 2 * 16 * 64
    flops = 16 * 6 * matrices + 12 * 16 * 4 * (4 * 5 // 2)
    assert row['tflops_per_second'] == pytest.approx(1e-12 * flops / 4)
    assert row['mfu_ratio'] == pytest.approx(1e-12 * flops / 4 / 0.5)
    one.count_batch(batch)
    assert one.row(2.0, 4.0, are_tokens=False)['tokens_per_second'] == 2.0  # of two groups, the tokens that were read
    assert row['memory/peak_mib'] >= row['memory/now_mib'] > 10
    assert not [name for name in row if name.endswith('_seconds') and 'mean' not in name]
    one.count_step(None, None)
    row = one.row(8.0, 1.0)
    assert 'clipped_ratio' not in row
    assert 'mfu_ratio' not in row


def test_ranks_agree_on_means_of_times_and_sums_of_work(turn):
    rows = []
    for world in (1, 2):
        one = meter(world)
        ids = torch.zeros(1, 4, dtype=torch.long)
        one.clock.start()
        one.count_batch(token_batch(ids, ids))
        one.clock.enter('forward')
        turn(2)
        one.count_step(torch.tensor(2.0), torch.tensor(1.0))
        rows.append(one.row(4.0 * world, 2.0))
    single, double = rows
    assert double['time/forward_seconds'] == single['time/forward_seconds'] == double['time/step_seconds'] == 2
    assert double['tokens_per_second'] == 2 * single['tokens_per_second']
    assert double['mfu_ratio'] == pytest.approx(single['mfu_ratio'])
    assert double['clipped_ratio'] == single['clipped_ratio'] == 1


def test_counting_a_step_never_waits_for_the_device():
    """Tensors without values: whatever reads one raises."""
    one = meter()
    starts = torch.zeros(5, dtype=torch.int32, device='meta')
    ids = torch.zeros(2, 4, dtype=torch.long, device='meta')
    batch = token_batch(ids, ids, documents=starts[:4].long(), layout=Layout(starts, 4))
    for norm, limit in itertools.product([torch.zeros((), device='meta')], [1.0, torch.ones((), device='meta')]):
        one.count_batch(batch)
        one.count_step(norm, limit)
    assert one.n_steps == 2


@pytest.mark.gpu
def test_on_a_gpu_a_row_has_its_memory_and_only_the_row_waits():
    device = torch.device('cuda')
    trunk = Transformer(50, 32, d_model=16, n_layers=1, n_heads=4).to(device)
    one = Meter(trunk, device, 0.5, 1, lambda tensor: tensor, lambda tensor: tensor)
    ids = torch.zeros(2, 4, dtype=torch.long, device=device)
    starts = torch.tensor([0, 4, 8], dtype=torch.int32, device=device)
    batch = token_batch(ids, ids, documents=starts[:2].long(), layout=Layout(starts, 4))
    norm = torch.ones((), device=device)
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode('error')
        one.count_batch(batch)
        one.count_step(norm, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    row = one.row(8.0, 1.0)
    one.count_batch(batch)
    assert one.row(2.0, 4.0, are_tokens=False)['tokens_per_second'] == 2.0  # of two groups, the tokens that were read
    assert row['memory/peak_mib'] >= row['memory/now_mib'] > 0
    assert row['clipped_ratio'] == 1
    assert row['tflops_per_second'] > 0
