"""`xlab` as a user types it, in sizes for a GPU or for trying the script, and rows of what was found."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRAINED = {'124 M': (768, 12, 12), '350 M': (1024, 24, 16)}
"""d_model, n_layers, n_heads; 350 M is GPT-2 medium in the same recipe."""


class Sizes:
    """How large everything is.

    Args:
        tiny: So small that a CPU does all of it in a minute or two, to try the script.
        device: cuda or cpu.
    """

    def __init__(self, tiny: bool, device: str) -> None:
        self.tiny, self.device = tiny, device
        self.losses_steps = 3 if tiny else 100
        self.long_steps, self.short_steps, self.rhythm = (4, 4, 2) if tiny else (60, 20, 10)
        self.decoded = 4 if tiny else 128
        self.resume_steps = 4 if tiny else 12

    def common(self, folder: Path) -> list[str]:
        """Flags of every run."""
        own = (
            [f'--data.sources=[{{path: {folder}/texts.jsonl, name: null, split: train}}]', '--data.n_vocab=512']
            if self.tiny
            else []
        )
        return [
            f'--trainer.accelerator={"gpu" if self.device == "cuda" else "cpu"}',
            '--trainer.devices=1',
            '--trainer.enable_progress_bar=false',
            *own,
        ]

    def default_model(self, folder: Path) -> list[str]:
        """Flags of the default model."""
        small = ['--data.max_len=32', '--data.batch_tokens=128', '--model.trunk.d_model=16', '--model.trunk.n_layers=2']
        return [*self.common(folder), *([*small, '--model.trunk.n_heads=2'] if self.tiny else [])]

    def large_model(self, folder: Path, size: str, device_tokens: int) -> list[str]:
        """Flags of conf/gpt2_124m.yaml on a text that needs no download, in the size of a name."""
        d_model, n_layers, n_heads = (32, 2, 2) if self.tiny else TRAINED[size]
        steps = 256 if self.tiny else 131_072
        flags = {
            'data.tokenizer_path': 'null',
            'data.splits': '{train: 0.9, val: 0.05, test: 0.05, predict: 0.0}',
            'data.batch_tokens': steps,
            'data.device_batch_tokens': min(device_tokens, steps // 2 if self.tiny else steps),
            'model.trunk.d_model': d_model,
            'model.trunk.n_layers': n_layers,
            'model.trunk.n_heads': n_heads,
            'model.trunk.d_ff': 4 * d_model,
            'model.schedule.warmup_steps': 1,
        }
        if self.tiny:
            flags |= {'data.max_len': 64, 'data.num_workers': 1}
        else:
            flags |= {'data.sources': '[StandardLibrary]'}
        return [
            '-c',
            str(ROOT / 'conf/gpt2_124m.yaml'),
            *self.common(folder),
            *(f'--{k}={v}' for k, v in flags.items()),
        ]


def tell(what: str, result: str, ok: bool = True, **figures: Any) -> None:
    """Write a row of the table, at once."""
    row = {'what': what, 'result': result, 'ok': ok, **figures}
    print(f'{what}: {result}', flush=True)
    with open(os.environ['GPU_ROWS'], 'a', encoding='utf-8') as file:
        file.write(json.dumps(row) + '\n')


def start(words: Sequence[str], run: Path, **environment: str) -> subprocess.Popen:
    """`xlab`, its output in a file."""
    run.mkdir(parents=True)
    command = [sys.executable, str(ROOT / 'xlab.py'), *words]
    print('$', ' '.join(command), flush=True)
    with (run / 'output').open('wb') as output:
        process = subprocess.Popen(
            command,
            cwd=run,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    process.run = run  # type: ignore[attr-defined]
    return process


def start_fit(words: Sequence[str], run: Path, **environment: str) -> subprocess.Popen:
    """A run that does nothing but train."""
    off = {
        'trainer.limit_val_batches': 0,
        'trainer.default_root_dir': run,
        'curves.spectra_every_n_steps': 0,
        'checkpoint.monitor': 'null',
        'samples.n_tokens': 0,
    }
    return start(['fit', *words, *(f'--{name}={value}' for name, value in off.items())], run, **environment)


def finish(process: subprocess.Popen) -> None:
    """Wait for it, and show what it printed.

    Raises:
        RuntimeError: It failed.
    """
    code = process.wait()
    output = (process.run / 'output').read_text(encoding='utf-8', errors='replace')  # type: ignore[attr-defined]
    print(output[-20_000:], flush=True)
    if code:
        lines = [line for line in output.splitlines() if line.strip()]
        causes = [line for line in lines if 'out of memory' in line or 'Error' in line]
        raise RuntimeError(f'xlab ended with {code}: {(causes or lines or [""])[-1].strip()[:300]}')


def run_folder(run: Path) -> Path:
    return run / 'logs/version_0'


def read_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder(run) / 'log.jsonl').read_text(encoding='utf-8').splitlines()]


def find_checkpoint(run: Path, step: int) -> Path:
    return next(run_folder(run).glob(f'checkpoints/step={step:07}*.ckpt'))
