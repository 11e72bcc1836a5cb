"""Does what docs/python.md says, as it stands, at a small size; and what its notebook shows."""

import json
import logging
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from xlabml import checkpoints
from xlabml.errors import CheckpointError
from xlabml.reports.runs import read_run

PAGE = Path(__file__).parents[1] / 'docs' / 'python.md'
SMALLER = {
    'max_steps=200': 'max_steps=2, accelerator="cpu", enable_model_summary=False',
    'n_vocab=2000, max_len=256': 'n_vocab=320, max_len=32, batch_tokens=64',
    'Curves()': 'Curves(every_n_steps=1, peak_tflops=0.1)',
    'batch_size=16': 'batch_size=2',
    'return 512': 'return 4',
    'max_len=data.max_len)': 'max_len=data.max_len, trunk=SMALL)',
    'max_len=64)': 'max_len=64, trunk=SMALL)',
}


def blocks(kind):
    return re.findall(rf'```{kind}\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.DOTALL)


def small(code):
    for long, short in SMALLER.items():
        code = code.replace(long, short)
    return code


@pytest.fixture(scope='module')
def names():
    """What the code of the page finds: the names that it has made so far."""
    from functools import partial

    from xlabml.transformer import Transformer

    return {'SMALL': partial(Transformer, d_model=16, n_layers=1, n_heads=2)}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    (folder / 'texts').mkdir()
    rows = ({'text': f'The old pond number {i}: a frog jumps in, splash {i * i}'} for i in range(80))
    (folder / 'texts' / 'haiku.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    return folder


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv('XLABML_CACHE', str(folder / 'cache'))
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)


@pytest.mark.filterwarnings('ignore')  # Lightning's advice on loaders and intervals, for runs of two steps
def test_the_page_does_what_it_says(names, capsys):
    """All blocks one after the other, as in one notebook."""
    *code, refused = blocks('python')
    for block in code:
        exec(compile(small(block), str(PAGE), 'exec'), names)
    capsys.readouterr()
    exec(compile(small(refused), str(PAGE), 'exec'), names)
    printed = capsys.readouterr().out
    assert all(line in printed for line in blocks('text')[0].splitlines())
    assert type(names['again']).__name__ == 'XLabModel'
    assert names['again'].checkpoint_step == 2
    path = names['plain'].checkpoint_callback.best_model_path
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, 'loops': {'fit_loop': {}}}, path)  # as it would be of a task without our hook
    assert checkpoints.load(path).step == 2
    del saved['hyper_parameters']['_class_path']
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match="is not of a task of xlabml that Lightning's own Trainer has saved"):
        checkpoints.load(path)
    run = read_run(Path(names['trainer'].log_dir), 'a run')
    assert [row['step'] for row in run.training] == [1, 2]
    assert [row['step'] for row in run.evaluations] == [1, 2]


class Cell:
    """What a notebook shows, and is updated with."""

    def __init__(self):
        self.shown = []

    def display(self, page, display_id):
        self.shown.append(page)
        return self

    def update(self, page):
        self.shown.append(page)


@pytest.mark.filterwarnings('ignore')
def test_a_notebook_shows_a_bar_and_a_plot_and_updates_them(names, monkeypatch):
    cell = Cell()
    display = ModuleType('IPython.display')
    display.HTML = str
    display.display = cell.display
    ipython = ModuleType('IPython')
    ipython.version_info = (9, 0)  # matplotlib looks at it
    monkeypatch.setitem(sys.modules, 'IPython', ipython)
    monkeypatch.setitem(sys.modules, 'IPython.display', display)
    torch.manual_seed(0)
    for block in (blocks('python')[0], *blocks('py')):
        exec(compile(small(block).replace('Notebook()', 'Notebook(1e-9)'), str(PAGE), 'exec'), names)
    first, *_, last = cell.shown
    assert 'max="2" value="0"' in first
    assert '<svg' not in first
    assert 'max="2" value="2"' in last
    assert re.search(r'step 2 of 2 · loss [\d.]+', last)
    assert last.count('<svg') == 1
    assert {'>train</text>', '>val</text>'} <= set(re.findall(r'>\w+</text>', last))
