"""What each part of `make gpu` does: one command a job, which writes what it finds as lines of JSON.

Everything that trains is `xlab fit` itself, as a user would type it; the figures are those that it writes.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from decoding import decode
from runs import Sizes, find_checkpoint, finish, read_rows, run_folder, start, start_fit, tell

from xlabml import checkpoints
from xlabml.telemetry import peaks
from xlabml.transformer.attention.backends import BACKENDS, Ask, objection
from xlabml.transformer.attention.choice import choose

# Before all


def probe(sizes: Sizes, folder: Path) -> None:
    """Say what is here; what can compute attention, and which way is best for (c)."""
    driver = ''
    if shutil.which('nvidia-smi'):
        query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        driver = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    if sizes.device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit(f'torch {torch.__version__} sees no CUDA device here (driver {driver or "unknown"})')
    device = torch.device(sizes.device)
    ask = _ask(sizes)
    best = choose('auto', ask)
    reasons = {name: objection(name, ask) for name in BACKENDS}
    free, total = torch.cuda.mem_get_info() if sizes.device == 'cuda' else (8 << 30, 8 << 30)
    found = {
        'device': peaks.device_name(device),
        'driver': driver,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'cuda': torch.version.cuda,
        'packages': {name: _version(name) for name in ('lightning', 'triton', 'flash-attn', 'numpy', 'jsonargparse')},
        'cores': os.cpu_count(),
        'has_xdist': importlib.util.find_spec('xdist') is not None,
        'memory_gib': round(total / 2**30, 1),
        'free_gib': round(free / 2**30, 1),
        'best': best.name,
        'why': best.reason,
        'objections': reasons,
    }
    (folder / 'probe.json').write_text(json.dumps(found), encoding='utf-8')
    tell('machine', f'{found["device"]}, torch {torch.__version__}, attention {best.name} ({best.reason})')


def _ask(sizes: Sizes) -> Ask:
    off = dict.fromkeys(('window', 'slopes', 'score_cap', 'grouped', 'dropout'), False)
    d_head = 16 if sizes.tiny else 64
    return Ask(
        causal=True, **off, d_head=d_head, documents=True, gradient=True, device=sizes.device, dtype=torch.bfloat16
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def prepare(sizes: Sizes, folder: Path) -> None:
    """Tokenizers and token stores of all that trains."""
    if sizes.tiny:
        paths = [Path(module.__file__ or '') for module in (argparse, json, subprocess, tempfile)]
        texts = '\n\n'.join(path.read_text(encoding='utf-8') for path in paths).split('\n\n')
        lines = ''.join(json.dumps({'text': text}) + '\n' for text in texts)
        (folder / 'texts.jsonl').write_text(lines, encoding='utf-8')
    both = [sizes.default_model(folder), sizes.large_model(folder, '124 M', 1 << 30)]
    running = [start(['prepare_data', *_of_data(flags)], folder / f'prepare{i}') for i, flags in enumerate(both)]
    for process in running:
        finish(process)
    tell('tokenizers and stores', 'ready')


def _of_data(flags: Sequence[str]) -> list[str]:
    return [flag for flag in flags if not flag.startswith('--trainer.')]


# (b) The default model


def losses(sizes: Sizes, folder: Path) -> None:
    """Train the default model in fp32 and bf16, and hold its losses against those of the CPU in fp32."""
    steps = f'--trainer.max_steps={sizes.losses_steps}'
    flags = [*sizes.default_model(folder), steps, '--trainer.log_every_n_steps=1']
    exact = '--model.optimizer.ns_dtype=float32'  # by default a GPU makes matrices orthogonal in bf16
    runs = {
        'cpu': [*flags, '--trainer.accelerator=cpu', '--trainer.precision=32-true', exact],
        'fp32': [*flags, '--trainer.precision=32-true', exact],
        'bf16': [*flags, '--trainer.precision=bf16-mixed'],
    }
    threads = str(min(8, os.cpu_count() or 1))  # tests run beside it
    running = {
        name: start_fit(words, folder / f'losses-{name}', OMP_NUM_THREADS=threads) for name, words in runs.items()
    }
    rows = {}
    for name, process in running.items():
        finish(process)
        rows[name] = read_rows(folder / f'losses-{name}')
    expected = [row['train_loss'] for row in rows.pop('cpu')]
    limits = {'fp32': (1e-4, 10), 'bf16': (2e-2, sizes.losses_steps)}
    for name, found in rows.items():
        far = [abs(row['train_loss'] - loss) for row, loss in zip(found, expected, strict=True)]
        limit, n_held = limits[name]
        largest = _largest(far[:n_held])
        tell(
            f'default model, {name}',
            f'{largest:.1e} from the CPU in {min(n_held, len(far))} steps (at most {limit:.0e}), '
            f'{_largest(far):.1e} in {len(far)}; '
            f'loss {expected[0]:.3f} to {found[-1]["train_loss"]:.3f}, on the CPU {expected[-1]:.3f}',
            len(far) == sizes.losses_steps and largest <= limit,
            losses=[row['train_loss'] for row in found],
            cpu=expected,
        )


def _largest(values: Sequence[float]) -> float:
    """NaN, where there is one."""
    return max(values, key=lambda value: (math.isnan(value), value))


# (c), (d) Speed


def warm(sizes: Sizes, folder: Path, runs: Sequence[str]) -> None:
    """Compile what is going to be measured, so that it lies in the compilers' caches: each for two steps."""

    def train(run: str) -> None:
        size, backend, device_tokens = run.split(':')
        flags = [*sizes.large_model(folder, size, int(device_tokens)), f'--model.trunk.attention={backend}']
        place = folder / f'warm-{size}-{backend}'
        begin = time.monotonic()
        code = start_fit([*flags, '--trainer.compile=true', '--trainer.max_steps=2'], place).wait()
        said = f'in {time.monotonic() - begin:.0f} s' if not code else f'it ended with {code}'
        tell(f'compiled ahead: {size}, {backend}', said)
        print((place / 'output').read_text(encoding='utf-8', errors='replace')[-5000:])
        shutil.rmtree(place)

    has_room = sizes.device == 'cuda' and torch.cuda.mem_get_info()[1] > 120 * 2**30
    with ThreadPoolExecutor(2 if has_room else 1) as pool:
        list(pool.map(train, runs))


