"""Whether training is what it was: 60 steps of each kind of run, recorded by one version and compared by another.

    python tests/unchanged.py record FOLDER [NAMES…] [--code PATH]
    python tests/unchanged.py compare FOLDER [NAMES…] [--code PATH]

Each run is the command `xlab.py fit` of the checkout at --code (this one), on one CPU thread, offline, with a corpus,
a tokenizer and a cache of its own. A record has every batch as hashes, the figures of every step, those of every
validation, and hashes of the last checkpoint's tensors: weights by name, without the leading `model.` or `network.`,
the state of the optimizer by position. Equal means bit for bit, on one machine and one version of torch.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batch_hashes import HASHES
from run_records import describe, differences, read_run

TESTS = Path(__file__).resolve().parent
EMA = '{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}'
RESUMED_STEP = 31

RUNS = {
    'default': [],
    'chunk': ['--data.plan={class_path: Chunk, init_args: {stride_tokens: 40}}'],
    'mixture': [
        '--data.sources=[{path: long.jsonl}, {path: other.jsonl}, {path: short.jsonl}]',
        '--data.weights=[0.5, 0.3, 0.2]',
    ],
    'stream': [
        '--data.sources=[{class_path: RemoteFiles, init_args: {path: "file://SCRATCH/shards/*.jsonl"}}]',
        '--data.stream={cache_gb: 0.01, window_shards: 2}',
    ],
    'accumulation': ['--data.device_batch_tokens=64'],
    'ema': ['--model.clip=AdaptiveClip', '--model.clip.min_steps=10', f'--trainer.callbacks=[{EMA}, {HASHES}]'],
    'skip': ['--data.skip=[[5, 8], [40, 41]]'],
    'short': ['--data.sources=[{path: short.jsonl}]'],
    'ddp': [f'--config={TESTS.parent}/conf/extra/ddp.yaml'],
    'sharded': ['--trainer.strategy=sharded'],
}
WORLDS = {'ddp': 2, 'sharded': 2}
RESUMED = ('default', 'stream', 'ema', 'skip')
NAMES = [*RUNS, *(f'resumed-{name}' for name in RESUMED)]
COMMON = [
    *('--import', 'batch_hashes'),
    *('--data.sources=[{path: long.jsonl}]', '--data.tokenizer_path=tiny.model', '--data.n_vocab=320'),
    *('--data.splits={train: 0.8, val: 0.1, test: 0.1}', '--data.n_processes=1'),
    *('--data.max_len=64', '--data.batch_tokens=256', f'--trainer.callbacks=[{HASHES}]'),
    *('--model.trunk.d_model=32', '--model.trunk.n_layers=2', '--model.trunk.n_heads=2', '--model.trunk.dropout=0.1'),
    *('--trainer.accelerator=cpu', '--trainer.precision=32-true', '--trainer.max_steps=60'),
    *('--trainer.log_every_n_steps=1', '--trainer.val_check_interval=20', '--curves.peak_tflops=1'),
    *('--samples.n_tokens=2', f'--checkpoint.pin_steps=[{RESUMED_STEP}]'),
    # As the default was when the baseline was recorded.
    '--model.trunk.shift_width=1',
    '--model.optimizer.ns_dtype=float32',  # bfloat16 where the processor has it: other bits on another machine
]


class FailedError(Exception):
    """A command ended with another status than 0."""


# The runs


def write_corpus(folder):
    """Texts with a little structure to learn: two long sources, a short one, and shards of a stream."""
    rng = random.Random(7)
    nouns = ['the cat', 'a dog', 'my horse', 'the sea', 'an old man', 'her sister', 'the train', 'a small town']
    verbs = ['sees', 'eats', 'likes', 'fears', 'follows', 'remembers']
    ends = ['slowly', 'at night', 'in the rain', 'again', 'without a word', 'twice']

    def write(name, n_texts):
        rows = []
        for _ in range(n_texts):
            picks = [(nouns, verbs, nouns, ends) for _ in range(rng.randint(1, 20))]
            rows.append('. '.join(' '.join(map(rng.choice, pick)) for pick in picks))
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(''.join(json.dumps({'text': row}) + '\n' for row in rows), encoding='utf-8')

    write('long.jsonl', 400)
    write('other.jsonl', 200)
    write('short.jsonl', 40)
    for i in range(12):
        write(f'shards/{i}.jsonl', 10)


def run_command(code, scratch, world, arguments):
    """Run a command line of `xlab.py` on so many ranks, each told its own as torchrun tells it.

    Raises:
        FailedError: With what was printed.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')}
    common = {
        **inherited,
        'PYTHONPATH': f'{code / "src"}{os.pathsep}{TESTS}',
        'XLABML_CACHE': str(scratch / 'cache'),
        **dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'HF_HUB_OFFLINE'), '1'),
    }
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        port = listener.getsockname()[1]
    processes = []
    for rank in range(world):
        ranked = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': world, 'LOCAL_WORLD_SIZE': world, 'GROUP_RANK': 0}
        ranked |= {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port, 'TORCHELASTIC_RUN_ID': 'unchanged'}
        told = {name: str(value) for name, value in ranked.items()} | {'GLOO_SOCKET_IFNAME': 'lo'} if world > 1 else {}
        output = (scratch / f'printed-{rank}.txt').open('w+')
        command = [sys.executable, str(code / 'xlab.py'), *arguments]
        process = subprocess.Popen(command, cwd=scratch, env=common | told, stdout=output, stderr=subprocess.STDOUT)
        processes.append((process, output))
    try:
        until = time.monotonic() + 900
        statuses = [process.wait(max(1.0, until - time.monotonic())) for process, _ in processes]
    finally:
        for process, _ in processes:
            process.kill()
            process.wait()
    printed = []
    for _, output in processes:
        output.seek(0)
        printed.append(output.read())
        output.close()
    if any(statuses):
        raise FailedError(f'ended with {statuses}\n' + '\n'.join(text[-3000:] for text in printed))


