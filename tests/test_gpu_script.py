"""`scripts/gpu.sh`: its runner in seconds; all of it on a CPU, at tiny sizes (slow)."""

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def scripts(monkeypatch):
    """The modules of the folder scripts/gpu by name."""
    monkeypatch.syspath_prepend(str(ROOT / 'scripts/gpu'))
    names = ('runner', 'main', 'install', 'runs', 'decoding', 'parts')
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def run(scripts, tmp_path, monkeypatch):
    """Run jobs of Python code; their outcomes by name."""
    runner = scripts['runner']
    monkeypatch.setattr(runner, '_LEAST_SECONDS', 0.5)

    def run(*jobs, seconds=60.0, is_over=lambda: False):
        made = [
            runner.Job('a', name, [sys.executable, '-c', TELL + code], limit, **options)
            for name, code, limit, options in jobs
        ]
        told = []
        done = runner.run(made, seconds, tmp_path, lambda job, outcome: told.append(job.name), is_over)
        assert sorted(told) == sorted(done) == sorted(job.name for job in made)
        return done, runner.table([(job, done[job.name]) for job in made]), told

    return run


TELL = """
import json, os, subprocess, sys, time
def tell(what, result, ok=True):
    open(os.environ['GPU_ROWS'], 'a').write(json.dumps({'what': what, 'result': result, 'ok': ok}) + '\\n')
"""


def is_alive(pid):
    stat = Path(f'/proc/{pid}/stat')
    return stat.exists() and stat.read_text().rpartition(')')[2].split()[0] != 'Z'


def test_a_job_that_hangs_is_killed_with_its_children_and_keeps_its_rows(run, tmp_path):
    code = f"""
tell('first', '12 tokens/s')
child = subprocess.Popen(['sleep', '300'], start_new_session=True)
open('{tmp_path}/child', 'w').write(str(child.pid))
time.sleep(300)
"""
    begin = time.monotonic()
    done, table, _ = run(('hangs', code, 3.0, {}), ('other', "tell('other', 'fine')", 30.0, {}))
    assert time.monotonic() - begin < 20
    assert done['hangs'].status.startswith('timed out after 3 s')
    assert done['other'].status == 'ok'
    assert not is_alive(int((tmp_path / 'child').read_text()))
    lines = [' '.join(line.split()) for line in table.splitlines()]
    assert '(a) first 3 12 tokens/s' in lines
    assert '(a) hangs 3 timed out after 3 s' in lines


def test_a_job_that_fails_says_why_and_costs_the_others_nothing(run):
    done, table, told = run(
        ('fails', "raise ValueError('no such kernel')", 30.0, {}),
        ('says so', "tell('losses', '0.5 from the CPU', ok=False)", 30.0, {'after': ['fails']}),
        ('after it', "tell('speed', 'fast')", 30.0, {'after': ['says so']}),
    )
    assert done['fails'].status == 'FAILED with 1: ValueError: no such kernel'
    assert done['says so'].status == 'FAILED'
    assert done['after it'].status == 'ok'
    assert told == ['fails', 'says so', 'after it']
    assert 'FAILED: 0.5 from the CPU' in table


def test_time_is_kept_for_later_jobs_and_what_has_none_is_left_out(run):
    done, table, _ = run(
        ('long', 'time.sleep(60)', 60.0, {}),
        ('kept for', "tell('x', 'y')", 60.0, {'after': ['long'], 'reserve': 4.0}),
        ('too late', 'time.sleep(60)', 60.0, {'after': ['kept for'], 'reserve': 0.2}),
        ('last', 'pass', 60.0, {'after': ['too late']}),
        seconds=6.0,
    )
    assert done['long'].status == 'timed out after 2 s'
    assert done['kept for'].status == 'ok'
    assert done['too late'].status.startswith('timed out')
    assert done['last'].status == 'no time left'
    assert 'no time left' in table


def test_interrupted_all_ends_and_what_was_found_stays(run):
    begin = time.monotonic()
    done, _, _ = run(
        ('under way', "tell('x', 'y'); time.sleep(60)", 60.0, {}),
        ('to come', 'pass', 60.0, {'after': ['under way']}),
        is_over=lambda: time.monotonic() - begin > 2,
    )
    assert done['under way'].rows[0]['result'] == 'y'
    assert done['to come'].status == 'interrupted'


