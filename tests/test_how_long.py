"""scripts/how_long.py: `make fit` says at its start how long it takes."""

import importlib.util
import re
from functools import partial
from pathlib import Path

import pytest
import yaml

from xlabml.datamodules import XLabDataModule
from xlabml.models import XLabModel
from xlabml.transformer import Transformer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location('how_long', ROOT / 'scripts' / 'how_long.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings('ignore')
def test_it_times_steps_and_leaves_nothing(script, monkeypatch, tmp_path, capsys):
    small = partial(Transformer, d_model=16, n_layers=1, n_heads=2)
    monkeypatch.setattr(script, 'XLabDataModule', partial(XLabDataModule, n_vocab=320, max_len=32, batch_tokens=64))
    monkeypatch.setattr(script, 'XLabModel', partial(XLabModel, trunk=small))
    script.main()
    said = r'make fit trains for about (\d+ (minutes|seconds)) on this machine \(2,246 steps\)\n'
    assert re.fullmatch(said, capsys.readouterr().out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('seconds', 'said'), [(0.29, '12 minutes'), (0.03, '72 seconds')])
def test_it_says_minutes_or_seconds(script, monkeypatch, capsys, seconds, said):
    monkeypatch.setattr(script, 'step_seconds', lambda: seconds)
    script.main()
    assert f'about {said} on' in capsys.readouterr().out


def test_make_fit_asks_it_first():
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    assert re.search(r'^fit: .*\n\t@\$\(BIN\)/python scripts/how_long.py\n', makefile, re.MULTILINE)
    assert 'xlab.py fit -c conf/fit.yaml ' in makefile


def test_it_counts_the_steps_of_the_configuration(script):
    assert yaml.safe_load((ROOT / 'conf' / 'fit.yaml').read_text('utf-8'))['trainer']['max_steps'] == script.STEPS