def speed(sizes: Sizes, folder: Path, size: str, backend: str, mode: str, n_steps: int, device_tokens: int) -> None:
    """Train, and tell of tokens/s, MFU, waiting for data and peak memory, after the first rows of the log."""
    what = f'{size}, {mode}, {backend}'
    while True:
        run = folder / f'speed-{size}-{mode}-{backend}-{device_tokens}'
        process = start_fit(
            [
                *sizes.large_model(folder, size, device_tokens),
                f'--model.trunk.attention={backend}',
                f'--trainer.compile={str(mode == "compiled").lower()}',
                f'--trainer.max_steps={n_steps}',
                f'--trainer.log_every_n_steps={sizes.rhythm}',
            ],
            run,
        )
        try:
            finish(process)
            break
        except RuntimeError as error:
            if 'out of memory' not in str(error) or device_tokens < 2048:
                raise
            print(f'out of memory with {device_tokens:,} tokens at a time; trying half of them', flush=True)
            shutil.rmtree(run)
            device_tokens //= 2
    rows = read_rows(run)
    timed = rows[1:]  # the first holds what was compiled and warmed up
    seconds = sum(row['time/mean_step_seconds'] for row in timed)

    def mean(name: str) -> float:
        return sum(row[name] * row['time/mean_step_seconds'] for row in timed) / seconds

    is_learning = (
        all(math.isfinite(row['train_loss']) for row in rows) and rows[-1]['train_loss'] < rows[0]['train_loss']
    )
    start = next(json.loads(line) for line in (run_folder(run) / 'run.jsonl').read_text().splitlines())
    tell(
        what,
        f'{mean("tokens_per_second"):,.0f} tokens/s, MFU {100 * mean("mfu_ratio"):.1f} %, '
        f'waits for data {100 * mean("time/waiting_ratio"):.2f} %, '
        f'peak {max(row["memory/peak_mib"] for row in rows) / 1024:.1f} GiB; '
        f'{device_tokens:,} tokens at a time, {n_steps - sizes.rhythm} steps; '
        f'loss {rows[0]["train_loss"]:.2f} to {rows[-1]["train_loss"]:.2f}',
        is_learning or sizes.tiny,
        rows=rows,
        start=start,
        device_batch_tokens=device_tokens,
    )
    shutil.rmtree(run)  # a checkpoint has gigabytes


