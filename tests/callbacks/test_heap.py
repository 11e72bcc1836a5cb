"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

from xlabml.callbacks import Heap, heap
from xlabml.commands.trainer import Trainer

FAULTS = """
import resource, sys, torch
from xlabml.callbacks import keep_freed_memory
if sys.argv[1:] and not keep_freed_memory():
    sys.exit(3)
def step():
    parts = [torch.ones(size << 18) for size in (5, 24, 40)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
*_, before, after = (step() for _ in range(6))
print(after - before)
"""


def count_faults(*options):
    run = subprocess.run([sys.executable, '-c', FAULTS, *options], capture_output=True, text=True)
    if run.returncode == 3:
        pytest.skip('the C library is not that of GNU')
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_steps_fetch_their_memory_once():
    """Of the blocks of 5, 24 and 40 MB the last at least is fetched anew in each step, unless they are kept."""
    kept = count_faults('keep')
    assert kept < 100
    assert count_faults() >= kept + 20  # pages of 2 MB, if they are large


@pytest.mark.parametrize('keeps', [True, False])
def test_it_is_a_setting(keeps, tmp_path):
    trainer = Trainer(accelerator='cpu', logger=False, default_root_dir=tmp_path, keep_memory=keeps)
    assert any(isinstance(callback, Heap) for callback in trainer.callbacks) == keeps


@pytest.mark.parametrize(('device', 'calls'), [('cpu', 1), ('cuda', 0)])
def test_the_memory_of_a_run_on_a_cpu_is_kept(device, calls, monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(heap, 'keep_freed_memory', lambda: kept.append(True))
    trainer = Trainer(accelerator='cpu', logger=False, default_root_dir=tmp_path)
    monkeypatch.setattr(type(trainer.strategy), 'root_device', type('Device', (), {'type': device}))
    Heap().setup(trainer)
    assert len(kept) == calls


def test_what_old_releases_refuse_is_asked_for_in_their_measure(monkeypatch):
    """As before glibc 2.35. One setting alone would be worse than none: where this one is refused, none is set."""
    limits = {heap._MMAP_THRESHOLD: 32 << 20, heap._TRIM_THRESHOLD: 1 << 40}
    done = {}

    def mallopt(name, value):
        is_taken = value <= limits[name]
        if is_taken:
            done[name] = value
        return int(is_taken)

    library = type('Library', (), {'mallopt': staticmethod(mallopt)})
    monkeypatch.setattr(heap.ctypes, 'CDLL', lambda _: library)
    assert heap.keep_freed_memory()
    assert done == {heap._MMAP_THRESHOLD: 32 << 20, heap._TRIM_THRESHOLD: 1 << 30}
    done.clear()
    limits[heap._MMAP_THRESHOLD] = 0
    assert not heap.keep_freed_memory()
    assert not done


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(heap.ctypes, 'CDLL', lambda _: object())
    assert not heap.keep_freed_memory()
