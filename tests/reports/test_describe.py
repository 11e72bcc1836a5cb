"""`xlab-manage describe`: of whole runs, of runs cut off anywhere, of several, and what it refuses."""

import json
import math
import os
import re
import subprocess
import sys

import pytest
import yaml
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from xlabml import reports
from xlabml.commands.manage import main
from xlabml.reports.colours import PARTS, TRAIN, VAL
from xlabml.reports.numbers import duration, milliseconds, number
from xlabml.reports.panels import NARROW, WIDE, around, heights
from xlabml.reports.plots import draw_all
from xlabml.reports.runs import find_folders, read_run
from xlabml.telemetry import records

VIRIDIS = [to_hex(colormaps['viridis'](place)) for place in (0.15, 0.85)]
PLOTS = {'loss', 'learning_rate', 'speed', 'step_time', 'shares', 'spectra'}


def write_run(folder, n_rows=40, scale=1.0):
    """Rows as a run has them, a validation every tenth."""
    folder.mkdir(parents=True)
    start = {'event': 'start', 'step': 0, 'max_steps': 400, 'task': 'XLabModel', 'parameters': 12345, 'devices': 1}
    typed = {'command_line': "xlab.py fit 'a b'"}
    records.append(folder / records.EVENTS, {**start, 'device': 'A <fast> one', 'precision': 'bf16-mixed', **typed})
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


@pytest.fixture
def bare(monkeypatch):
    """No pictures on the page, where a test is about something else."""
    monkeypatch.setattr('xlabml.reports.pictures.draw_pictures', lambda runs: [])


@pytest.fixture
def quick(bare, monkeypatch):
    """One small picture in place of all."""
    monkeypatch.setattr('xlabml.reports.plots.draw_all', lambda runs: {'loss': Figure((1, 1), dpi=50)})


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
    for path in folder.glob('*.png'):
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 200
        assert 0.002 < (pixels[..., :3].min(axis=-1) < 0.9).mean() < 0.9, path.name


def test_the_page_needs_nothing_else_and_holds_no_foreign_markup(run):
    """Pictures are part of it, each for a wide page and for a phone; of the spectra there is a choice."""
    records.append(run / records.SAMPLES, {'step': 400, 'text': 'a <sample> & more'})
    (run / 'config.yaml').write_text('# a <note>\ndata: {max_len: 64}\n')
    main(['describe', 'last'])
    page = (run / 'describe' / 'index.html').read_text()
    assert '://' not in page
    assert not re.search(r'<(script|link|iframe|img)|url\((?!#)|@import', page)
    assert page.count('<svg ') == 2 * (len(PLOTS) - 1 + 3)
    assert page.count('type="radio"') == 3
    named = re.findall(r' id="([^"]*)"', page)
    assert len(set(named)) == len(named)
    assert set(re.findall(r'(?:xlink:href="|url\()#([\w-]+)', page)) <= set(named)
    for shown in (
        'A &lt;fast&gt; one',
        'a &lt;sample&gt; &amp; more',
        '# a &lt;note&gt;',
        'xlab.py fit &#x27;a b&#x27;',
    ):
        assert shown in page
    assert not re.search('<(fast|sample|note)>', page)
    check_darkness(page)


def check_darkness(page):
    """Each colour of a picture is a variable, which has another value where the page is dark."""
    _, _, drawn = page.partition('<body>')
    used = set(re.findall(r'var\(--(\w+)\)', drawn))
    assert {'ink', 'muted', 'grid', 'train', 'val', 'run0'} <= used
    light, _, dark = page.partition('prefers-color-scheme: dark')
    for name in used:
        assert re.search(f'--{name}: ([^;]*)', light)[1] != re.search(f'--{name}: ([^;]*)', dark)[1]
    assert set(re.findall('#[0-9a-f]{6}', drawn)) <= {colour.lower() for colour in [*PARTS.values(), *VIRIDIS]}


def test_a_comparison_marks_what_differs_and_folds_what_is_equal(run, quick):
    other = write_run(run.parent / 'version_10', scale=0.5)
    for folder, lr in ((run, 0.1), (other, 0.2)):
        optimizer = {'class_path': 'torch.optim.AdamW', 'init_args': {'lr': lr, 'eps': 1e-8}}
        model = {'class_path': 'xlabml.models.XLabModel', 'init_args': {'optimizer': optimizer}}
        (folder / 'config.yaml').write_text(yaml.safe_dump({'model': model}))
    assert main(['describe', 'logs']) == 0
    page = (run.parent / 'describe-version_3-version_10' / 'index.html').read_text()
    marked = re.findall('<tr class="differs"><th>(.*?)</th>', page)
    assert {'val, last', 'model.optimizer.lr'} <= set(marked)
    assert not {'parameters', 'model.optimizer.eps', 'model'} & set(marked)
    folded = ''.join(re.findall('<details>.*?</details>', page, re.DOTALL))
    assert '<th>model.optimizer</th><td>AdamW</td>' in folded
    assert '<th>parameters</th><td>12,345</td>' in folded
    assert 'model.optimizer.lr' not in folded


def draw(folder, look=WIDE):
    return draw_all([read_run(folder, 'a run')], look)