@pytest.mark.parametrize(
    'output',
    [
        'tests/a.py::test_x[varlen-cuda-bf16-causal window] PASSED  [ 10%]\n'
        'tests/a.py::test_x[flex-cuda-fp32] FAILED [ 20%]\ntests/a.py::test_y SKIPPED (no) [ 30%]\n',
        '[gw0] [ 10%] PASSED tests/a.py::test_x[varlen-cuda-bf16-causal window] \n'
        '[gw1] [ 20%] FAILED tests/a.py::test_x[flex-cuda-fp32] \n[gw1] [ 30%] SKIPPED tests/a.py::test_y \n'
        'FAILED tests/a.py::test_x[flex-cuda-fp32] - AssertionError: far\n',
    ],
    ids=['one process', 'xdist'],
)
def test_tests_are_counted_as_far_as_they_came(output, scripts):
    (row,) = scripts['main']._read_tests('collecting\n' + output)
    assert row['result'] == '1 failed, 1 passed, 1 skipped (flex: 1)'
    assert row['failed'] == ['tests/a.py::test_x[flex-cuda-fp32]']
    assert not row['ok']
    (row,) = scripts['main']._read_tests('nothing')
    assert not row['ok']


def test_only_what_is_missing_or_does_not_do_is_installed(scripts, tmp_path):
    install = scripts['install']
    assert install.ranges()['lightning'] == ((2, 6), (2, 7))
    assert install.ranges()['jsonargparse'] == ((4, 46), (5,))
    assert not install.lacks('numpy')
    assert install.lacks('numpy', install.Range(lowest=(99,)))
    assert install.lacks('numpy', install.Range(end=(1,)))
    assert install.lacks('no-such-package')
    install.name_package(tmp_path)
    script = "import importlib.metadata as m; print(m.version('xlabml'))"
    own = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    assert subprocess.run([sys.executable, '-c', script], env=own, capture_output=True, check=True).stdout.strip()


