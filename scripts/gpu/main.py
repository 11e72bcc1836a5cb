"""Everything that needs a GPU, tried in nine minutes at most: a table last, details in a folder.

(a) the tests marked gpu, (b) losses against the CPU's, (c) speed of 124 M and 350 M, (d) other ways to compute
attention, (e) decoding, (f) resuming bit for bit. (a) and (b) run side by side, and beside them what (c) and (d) train
is compiled ahead of time; what is timed has the machine to itself.

The folder holds table.txt, results.json (versions, and every figure) and log.txt (all that was printed). They are
written anew after each job, so that whatever is cut off leaves what there was.
"""

import argparse
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from runner import Job, Outcome, run, table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_GIB_A_TEST_PROCESS = 3
"""Its CUDA context, torch's kernels and small tensors take about one."""
_SIDE_BY_SIDE_SECONDS = 190
"""What runs side by side gets, before what is timed begins."""


def make_probe(options: argparse.Namespace, folder: Path) -> Job:
    """The job that says what is here; all else depends on it."""
    return Job('-', 'machine', _part(options, folder, 'probe'), 60)


def make_jobs(options: argparse.Namespace, folder: Path, found: dict[str, Any]) -> list[Job]:
    """All other jobs.

    Args:
        found: What the probe found.
    """
    cpu = options.device == 'cpu'
    n_tests = max(1, min(found['cores'], int(found['free_gib'] // _GIB_A_TEST_PROCESS)))
    parity = 'test_a_backend_gives_what_the_definition_gives'
    others = [name for name, why in found['objections'].items() if name != found['best']]
    able = [name for name in others if found['objections'][name] is None]
    if options.tiny:
        able = able[:1]
    large, small, steps, few = (256, 128, '4', '4') if options.tiny else (65_536, 16_384, '60', '20')
    tokens = {name: small if name == 'plain' else large for name in [found['best'], *able]}
    at_350 = large // 2
    timed = [
        ('c', '124 M', found['best'], 'compiled', steps, large, 120, 60),
        ('c', '124 M', found['best'], 'eager', steps, large, 70, 35),
        ('c', '350 M', found['best'], 'compiled', steps, at_350, 140, 55),
        *(('d', '124 M', name, 'compiled', few, tokens[name], 80, 20) for name in able),
    ]
    ahead = [f'{size}:{backend}:{count}' for _, size, backend, mode, _, count, *_ in timed if mode == 'compiled']

    def tests(name: str, words: str, after: list[str], limit: float) -> Job:
        command = _tests(options, words, n_tests, found)
        return Job('a', name, command, limit, after, read=_read_tests)

    only = ' and cpu and fp32 and (plain or sdpa) and causal' if cpu else ' and not flex'
    flex = ' and cpu and fp32 and flex and causal' if cpu else ' and flex'
    rest = 'test_counting_a_step_never_waits_for_the_device or test_gpu_steps' if cpu else f'not {parity}'
    jobs = [
        tests('parity of each backend', parity + only, [], 90),
        tests('parity of flex', parity + flex, ['parity of each backend'], _SIDE_BY_SIDE_SECONDS - 60),
        tests('other tests marked gpu', rest, ['parity of flex'], 60),
        Job('-', 'tokenizers and stores', _part(options, folder, 'prepare'), 90),
        Job('b', 'losses', _part(options, folder, 'losses'), 120, ['tokenizers and stores']),
        Job('-', 'compile ahead', _part(options, folder, 'warm', *ahead), 120, ['tokenizers and stores']),
    ]
    last = [job.name for job in jobs]
    for part, size, backend, mode, count, device_tokens, limit, reserve in timed:
        words = ['speed', size, backend, mode, count, str(device_tokens)]
        job = Job(part, f'{size}, {mode}, {backend}', _part(options, folder, *words), limit, last, reserve)
        jobs.append(job)
        last = [job.name]
    jobs.append(Job('e', 'decoding', _part(options, folder, 'decode'), 60, last, 30))
    jobs.append(Job('f', 'resume', _part(options, folder, 'resume'), 90, ['decoding'], 45))
    if options.tiny:  # on a CPU that may have other work
        for job in jobs:
            job.limit *= 5
    if options.only:
        jobs = _pick(jobs, options.only)
    return jobs


def _pick(jobs: list[Job], letters: str) -> list[Job]:
    """The jobs of some parts, and what prepares them."""
    kept = [job for job in jobs if job.part in letters or job.name == 'tokenizers and stores']
    names = {job.name for job in kept}
    for i, job in enumerate(kept):
        job.after = [name for name in job.after if name in names]
        if job.part in 'cdef' and not job.after and i:
            job.after = [kept[i - 1].name]
    return kept


def _part(options: argparse.Namespace, folder: Path, *words: str) -> list[str]:
    own = ['--device', options.device, *(['--tiny'] if options.tiny else []), '--folder', str(folder)]
    return [sys.executable, str(HERE / 'parts.py'), *own, '--', *words]


def _tests(options: argparse.Namespace, words: str, n: int, found: dict[str, Any]) -> list[str]:
    tests = ROOT / 'tests'
    marked = [path for path in sorted(tests.rglob('test_*.py')) if 'mark.gpu' in path.read_text(encoding='utf-8')]
    marker = 'not gpu and not slow and not network' if options.device == 'cpu' else 'gpu'
    many = ['-n', str(n)] if n > 1 and found['has_xdist'] else []
    # What another release warns of is printed, and no failure.
    flags = ['-v', '--tb=short', '-p', 'no:cacheprovider', '-o', 'filterwarnings=default', *many]
    paths = [str(path.relative_to(ROOT)) for path in marked]
    return [sys.executable, '-m', 'pytest', *flags, '-m', marker, '-k', words, *paths]


def _read_tests(output: str) -> list[dict[str, Any]]:
    """One row of what pytest has said of each test so far."""
    found = dict(re.findall(r'(tests/\S+::[^\n]+?) (PASSED|FAILED|SKIPPED|ERROR)\b', output))
    told = re.findall(r'(PASSED|FAILED|SKIPPED|ERROR)\s+(tests/\S+::.*?)\s*$', output, re.MULTILINE)  # by xdist
    found |= {name.partition(' - ')[0]: status for status, name in told}
    counts = Counter(found.values())
    bad = sorted(name for name, status in found.items() if status in ('FAILED', 'ERROR'))
    of = Counter(re.split(r'[\[-]', name.partition('::')[2])[1] if '[' in name else '' for name in bad)
    said = ', '.join(f'{count} {status.lower()}' for status, count in sorted(counts.items())) or 'none ran'
    if bad:
        said += f' ({", ".join(f"{name}: {count}" if name else str(count) for name, count in of.items())})'
    is_good = not bad and bool(counts['PASSED'])
    return [{'what': 'tests', 'result': said, 'ok': is_good, 'failed': bad}]


class Report:
    """What was found so far, on disk.

    Args:
        out: The folder.
    """

    def __init__(self, out: Path, command: str) -> None:
        self.out, self.command, self.began = out, command, time.time()
        self.environment: dict[str, Any] = {}
        self.done: list[tuple[Job, Outcome]] = []
        self.order: list[str] = []
        out.mkdir(parents=True, exist_ok=True)
        (out / 'log.txt').write_text('', encoding='utf-8')

    def add(self, job: Job, outcome: Outcome) -> None:
        """Take down how a job ended."""
        for row in outcome.rows:
            if row['what'] == 'tests':
                row['what'] = job.name
        print(f'({job.part}) {job.name}: {outcome.status}, {outcome.seconds:.0f} s', flush=True)
        with (self.out / 'log.txt').open('a', encoding='utf-8') as file:
            file.write(
                f'\n===== ({job.part}) {job.name}: {outcome.status}\n$ {shlex.join(job.command)}\n{outcome.output}\n'
            )
        self.done.append((job, outcome))
        self.write()

    def table(self) -> str:
        """In the order of the parts."""
        places = {name: i for i, name in enumerate(self.order)}
        return table(sorted(self.done, key=lambda one: (one[0].part, places.get(one[0].name, len(places)))))

    def write(self) -> None:
        """Write the table and all figures anew."""
        (self.out / 'table.txt').write_text(self.table() + '\n', encoding='utf-8')
        jobs = [
            {
                'part': job.part,
                'name': job.name,
                'status': outcome.status,
                'seconds': outcome.seconds,
                'limit': job.limit,
            }
            | {'rows': outcome.rows}
            for job, outcome in self.done
        ]
        value = {
            'command': self.command,
            'seconds': time.time() - self.began,
            'environment': self.environment,
            'jobs': jobs,
        }
        part = self.out / '.results.part'
        part.write_text(json.dumps(value, indent=1), encoding='utf-8')
        os.replace(part, self.out / 'results.json')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda', help='cpu: to try the script itself')
    parser.add_argument('--tiny', action='store_true', help='as small as can be, to try the script itself')
    parser.add_argument('--only', default='', metavar='LETTERS', help='these parts, such as ce')
    parser.add_argument('--seconds', type=float, default=525, help='for all of it')
    parser.add_argument('--out', type=Path, default=Path('gpu-results'), help='where details go')
    options = parser.parse_args()
    received: list[int] = []
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, _: received.append(number))
    began, report = time.monotonic(), Report(options.out.resolve(), shlex.join(sys.argv))
    with tempfile.TemporaryDirectory(prefix='xlabml-gpu-', ignore_cleanup_errors=True) as name:
        folder = Path(name)
        cache = folder / 'cache'
        os.environ.update(
            XLABML_CACHE=str(cache / 'xlabml'),
            TORCHINDUCTOR_CACHE_DIR=str(cache / 'inductor'),
            TRITON_CACHE_DIR=str(cache / 'triton'),
            HF_HUB_OFFLINE='1',
            PYTHONPATH=os.pathsep.join([str(ROOT / 'src'), *filter(None, [os.environ.get('PYTHONPATH')])]),
        )
        os.chdir(ROOT)
        run([make_probe(options, folder)], 90, folder, report.add, lambda: bool(received))
        if (folder / 'probe.json').exists():
            found = json.loads((folder / 'probe.json').read_text(encoding='utf-8'))
            report.environment = found
            jobs = make_jobs(options, folder, found)
            report.order = ['machine', *(job.name for job in jobs)]
            for backend, why in found['objections'].items():
                if why is not None and 'd' in (options.only or 'd'):
                    row = {'what': f'124 M, compiled, {backend}', 'result': f'left out: {why}', 'ok': True}
                    job = Job('d', f'{backend}, left out', [], 0)
                    report.add(job, Outcome('ok', 0.0, [row], ''))
            left = options.seconds - (time.monotonic() - began)
            run(jobs, left, folder, report.add, lambda: bool(received))
    report.write()
    if options.tiny:
        print('\ntiny sizes: that the script works is all that these figures say')
    print(f'\n{report.table()}\n\n{time.monotonic() - began:.0f} s; details: {report.out}', flush=True)
    if received:
        return 128 + received[0]
    is_good = all(outcome.status == 'ok' for job, outcome in report.done if job.part != '-')
    return 0 if is_good and len(report.done) > 1 else 1


if __name__ == '__main__':
    sys.exit(main())