# (f) Resuming


def resume(sizes: Sizes, folder: Path) -> None:
    """Train without a break, and from the checkpoint in the middle again: bit for bit the same?"""
    steps, half = sizes.resume_steps, sizes.resume_steps // 2
    flags = [
        *sizes.default_model(folder),
        f'--trainer.max_steps={steps}',
        '--trainer.log_every_n_steps=1',
        '--trainer.deterministic=true',
        f'--trainer.val_check_interval={half}',
        '--trainer.limit_val_batches=2',
        f'--checkpoint.pin_steps=[{half}]',
        '--checkpoint.save_last_k=2',
        f'--samples.n_tokens={sizes.decoded}',
    ]
    whole, resumed = folder / 'resume-whole', folder / 'resume-resumed'
    finish(start(['fit', *flags, f'--trainer.default_root_dir={whole}'], whole))
    middle = find_checkpoint(whole, half)
    words = ['fit', *flags, f'--trainer.default_root_dir={resumed}', f'--ckpt_path={middle}']
    finish(start(words, resumed))
    expected, got = (checkpoints.read(find_checkpoint(run, steps)) for run in (whole, resumed))
    unlike = [
        f'{key}.{name}'
        for key in ('state_dict', 'optimizer_states')
        for name, value in _tensors(expected[key]).items()
        if not torch.equal(value, _tensors(got[key]).get(name, torch.empty(0)))
    ]
    losses = [[row['train_loss'] for row in read_rows(run)][-half:] for run in (whole, resumed)]
    same = not unlike and losses[0] == losses[1]
    n_tensors = len(_tensors(expected['state_dict'])) + len(_tensors(expected['optimizer_states']))
    tell(
        f'resumed at step {half} of {steps}, deterministic',
        f'bit for bit the same: {n_tensors} tensors and {half} losses'
        if same
        else f'not the same: {len(unlike)} of {n_tensors} tensors ({", ".join(unlike[:3])}), losses {losses}',
        same,
    )


def _tensors(value: Any, name: str = '') -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found: dict[str, torch.Tensor] = {}
    for key, item in items:
        found |= _tensors(item, f'{name}.{key}' if name else str(key))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('job', choices=['probe', 'prepare', 'losses', 'warm', 'speed', 'decode', 'resume'])
    parser.add_argument('arguments', nargs='*', help='of the job')
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--tiny', action='store_true', help='as small as can be, to try the script')
    parser.add_argument('--folder', type=Path, required=True, help='what runs leave')
    options = parser.parse_args()
    sizes, words = Sizes(options.tiny, options.device), options.arguments
    if options.job == 'warm':
        warm(sizes, options.folder, words)
    elif options.job == 'speed':
        size, backend, mode, n_steps, device_tokens = words
        speed(sizes, options.folder, size, backend, mode, int(n_steps), int(device_tokens))
    elif options.job == 'decode':
        decode(sizes)
    else:
        {'probe': probe, 'prepare': prepare, 'losses': losses, 'resume': resume}[options.job](sizes, options.folder)


if __name__ == '__main__':
    main()
