"""Seconds from the start of a process: of commands, against what their libraries take to load.

Four pairs, in alternation: `import lightning` and `xlab --help`; `import torch` and one token of `xlab-infer`; nothing
and `import xlabml.tokenizer`; a plain script and `xlab fit`, both until their first training step is done. The plain
script imports torch, numpy, sentencepiece and TensorBoard, and takes one step of the same model.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from alternate import alternate, seconds

ROOT = Path(__file__).resolve().parents[1]

PLAIN_STEP = """
import numpy, os, sentencepiece, torch, torch.utils.tensorboard
from xlabml.batches import Layout
from xlabml.heads import language_model
model = language_model(8192, 512)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.004, fused=True)
ids, layout = torch.randint(8192, (2, 512)), Layout(torch.arange(0, 1025, 128), 128)
with torch.autocast('cpu', torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
    loss = model(ids, layout, targets=ids).objective / ids.numel()
loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
os._exit(0)
"""


class LeaveAfterStep(L.Callback):
    """Ends the process when the first training step is done."""

    def on_train_batch_end(self, *_: Any) -> None:
        sys.stdout.flush()
        os._exit(0)


def run(*arguments: str) -> None:
    """Run Python with these arguments, and wait for it."""
    path = os.pathsep.join([str(ROOT / 'benchmarks'), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': path}
    )
    if done.returncode:
        raise SystemExit(f'{" ".join(arguments)} failed:\n{done.stdout}{done.stderr}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    options = parser.parse_args()
    xlab, infer = str(ROOT / 'xlab.py'), str(ROOT / 'infer.py')
    with tempfile.TemporaryDirectory() as folder:
        fit = (xlab, 'fit', f'--trainer.default_root_dir={folder}', '--trainer.limit_val_batches=0')
        run(*fit, '--trainer.max_steps=1')  # makes the store and a checkpoint
        ckpt = str(next(Path(folder).rglob('*.ckpt')))
        commands = {
            'nothing': ('-c', ''),
            'import xlabml.tokenizer': ('-c', 'import xlabml.tokenizer'),
            'import torch': ('-c', 'import torch'),
            'infer --help': (infer, '--help'),
            'infer, one token': (infer, ckpt, 'The', '-l', '1'),
            'import lightning': ('-c', 'import lightning'),
            'xlab --help': (xlab, '--help'),
            'plain script, one step': ('-c', PLAIN_STEP),
            'xlab fit, one step': (*fit, '--trainer.callbacks=[{class_path: startup.LeaveAfterStep}]'),
        }
        times = alternate({name: lambda c=c: seconds(lambda: run(*c)) for name, c in commands.items()}, options.rounds)
    for name, taken in times.items():
        print(f'{name:26}{taken:6.2f} s')
    print(f'import xlabml.tokenizer takes {times["import xlabml.tokenizer"] - times["nothing"]:.2f} s')
    for name, base in (
        ('infer, one token', 'import torch'),
        ('xlab --help', 'import lightning'),
        ('xlab fit, one step', 'plain script, one step'),
    ):
        print(f'{name}: {times[name] / times[base]:.2f} times {base}')


if __name__ == '__main__':
    main()
