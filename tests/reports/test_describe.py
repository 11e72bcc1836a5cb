"""`xlab-manage describe`: of whole runs, of runs cut off anywhere, of several, and what it refuses."""

import base64
import json
import math
import os
import re
import subprocess
import sys

import pytest
import yaml
from matplotlib.image import imread

from xlabml import reports
from xlabml.commands.manage import main
from xlabml.reports.runs import find_folders
from xlabml.telemetry import records

PLOTS = {'loss', 'learning_rate', 'speed', 'step_time', 'shares', 'spectra'}


def write_run(folder, n_rows=40, scale=1.0):
    """Rows as a run has them, a validation every tenth."""
    folder.mkdir(parents=True)
    start = {'event': 'start', 'step': 0, 'max_steps': 400, 'task': 'XLabModel', 'parameters': 12345, 'devices': 1}
    records.append(folder / records.EVENTS, {**start, 'device': 'A <fast> one', 'precision': 'bf16-mixed'})
    for i in range(1, n_rows + 1):
        loss = 2 + 5 * scale * math.exp(-i / 8)
        row = {'step': 10 * i, 'tokens': 1000.0 * i, 'train_loss': loss, 'train_bits_per_byte': loss / 2}
        row |= {'tokens_per_second': 5000.0, 'tflops_per_second': 0.4, 'mfu_ratio': 0.4, 'gradient_norm': 1 / i}
        row |= {'learning_rate/matrices': 0.01, 'learning_rate/others': 0.02, 'skipped_steps': 1.0}
        row |= {f'time/{part}_seconds': 0.02 for part in ('data', 'forward', 'backward', 'optimizer', 'other')}
        row |= {'time/step_seconds': 0.1, 'memory/now_mib': 100.0, 'memory/peak_mib': 200.0, 'clipped_ratio': 0.25}
        row |= {'share/a/x.jsonl': 0.75, 'share/b/y.jsonl': 0.25, 'time/waiting_ratio': 0.01}
        row |= {'spectra/query/stable_rank': 9.0, 'spectra/query/mean_ratio': 2.0, 'spectra/query/top': 3.0}
        records.append(folder / records.TRAINING, row)
        if i % 10 == 0:
            figures = {'val_loss': loss + 0.1, 'val_bits_per_byte': loss / 2}
            records.append(folder / records.EVALUATION, {'step': 10 * i, 'command': 'fit', 'split': 'val', **figures})
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / 'logs' / 'version_3')


def plots(folder):
    return {path.stem for path in folder.glob('*.png')}


def said(text, name):
    """The value that a report has for a name."""
    return re.search(rf'^  {re.escape(name)}  +(.*)$', text, re.MULTILINE)[1]


@pytest.mark.parametrize('asked', ['last', 'logs/version_3', 'logs/version_3/checkpoints', 'logs', '.'])
def test_a_run_is_found_by_itself_and_by_what_it_lies_in(run, tmp_path, asked):
    (run / 'checkpoints').mkdir()
    assert [folder.absolute() for folder in find_folders([asked, asked], tmp_path)] == [run]


