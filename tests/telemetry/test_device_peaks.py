"""Peaks: by name for GPUs, measured once for anything else."""

import json

import pytest
import torch

from xlabml.telemetry import peaks

CPU = torch.device('cpu')


@pytest.mark.parametrize(
    ('name', 'tflops'),
    [
        ('NVIDIA A100-SXM4-80GB', 312.0),
        ('NVIDIA A100 80GB PCIe', 312.0),
        ('NVIDIA H100 80GB HBM3', 989.4),
        ('NVIDIA H100 PCIe', 756.0),
        ('NVIDIA H100 NVL', 835.5),
        ('NVIDIA H200', 989.4),
        ('NVIDIA H200 NVL', 835.5),
        ('NVIDIA GH200 480GB', 989.4),
        ('NVIDIA B200', 2250.0),
        ('NVIDIA GB200', 2500.0),
        ('NVIDIA H20', None),
        ('NVIDIA A10G', None),
        ('NVIDIA GeForce RTX 4090', None),
    ],
)
def test_a_gpu_is_known_by_the_name_that_its_driver_gives(name, tflops):
    assert peaks.known_tflops(name, torch.bfloat16) == tflops
    assert peaks.known_tflops(name, torch.float32) is None


def test_what_was_measured_once_is_kept(tmp_path, monkeypatch):
    found = peaks.find_tflops(CPU, torch.float32, tmp_path)
    assert found[0] > 0
    assert found[1] == 'measured'
    monkeypatch.setattr(peaks, 'measure_tflops', pytest.fail)
    assert peaks.find_tflops(CPU, torch.float32, tmp_path) == found
    assert list(json.loads((tmp_path / 'peaks.json').read_text()).values()) == [found[0]]


def test_each_precision_and_number_of_threads_has_its_own(tmp_path, monkeypatch):
    measured = iter(range(1, 9))
    monkeypatch.setattr(peaks, 'measure_tflops', lambda *_: float(next(measured)))
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    assert peaks.find_tflops(CPU, torch.float32, tmp_path)[0] == 1
    assert peaks.find_tflops(CPU, torch.bfloat16, tmp_path)[0] == 2
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    assert peaks.find_tflops(CPU, torch.float32, tmp_path)[0] == 3
    (tmp_path / 'peaks.json').write_text('damaged')
    assert peaks.find_tflops(CPU, torch.float32, tmp_path)[0] == 4


def test_the_measure_is_that_of_matrix_products(monkeypatch):
    """Each product is made to take a hundredth of a second: the larger one does 2 x 1024^3 FLOPs in it."""
    clock = iter(i * 0.01 for i in range(10_000))
    monkeypatch.setattr(peaks.time, 'perf_counter', lambda: next(clock))
    assert peaks.measure_tflops(CPU, torch.float32, 0.0) == pytest.approx(2e-12 * 1024**3 / 0.01)