@pytest.fixture
def parts(scripts, monkeypatch, tmp_path):
    """The parts, whose runs take no time: each writes a log of given losses, or fails with a given error."""
    module, outcomes = scripts['parts'], []
    monkeypatch.setenv('GPU_ROWS', str(tmp_path / 'rows'))

    def start_fit(words, run, **environment):
        what = outcomes.pop(0)
        if isinstance(what, list):
            folder = run / 'logs/version_0'
            folder.mkdir(parents=True)
            rows = [
                {'train_loss': loss, 'tokens_per_second': 100.0 * i, 'mfu_ratio': 0.1 * i, 'memory/peak_mib': 2048.0}
                | {'time/mean_step_seconds': 1.0, 'time/waiting_ratio': 0.01}
                for i, loss in enumerate(what)
            ]
            (folder / 'log.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
            (folder / 'run.jsonl').write_text('{"event": "start"}\n')
        else:
            run.mkdir(parents=True)
        return what

    def finish(what):
        if isinstance(what, str):
            raise RuntimeError(what)

    monkeypatch.setattr(module, 'start_fit', start_fit)
    monkeypatch.setattr(module, 'finish', finish)

    def run(name, *what, arguments=()):
        outcomes[:] = what
        getattr(module, name)(module.Sizes(False, 'cpu'), tmp_path, *arguments)
        return scripts['runner'].read_rows(tmp_path / 'rows')

    return run


@pytest.mark.parametrize(
    ('fp32', 'bf16', 'good'),
    [
        (5e-5, 1e-2, [True, True]),
        (2e-4, 1e-2, [False, True]),
        (5e-5, 3e-2, [True, False]),
        (math.nan, 0, [False, True]),
    ],
)
def test_losses_that_are_far_from_the_cpus_fail(fp32, bf16, good, parts):
    losses = [5.0 - i / 100 for i in range(100)]
    places = (9, fp32), (99, bf16)  # of fp32 ten steps count, of bf16 all
    moved = [[loss + by * (i == place) for i, loss in enumerate(losses)] for place, by in places]
    assert [row['ok'] for row in parts('losses', losses, *moved)] == good


def test_what_does_not_fit_into_memory_is_tried_with_half_of_it(parts):
    arguments = ('124 M', 'varlen', 'eager', 60, 65536)
    full = 'xlab ended with 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB'
    (row,) = parts('speed', full, [9.0, 8.0, 7.0], arguments=arguments)
    assert row['device_batch_tokens'] == 32768
    assert row['result'].startswith('150 tokens/s, MFU 15.0 %, waits for data 1.00 %, peak 2.0 GiB; 32,768 tokens')
    with pytest.raises(RuntimeError, match='no kernel'):
        parts('speed', 'xlab ended with 1: no kernel', arguments=('124 M', 'flex', 'eager', 60, 65536))


@pytest.mark.parametrize('last', [9.5, math.nan])
def test_a_run_that_learns_nothing_fails(last, parts):
    (row,) = parts('speed', [9.0, 9.2, last], arguments=('124 M', 'varlen', 'compiled', 60, 65536))
    assert not row['ok']


@pytest.mark.slow
def test_all_of_it_on_a_cpu_at_tiny_sizes(tmp_path):
    script = ['bash', str(ROOT / 'scripts/gpu.sh'), '--device', 'cpu', '--tiny']
    own = {**os.environ, 'OUT': str(tmp_path / 'out'), 'PYTHON': sys.executable, 'SECONDS_IN_ALL': '1500'}
    done = subprocess.run(script, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    table = (tmp_path / 'out/table.txt').read_text()
    assert table.strip() in done.stdout
    found = json.loads((tmp_path / 'out/results.json').read_text())
    assert found['environment']['torch']
    parts = [job['part'] for job in found['jobs'] if job['part'] != '-']
    assert set(parts) == set('abcdef')
    begun = [part for part in parts if part != 'd' or 'left out' not in part]
    assert begun.index('c') > max(i for i, part in enumerate(begun) if part in 'ab')
    for said in ('passed', 'from the CPU', 'tokens/s, MFU', 'waits for data', 'ms a step', 'bit for bit the same'):
        assert said in table
    assert 'FAILED' not in table


def test_a_machine_without_a_gpu_is_told_so_at_once(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip('there is one')
    own = {**os.environ, 'OUT': str(tmp_path / 'out'), 'PYTHON': sys.executable, 'WHEELS': str(tmp_path)}
    begin = time.monotonic()
    with subprocess.Popen(
        ['bash', str(ROOT / 'scripts/gpu.sh')], env=own, stdout=subprocess.PIPE, text=True
    ) as process:
        printed = process.communicate()[0]
    assert process.returncode == 1
    assert 'sees no CUDA device here' in printed
    assert time.monotonic() - begin < 90
    assert (tmp_path / 'out/table.txt').exists()


def test_stopped_from_outside_it_still_writes_its_table(tmp_path):
    own = {**os.environ, 'OUT': str(tmp_path / 'out'), 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT / 'src')}
    command = [sys.executable, str(ROOT / 'scripts/gpu/main.py'), '--device', 'cpu', '--tiny', '--only', 'e', '--out']
    with subprocess.Popen([*command, own['OUT']], env=own, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert 'interrupted' in (tmp_path / 'out/table.txt').read_text() or 'timed out' in printed


def test_what_the_package_loads_is_among_the_wheels():
    """What files import at their top, but the two that are loaded where a table is read."""
    left_out = re.search(r'^LEFT_OUT = (.*?)\n\n', (ROOT / 'Makefile').read_text(), re.MULTILINE | re.DOTALL)
    names = {name.lower() for name in re.sub(r'\$\\\n\s*', '', left_out[1]).split('|')}
    assert {'pyarrow', 'httpx2', 'torch'} <= names
    lazy = ('arrow_rows.py', 'delimited.py')
    texts = [path.read_text(encoding='utf-8') for path in (ROOT / 'src').rglob('*.py') if path.name not in lazy]
    loaded = {name for text in texts for name in re.findall(r'^(?:import|from) (\w+)', text, re.MULTILINE)}
    assert 'lightning' in loaded
    assert loaded & names == {'torch', 'matplotlib'}  # plots are an extra, and loaded when one is drawn