@pytest.mark.parametrize('asked', ['logs', '.'])
def test_of_many_runs_the_newest_ten_are_found(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    for version in (7, 0, 11, 3, 12, 5, 1, 9, 2, 10, 4, 8, 6):
        folder = tmp_path / 'logs' / f'version_{version}'
        folder.mkdir(parents=True)
        (folder / records.TRAINING).touch()
    assert [folder.name for folder in find_folders([asked], tmp_path)] == [f'version_{i}' for i in range(3, 13)]


def test_a_run_is_described_in_its_own_folder(run, capsys):
    assert main(['describe', 'last']) == 0
    printed = capsys.readouterr().out
    folder = run / 'describe'
    assert plots(folder) == PLOTS
    assert printed.splitlines()[-1].endswith('version_3/describe/index.html')
    assert (folder / 'report.txt').read_text() in printed
    assert said(printed, 'parameters') == '12,345'
    assert said(printed, 'tokens') == '40,000'
    assert said(printed, 'MFU').startswith('40.0%')
    assert said(printed, 'step time') == '100 ms: data 20, forward 20, backward 20, optimizer 20, other 20'
    assert said(printed, 'val, best') == f'{2.1 + 5 * math.exp(-5):.4f} nats/token, 1.0168 bits/byte at step 400'
    assert said(printed, 'state').endswith('it has no end: it is running, or was killed')


def test_every_plot_is_a_picture_with_something_on_it(run):
    main(['describe', 'last'])
    for path in (run / 'describe').glob('*.png'):
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 200
        assert 0.002 < (pixels[..., :3].min(axis=-1) < 0.9).mean() < 0.9, path.name


def test_the_page_needs_nothing_else_and_holds_no_foreign_markup(run):
    main(['describe', 'last'])
    page = (run / 'describe' / 'index.html').read_text()
    assert '://' not in re.sub(r'base64,[^"]*', '', page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == len(PLOTS)
    for source in sources:
        head, _, data = source.partition(',')
        assert head == 'data:image/png;base64'
        assert base64.b64decode(data).startswith(b'\x89PNG')
    assert 'A &lt;fast&gt; one' in page
    assert '<fast>' not in page
    assert not re.search(r'<(script|link|iframe)|url\(|@import', page)


def test_what_a_report_says_of_itself_deletes_nothing_of_anyone_elses(run):
    main(['describe', 'last'])
    folder = run / 'describe'
    marker = json.loads((folder / 'describe.json').read_text())
    bad = ['../../log.jsonl', f'../{records.TRAINING}', str(run / 'mine'), '../mine', 'notes.png', '..', '', 3, None]
    for path in (run / 'mine', folder / 'notes.png'):
        path.write_text('mine')
    log = (run / records.TRAINING).read_bytes()
    for files, status in ((marker['files'] + bad, 0), ({'index.html': 1}, 1), ('index.html', 1), (None, 1)):
        (folder / 'describe.json').write_text(json.dumps({**marker, 'files': files}))
        assert main(['describe', 'last']) == status
    assert (run / 'mine').read_text() == (folder / 'notes.png').read_text() == 'mine'
    assert (run / records.TRAINING).read_bytes() == log


def test_several_runs_are_laid_over_one_another_in_a_folder_beside_them(run, capsys):
    write_run(run.parent / 'version_10', n_rows=25, scale=0.5)
    assert main(['describe', 'logs']) == 0
    folder = run.parent / 'describe-version_3-version_10'
    assert plots(folder) == PLOTS
    assert not (run / 'describe').exists()
    printed = capsys.readouterr().out
    assert printed.index('version_3\n') < printed.index('version_10\n')
    page = (folder / 'index.html').read_text()
    assert len(re.findall('class="swatch"', page)) == 2
    assert main(['describe', 'last']) == 0
    assert (run.parent / 'version_10' / 'describe').is_dir()


def test_runs_of_the_same_name_are_told_apart(run, tmp_path, capsys):
    other = write_run(tmp_path / 'other' / 'logs' / 'version_3')
    assert main(['describe', str(run), str(other), '--output', 'both']) == 0
    names = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith((' ', 'both'))]
    assert names == [f'{tmp_path.name}/logs/version_3', 'other/logs/version_3']


@pytest.mark.parametrize(
    ('n_rows', 'n_lines', 'tail', 'expected'),
    [
        (40, 17, b'{"time": "2026-01-01T00:00:00+00:00", "step": 180, "train_lo', PLOTS),
        (5, 5, b'', PLOTS),  # no evaluation yet
        (1, 1, b'', PLOTS),
        (1, 0, b'', set()),  # no row yet
        (1, 0, b'{"st', set()),
    ],
)
def test_a_run_that_was_cut_off_anywhere_is_described(run, capsys, tmp_path, n_rows, n_lines, tail, expected):
    cut = write_run(tmp_path / 'cut', n_rows)
    path = cut / records.TRAINING
    path.write_bytes(b''.join(path.read_bytes().splitlines(keepends=True)[:n_lines]) + tail)
    assert main(['describe', str(cut)]) == 0
    printed = capsys.readouterr().out
    assert plots(cut / 'describe') == expected
    assert ('cut off or damaged' in printed) == bool(tail)
    assert said(printed, 'state').startswith(f'{10 * n_lines} steps of 400' if n_lines else 'no row of training yet')
    if n_rows < 10:
        assert said(printed, 'val, last') == 'no evaluation yet'


def test_losses_that_are_no_numbers_leave_gaps(run, capsys):
    records.append(run / records.TRAINING, {'step': 410, 'train_loss': math.nan, 'gradient_norm': math.inf})
    records.append(run / records.EVALUATION, {'step': 410, 'command': 'fit', 'val_loss': math.nan})
    assert main(['describe', str(run)]) == 0
    printed = capsys.readouterr().out
    assert said(printed, 'val, last') == 'nothing finite at step 410'
    assert said(printed, 'val, best').endswith('at step 400')


def test_a_run_without_lines_is_read_from_its_events(tmp_path, capsys):
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / 'logs' / 'version_0'
    with SummaryWriter(str(folder)) as writer:
        for step in range(1, 5):
            writer.add_scalar('train_loss', 4 / step, step)
            writer.add_scalar('tokens_per_second', 100.0, step)
        writer.add_scalar('val_loss', 1.5, 4)
    assert main(['describe', str(folder)]) == 0
    printed = capsys.readouterr().out
    assert said(printed, 'train, last row') == '1.0000 nats/token at step 4'
    assert said(printed, 'val, last') == '1.5000 nats/token at step 4'
    assert 'read from its events for TensorBoard' in printed
    assert plots(folder / 'describe') == {'loss', 'speed'}


@pytest.mark.parametrize(
    'settings',
    [
        {'model': 'a.Model', 'data': {'batch_size': 32, 'max_len': '64'}, 'trainer': {'devices': 1}},
        {'model': {'class_path': 'a.Model'}, 'data': {'class_path': 'a.Data', 'init_args': {}}, 'trainer': None},
        {'model': {'init_args': ['x']}, 'data': ['a.txt'], 'trainer': [], 'seed_everything': True},
    ],
)
def test_settings_of_another_program_are_passed_over(run, capsys, settings):
    (run / records.EVENTS).unlink()
    (run / 'config.yaml').write_text(yaml.safe_dump(settings))
    assert main(['describe', 'last']) == 0
    printed = capsys.readouterr().out
    assert said(printed, 'tokens') == '40,000'
    assert not re.search('^  (data|rows|precision) ', printed, re.MULTILINE)


def test_numbers_of_rows_that_are_known_are_said(run, capsys):
    (run / 'config.yaml').write_text(yaml.safe_dump({'data': {'max_len': 512, 'n_vocab': 8192, 'sources': None}}))
    assert main(['describe', 'last']) == 0
    printed = capsys.readouterr().out
    assert said(printed, 'rows') == '512 tokens, vocabulary 8,192'
    assert said(printed, 'data') == 'the embedded corpus'


def test_a_second_report_replaces_the_first_and_nothing_else(run, tmp_path, capsys):
    (run / 'describe').mkdir()
    (run / 'describe' / 'notes.txt').write_text('mine')
    assert main(['describe', str(run)]) == 0
    first = (run / 'describe' / 'report.txt').read_text()
    records.append(run / records.EVENTS, {'event': 'finished', 'step': 400})
    assert main(['describe', str(run)]) == 0
    assert (run / 'describe' / 'report.txt').read_text() != first
    assert (run / 'describe' / 'notes.txt').read_text() == 'mine'
    other = write_run(tmp_path / 'other')
    capsys.readouterr()
    assert main(['describe', str(other), '--output', str(run / 'describe')]) == 1
    assert 'exists, and is not of an earlier report; choose another --output' in capsys.readouterr().err
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'loss.png').write_bytes(b'mine')
    assert main(['describe', str(other), '--output', 'mine']) == 1
    assert [path.name for path in (tmp_path / 'mine').iterdir()] == ['loss.png']


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (['describe'], 2, 'the following arguments are required: RUN'),
        (['describe', 'nowhere'], 2, 'there is no run nowhere'),
        (['describe', 'empty'], 2, 'empty holds no run: no log.jsonl'),
    ],
)
def test_what_is_no_run_is_refused_in_a_line(run, tmp_path, capsys, arguments, status, message):
    (tmp_path / 'empty').mkdir()
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ''
    assert message in err
    assert err.count('\n') == 1


