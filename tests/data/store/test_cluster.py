"""Tokenizing under datatrove's executors: a Ray that is started here, a Slurm that is played by scripts."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('datatrove')

from xlabml.data import Location, SharedJob, plan_store, prepare_store
from xlabml.data.store import cluster

ROOT = Path(__file__).parents[3]
WORDS = ['the', 'a', 'cat', 'dog', 'été', 'sat', 'on', 'mat', 'ran', 'far', 'away', 'über', '12', 'days']

SBATCH = """#!{python}
import os, re, subprocess, sys, time
script = sys.argv[-1]
with open(script) as file:
    text = file.read()
with open(os.path.join({folder!r}, 'submitted'), 'a') as file:
    file.write(text)
first, last = map(int, re.search(r'--array=(\\d+)-(\\d+)', text).groups())
kept = os.path.join({folder!r}, 'script.sh')
with open(kept, 'w') as file:
    file.write(text)
offset = next(word for word in sys.argv if 'RUN_OFFSET' in word).rpartition('=')[2]
command = ' ; '.join(f'SLURM_ARRAY_TASK_ID={{i}} bash {{kept}}' for i in range(first, last + 1))
with open(os.path.join({folder!r}, 'running'), 'w') as file:
    file.write('R')
subprocess.Popen(
    f'({{command}}) > {folder}/log 2>&1 ; rm {folder}/running', shell=True, start_new_session=True,
    env={{**os.environ, 'RUN_OFFSET': offset, 'SLURM_NODELIST': 'here'}},
)
print('Submitted batch job 77')
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 4_000)
    draw = random.Random(0)
    rows = [{'text': ' '.join(draw.choices(WORDS, k=draw.randrange(40)))} for _ in range(200)]
    (tmp_path / 'a.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return Location(str(tmp_path / 'a.jsonl'))


@pytest.fixture
def in_parts(monkeypatch, tmp_path):
    """Processes that are started cut sources into the same small parts."""
    site = tmp_path / 'site'
    site.mkdir()
    (site / 'sitecustomize.py').write_text('import xlabml.data.sources.location as l\nl._PART_BYTES = 4_000\n')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(site), str(ROOT / 'src'), *sys.path[1:]]))


@pytest.fixture
def slurm(tmp_path, monkeypatch, in_parts):
    """A folder of programs that play Slurm, and what they leave behind."""
    folder = tmp_path / 'slurm'
    folder.mkdir()
    programs = {
        'sbatch': SBATCH.format(python=sys.executable, folder=str(folder)),
        'squeue': f'#!/bin/sh\ncat {folder}/running\n',
        'scontrol': '#!/bin/sh\necho here\n',
        'srun': '#!/bin/sh\nshift 3\nexec "$@"\n',
        'launch_pickled_pipeline': (
            f'#!{sys.executable}\nfrom datatrove.tools.launch_pickled_pipeline import main\nmain()\n'
        ),
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setattr(cluster, '_POLL_SECONDS', 0.1)
    return folder


def digests(store):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.folder.glob('*.bin'))}


def test_a_step_tokenizes_the_share_of_its_task(source, tokenizer, tmp_path):
    job = plan_store(source, tokenizer)
    shared = SharedJob.named(job, str(tmp_path / 'shared'))
    shared.write(job)
    step = cluster.EncodeParts(shared.url, [], 1)
    assert step(None, rank=1, world_size=3) is None
    assert shared.there() == set(range(1, len(job.parts), 3))
    assert step.stats.stats['parts'].total == len(shared.there())


def test_the_script_says_what_was_asked_for(source, tokenizer, tmp_path):
    job = plan_store(source, tokenizer)
    engine = cluster.Slurm(
        str(tmp_path / 'shared'),
        n_tasks=4,
        n_workers=2,
        n_cpus=3,
        memory_gb=5,
        max_hours=30,
        partition='long',
        qos='low',
        env_command='module load python',
        sbatch_args={'account': 'mine'},
    )
    lines = engine.script(SharedJob.named(job, engine.shared_folder), job).splitlines()
    asked = [
        '--cpus-per-task=3', '--mem-per-cpu=5G', '--partition=long', '--time=30:00:00', '--array=0-3%2',
        '--account=mine', '--qos=low', '--job-name=xlab_prepare_data', '--requeue',
    ]  # fmt: skip
    assert not {f'#SBATCH {option}' for option in asked} - set(lines)
    assert 'module load python' in lines
    assert lines[-1].startswith(f'srun  -l -n 1 launch_pickled_pipeline {tmp_path}/shared/')