def run(code, scratch, name):
    """Make a run, unless its folder is there already, and a resumed one's unbroken run before it."""
    folder = scratch / name
    if folder.exists():
        return folder
    base = name.removeprefix('resumed-')
    asked = [argument.replace('SCRATCH', str(scratch)) for argument in RUNS[base]]
    arguments = [*COMMON, *asked, f'--trainer.default_root_dir={folder}']
    if base != name:
        unbroken = run(code, scratch, base)
        (path,) = unbroken.glob(f'logs/version_0/checkpoints/step={RESUMED_STEP:07d}*.ckpt')
        arguments.append(f'--ckpt_path={path}')
    folder.mkdir()
    try:
        run_command(code, scratch, WORLDS.get(base, 1), ['fit', *arguments])
    except FailedError:
        folder.rename(folder.with_name(f'{name}-failed-{time.monotonic_ns()}'))
        raise
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=('record', 'compare'))
    parser.add_argument('folder', type=Path, help='where the records are, a JSON file a run')
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'runs; all: {" ".join(NAMES)}')
    parser.add_argument('--code', type=Path, default=TESTS.parent, help='the checkout whose xlab.py runs')
    parser.add_argument(
        '--scratch', type=Path, help='an empty folder for the runs, which then stay; else a temporary one'
    )
    given = parser.parse_args()
    if wrong := set(given.names) - set(NAMES):
        parser.error(f'no run is named {", ".join(sorted(wrong))}; there are {", ".join(NAMES)}')
    with tempfile.TemporaryDirectory() as temporary:
        scratch = (given.scratch or Path(temporary)).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        write_corpus(scratch)
        given.folder.mkdir(parents=True, exist_ok=True)
        same = True
        for name in given.names or NAMES:
            path = given.folder / f'{name}.json'
            try:
                now = read_run(run(given.code.resolve(), scratch, name))
                if given.action == 'record':
                    path.write_text(json.dumps(now, indent=0) + '\n')
                    said = f'{len(now["steps"])} steps recorded'
                else:
                    found = differences(json.loads(path.read_text()), now)
                    same, said = same and not found, describe(found)
            except (FailedError, OSError, KeyError, ValueError) as error:
                same, said = False, f'failed: {type(error).__name__}: {error}'
            print(f'{name}: {said}', flush=True)
    return 0 if same else 1


if __name__ == '__main__':
    raise SystemExit(main())
