"""What runs on a GPU, tried where there is none: shapes, types, devices, graph breaks; see fake_cuda.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.skipif(torch.version.cuda is not None, reason='this torch knows CUDA, and is tried on a GPU'),
    pytest.mark.skipif(shutil.which('g++') is None, reason='needs a C++ compiler'),
]


def test_on_a_gpu_nothing_is_read_mixed_or_refused(tmp_path):
    script = Path(__file__).parent / 'fake_cuda.py'
    source = {'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, env={**os.environ, **source}
    )
    assert done.returncode == 0, done.stderr[-3000:]