def test_slurm_makes_the_same_files(source, slurm, tokenizer, tmp_path, capfd):
    local = prepare_store(source, tokenizer, tmp_path / 'local', n_processes=2)
    engine = cluster.Slurm(str(tmp_path / 'shared'), n_tasks=2, partition='cpu', env_command='true')
    job = plan_store(source, tokenizer)
    script = engine.script(SharedJob.named(job, engine.shared_folder), job)
    store = prepare_store(source, tokenizer, tmp_path / 's', engine=engine)
    assert digests(store) == digests(local)
    assert (slurm / 'submitted').read_text() == script
    assert 'Slurm job 77: 2 tasks, logs in' in capfd.readouterr().err


@pytest.mark.slow
def test_a_job_that_is_queued_is_waited_for(source, slurm, tokenizer, tmp_path):
    """The command was interrupted while the job ran: it is not submitted twice."""
    engine = cluster.Slurm(str(tmp_path / 'shared'), n_tasks=2, partition='cpu', env_command='true')
    job = plan_store(source, tokenizer)
    shared = SharedJob.named(job, engine.shared_folder)
    shared.write(job)
    shared.write_note('slurm_job', '76')
    (slurm / 'running').write_text('R')
    code = 'import sys, time, os; from xlabml.data import SharedJob; SharedJob(sys.argv[1]).encode(0, 1, 1); '
    code += 'os.remove(sys.argv[2])'
    process = subprocess.Popen([sys.executable, '-c', code, shared.url, str(slurm / 'running')])
    store = prepare_store(source, tokenizer, tmp_path / 's', engine=engine)
    assert process.wait() == 0
    assert not (slurm / 'submitted').exists()
    assert digests(store) == digests(prepare_store(source, tokenizer, tmp_path / 'local'))


@pytest.mark.slow
def test_what_breaks_a_task_is_said_where_it_was_asked_for(source, slurm, tokenizer, tmp_path):
    path = source.files()[0]
    lines = path.read_text().splitlines()
    lines[150] = '{"text": broken'
    path.write_text('\n'.join(lines))
    engine = cluster.Slurm(str(tmp_path / 'shared'), n_tasks=1, partition='cpu', env_command='true')
    with pytest.raises(ValueError, match=r'a\.jsonl:151: not JSON .*; mend the line'):
        prepare_store(source, tokenizer, tmp_path / 's', engine=engine)


def test_without_slurm_there_is_the_dry_run(source, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '/nowhere')
    engine = cluster.Slurm(str(tmp_path / 'shared'), partition='cpu')
    with pytest.raises(ValueError, match=r'there is no sbatch here; .*--dry_run'):
        prepare_store(source, tokenizer, tmp_path / 's', engine=engine)
    monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '0')
    with pytest.raises(ValueError, match='run it outside of a Slurm array'):
        prepare_store(source, tokenizer, tmp_path / 's', engine=engine)


def test_an_option_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match='--n_tasks is 0; it must be at least 1'):
        cluster.Ray('shared', n_tasks=0)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # Ray's own
def test_ray_makes_the_same_files_and_goes_on_after_a_kill(source, in_parts, tokenizer, tmp_path, monkeypatch):
    ray = pytest.importorskip('ray')
    monkeypatch.setenv('RAY_worker_niceness', '0')
    local = [prepare_store(source, tokenizer, tmp_path / f'{n}', n_processes=n) for n in (1, 2)]
    tokenizer_path = tmp_path / 'tokenizer.model'
    tokenizer_path.write_bytes(tokenizer.data)
    code = (
        'import sys; from pathlib import Path; from xlabml.data import Location, prepare_store; '
        'from xlabml.data.store import cluster; '
        'from xlabml.tokenizer import Tokenizer; '
        'prepare_store(Location(sys.argv[1]), Tokenizer.load(sys.argv[2]), Path(sys.argv[3]), '
        'engine=cluster.Ray(sys.argv[4], n_tasks=4, n_workers=1))'
    )
    arguments = [source.path, str(tokenizer_path), str(tmp_path / 's'), str(tmp_path / 'shared')]
    process = subprocess.Popen([sys.executable, '-c', code, *arguments], start_new_session=True)
    job = SharedJob.named(plan_store(source, tokenizer), str(tmp_path / 'shared'))
    deadline = time.monotonic() + 300
    while not job.there() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, 9)
    process.wait()
    there = job.there()
    assert there
    ray.init(num_cpus=2, log_to_driver=False, logging_level='error')
    try:
        store = prepare_store(
            source, tokenizer, tmp_path / 's', engine=cluster.Ray(str(tmp_path / 'shared'), n_tasks=2)
        )
    finally:
        ray.shutdown()
    assert digests(store) == digests(local[0]) == digests(local[1])
