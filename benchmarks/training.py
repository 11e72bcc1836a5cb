"""Tokens per second of `xlab fit` and of a plain PyTorch loop around the same language model, on the same batches.

`fit` is the real one: the command line's Trainer with all its callbacks, curves and data path, the store ready. The
plain loop has its batches read beforehand, and does what training needs: autocast, the gradient's norm clipped, our
optimizer, and the schedule. Both count useful tokens only, after some steps to warm up, without validation.
"""

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from alternate import alternate

from xlabml.batches import Batch
from xlabml.commands.fit import quieten
from xlabml.commands.parsing import parse
from xlabml.commands.running import execute
from xlabml.datamodules import XLabDataModule
from xlabml.engine import DEFAULT_STEPS, auto_precision
from xlabml.heads import language_model
from xlabml.training import Muon, Schedule, WarmupLinear, parameter_groups
from xlabml.transformer import Transformer


class Clock(L.Callback):
    """Measures from the end of the last step of the warm-up to the end of the last step of all."""

    def __init__(self, n_warmup: int, n_steps: int) -> None:
        self.n_warmup, self.n_steps, self.seconds = n_warmup, n_steps, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.n_warmup:
            self.seconds = -time.perf_counter()
        elif trainer.global_step == self.n_warmup + self.n_steps:
            self.seconds += time.perf_counter()


def time_fit(arguments: list[str], n_warmup: int, n_steps: int) -> float:
    """Seconds that `xlab fit` takes for n_steps."""
    clock = Clock(n_warmup, n_steps)

    # As often as the default run looks, not ten times in these few steps.
    spectra = f'--curves.spectra_every_n_steps={DEFAULT_STEPS // 10}'
    steps = f'--trainer.max_steps={n_warmup + n_steps}'
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        root = f'--trainer.default_root_dir={folder}'
        execute(parse(['fit', steps, spectra, '--trainer.limit_val_batches=0', root, *arguments]), [clock])
    return clock.seconds


def time_plain(
    batches: list[Batch],
    data: XLabDataModule,
    n_warmup: int,
    trunk: Callable[[int, int], Transformer] = Transformer,
    optimizer_class: Callable[..., torch.optim.Optimizer] = Muon,
    schedule_class: Callable[[int], Schedule] = WarmupLinear,
) -> float:
    """Seconds that a plain loop takes for the batches that come after the warm-up."""
    torch.manual_seed(42)
    model = language_model(data.n_vocab, data.max_len, trunk).train()
    optimizer = optimizer_class(parameter_groups(model))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule_class(len(batches)))
    is_bf16, begin = auto_precision('cpu') == 'bf16-mixed', 0.0
    for step, batch in enumerate(batches):
        if step == n_warmup:
            begin = time.perf_counter()
        with torch.autocast('cpu', torch.bfloat16, enabled=is_bf16):
            loss = model(batch.ids, batch.layout, targets=batch.targets.ids).objective / batch.n_counted
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--steps', type=int, default=60, help='steps that are measured, each time')
    parser.add_argument('--warmup', type=int, default=5, help='steps before them')
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    options = parser.parse_args()
    quieten()
    warnings.filterwarnings('ignore', message='.*limit_val_batches.*')

    data = XLabDataModule()
    data.prepare_data()
    n_steps = options.warmup + options.steps
    loader = iter(data.train_dataloader())
    batches = [next(loader) for _ in range(n_steps)]
    n_tokens = sum(batch.n_counted for batch in batches[options.warmup :])
    medians = alternate(
        {
            'plain PyTorch loop': lambda: time_plain(batches, data, options.warmup),
            'xlab fit': lambda: time_fit([], options.warmup, options.steps),
        },
        options.rounds,
    )
    print(f'{"":20}{"ms/step":>10}{"tokens/s":>12}   ({torch.get_num_threads()} threads, {auto_precision("cpu")})')
    for name, taken in medians.items():
        print(f'{name:20}{1000 * taken / options.steps:10.1f}{n_tokens / taken:12,.0f}')
    print(f'xlab fit reaches {medians["plain PyTorch loop"] / medians["xlab fit"]:.3f} of the plain loop')


if __name__ == '__main__':
    main()