@pytest.mark.parametrize('look', [WIDE, NARROW])
def test_a_picture_says_what_when_and_whose_and_cuts_nothing_off(run, look):
    renderers = {}
    for name, figure in draw(run, look).items():
        title = ' '.join(text.get_text() for text in figure.texts)
        assert 'a run' in title, name
        assert re.search(r'\d \w{3} 20\d\d', title), name
        renderer = renderers.setdefault(name, FigureCanvasAgg(figure)).get_renderer()
        figure.draw(renderer)
        for part in (*figure.texts, *figure.legends, *figure.axes):
            box = part.get_tightbbox(renderer)
            assert min(box.x0, box.y0) >= 0, name
            assert box.x1 <= figure.bbox.x1, name
            assert box.y1 <= figure.bbox.y1, name
        for panel in figure.axes:
            low, high = panel.get_ylim()
            assert all(low <= value <= high for value in heights(panel)), name
            ticks = [tick for tick in panel.get_yticks() if low <= tick <= high]
            assert len(ticks) >= 2, name
            assert all(panel.yaxis.get_major_formatter()(tick, None) for tick in ticks)
    assert len({tuple(figure.axes[0].get_position().intervalx) for figure in draw(run, look).values()}) == 1


def test_train_and_val_have_two_colours_and_a_band_where_there_are_rows_for_one(tmp_path):
    for n_rows, n_bands in ((40, 0), (400, 1)):
        loss = draw(write_run(tmp_path / f'{n_rows}', n_rows))['loss'].axes[0]
        assert [line.get_color() for line in loss.lines] == [TRAIN, VAL]
        assert len(loss.collections) == n_bands
        (legend,) = loss.figure.legends
        assert ('10–90 %' in legend.get_texts()[0].get_text()) == bool(n_bands)


@pytest.mark.parametrize(
    'values', [(1.0, 1.6), (1.47, 9.2), (0.3, 0.9), (0.02, 31.0), (1e-6, 1e5), (3.0, 3.1), (-1.0, 2.0)]
)
def test_every_range_has_labels(values):
    panel = Figure().subplots()
    panel.plot(values)
    around(panel)
    low, high = panel.get_ylim()
    assert 2 <= sum(low <= tick <= high for tick in panel.get_yticks()) <= 12


def test_numbers_are_written_as_people_do():
    assert [number(value) for value in (0.0, 1030.4, 4.1668, 0.00123, 1234567.0, 71.84, -2.5)] == [
        *('0', '1,030', '4.17', '0.00123', '1,234,567', '71.8', '-2.5')
    ]
    assert milliseconds(1.0304) == '1,030 ms'
    assert [duration(seconds) for seconds in (35.2, 59.7, 307.0, 3599.8, 3900.0, 400_000.0)] == [
        *('35 s', '1 min 00 s', '5 min 07 s', '1 h 00 min', '1 h 05 min', '4 d 15 h')
    ]


def test_what_a_report_says_of_itself_deletes_nothing_of_anyone_elses(run, quick):
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


def test_several_runs_are_laid_over_one_another_in_a_folder_beside_them(run, bare, capsys):
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


def test_runs_of_the_same_name_are_told_apart(run, quick, tmp_path, capsys):
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
def test_a_run_that_was_cut_off_anywhere_is_described(run, bare, capsys, tmp_path, n_rows, n_lines, tail, expected):
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


def test_losses_that_are_no_numbers_leave_gaps(run, bare, capsys):
    records.append(run / records.TRAINING, {'step': 410, 'train_loss': math.nan, 'gradient_norm': math.inf})
    records.append(run / records.EVALUATION, {'step': 410, 'command': 'fit', 'val_loss': math.nan})
    assert main(['describe', str(run)]) == 0
    printed = capsys.readouterr().out
    assert said(printed, 'val, last') == 'nothing finite at step 410'
    assert said(printed, 'val, best').endswith('at step 400')


@pytest.mark.parametrize(
    'tags', [('train_loss', 'tokens_per_second', 'val_loss'), ('loss/train', 'speed/tokens_per_second', 'loss/val')]
)
def test_a_run_without_lines_is_read_from_its_events(bare, tmp_path, capsys, tags):
    """Those of earlier versions, whose tags were the names of the figures, and those of today."""
    from torch.utils.tensorboard import SummaryWriter

    train, speed, val = tags

    folder = tmp_path / 'logs' / 'version_0'
    with SummaryWriter(str(folder)) as writer:
        for step in range(1, 5):
            writer.add_scalar(train, 4 / step, step)
            writer.add_scalar(speed, 100.0, step)
        writer.add_scalar(val, 1.5, 4)
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
def test_settings_of_another_program_are_passed_over(run, quick, capsys, settings):
    (run / records.EVENTS).unlink()
    (run / 'config.yaml').write_text(yaml.safe_dump(settings))
    assert main(['describe', 'last']) == 0
    printed = capsys.readouterr().out
    assert said(printed, 'tokens') == '40,000'
    assert not re.search('^  (data|rows|precision) ', printed, re.MULTILINE)


def test_numbers_of_rows_that_are_known_are_said(run, quick, capsys):
    (run / 'config.yaml').write_text(yaml.safe_dump({'data': {'max_len': 512, 'n_vocab': 8192, 'sources': None}}))
    assert main(['describe', 'last']) == 0
    printed = capsys.readouterr().out
    assert said(printed, 'rows') == '512 tokens, vocabulary 8,192'
    assert said(printed, 'data') == 'the embedded corpus'


def test_a_second_report_replaces_the_first_and_nothing_else(run, quick, tmp_path, capsys):
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


def test_rows_and_files_that_are_none_of_ours_are_passed_over(run, quick, capsys):
    with (run / records.EVENTS).open('a') as file:
        file.write('{"event": "start", "step": "x", "parameters": [], "time": 5}\n')
    os.mkfifo(run / 'config.yaml')
    (run / 'describe').mkdir()
    os.mkfifo(run / 'describe' / 'describe.json')
    assert main(['describe', 'last', '--output', 'out']) == 0
    assert '1 line(s) are cut off or damaged' in capsys.readouterr().out
    assert main(['describe', 'last']) == 1
    assert 'exists, and is not of an earlier report' in capsys.readouterr().err