def test_without_matplotlib_it_says_what_to_install(run, capsys, monkeypatch):
    monkeypatch.delattr(reports, 'plots', raising=False)
    for name in ('xlabml.reports.plots', 'xlabml.reports.panels'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, 'matplotlib.axes', None)
    assert main(['describe', 'last']) == 1
    out, err = capsys.readouterr()
    assert said(out, 'parameters') == '12,345'  # the text needs no plots
    assert "pip install 'xlabml[plots]'" in err


def test_it_loads_neither_torch_nor_lightning(run):
    code = (
        'import sys; from xlabml.commands.manage import main; assert main(["describe", "last"]) == 0;'
        'sys.exit(", ".join({"torch", "lightning", "tensorboard", "matplotlib.pyplot"} & set(sys.modules)) or 0)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / 'describe' / 'describe.json').read_text())['runs'] == [str(run)]


def test_rows_and_files_that_are_none_of_ours_are_passed_over(run, capsys):
    with (run / records.EVENTS).open('a') as file:
        file.write('{"event": "start", "step": "x", "parameters": [], "time": 5}\n')
    os.mkfifo(run / 'config.yaml')
    (run / 'describe').mkdir()
    os.mkfifo(run / 'describe' / 'describe.json')
    assert main(['describe', 'last', '--output', 'out']) == 0
    assert '1 line(s) are cut off or damaged' in capsys.readouterr().out
    assert main(['describe', 'last']) == 1
    assert 'exists, and is not of an earlier report' in capsys.readouterr().err
