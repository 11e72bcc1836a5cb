"""Where the time of a training step goes, and what a plain compiled loop takes for as many tokens.

A step of the default recipe in a raw loop on the real batches, by parts: the trunk (its attention apart), the head with
the loss, each forward and backward, clipping, Muon and AdamW; then the same model compiled, `xlab fit` with all that it
does beside the model (its loop, callbacks, data path), and the plain loop of plain_loop.py on windows of the same
tokens, eager and compiled. All alternate in one process: medians of `--rounds`, milliseconds a step. The gradient of
the head is computed with the loss, in its forward pass.
"""

import argparse
import functools
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import plain_loop
import torch
from alternate import alternate
from training import time_fit

from xlabml.batches import Batch
from xlabml.callbacks import keep_freed_memory
from xlabml.commands.fit import quieten
from xlabml.datamodules import XLabDataModule
from xlabml.engine import auto_precision
from xlabml.heads import language_model
from xlabml.losses import cross_entropy
from xlabml.training import Muon, parameter_groups
from xlabml.transformer import Transformer
from xlabml.transformer.attention import documents

SHAPES = {
    'default': {'d_model': 192, 'n_layers': 4, 'n_heads': 3, 'n_vocab': 8192, 'max_len': 512},
    'wide': {'d_model': 256, 'n_layers': 6, 'n_heads': 4, 'n_vocab': 4096, 'max_len': 256},
}
PARTS = (
    'forward: trunk',
    'forward: attention',
    'forward: head and loss',
    'backward: rest',
    'backward: attention',
    'clipping',
    'Muon',
    'AdamW',
)
INNER = {'forward: attention': 'forward: trunk', 'backward: attention': 'backward: rest'}
INNER |= {'forward: head and loss': 'forward: trunk'}
"""Parts that are timed inside of others."""


class Timers:
    """Seconds of functions, which are replaced by timed ones.

    Attributes:
        is_on: Whether time is counted.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.is_on = False

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Time each call of a function of a module or a class."""
        own = getattr(owner, name)

        @functools.wraps(own)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.time(part):
                return own(*args, **kwargs)

        setattr(owner, name, timed)

    def time(self, part: str) -> 'Timing':
        """A context that is timed."""
        return Timing(self, part)


class Timing:
    """Adds the seconds inside of it to a part."""

    def __init__(self, timers: Timers, part: str) -> None:
        self.timers = timers
        self.part = part

    def __enter__(self) -> None:
        self.begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.timers.is_on:
            self.timers.seconds[self.part] += time.perf_counter() - self.begin


class Ours:
    """Our model and optimizer in a raw loop."""

    def __init__(self, shape: dict[str, int], timers: Timers, is_compiled: bool) -> None:
        trunk = {name: value for name, value in shape.items() if name not in ('n_vocab', 'max_len')}
        torch.manual_seed(42)
        make = functools.partial(Transformer, **trunk)
        self.model = language_model(shape['n_vocab'], shape['max_len'], make).train()
        self.optimizer = Muon(parameter_groups(self.model))
        self.timers = timers
        self.is_bf16 = auto_precision('cpu') == 'bf16-mixed'
        if is_compiled:
            self.model.compile(dynamic=False)

    def __call__(self, batches: list[Batch]) -> float:
        self.timers.is_on = True
        begin = time.perf_counter()
        for batch in batches:
            with self.timers.time('forward: trunk'), torch.autocast('cpu', torch.bfloat16, enabled=self.is_bf16):
                loss = self.model(batch.ids, batch.layout, targets=batch.targets.ids).objective / batch.n_counted
            with self.timers.time('backward: rest'):
                loss.backward()
            with self.timers.time('clipping'):
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        seconds = time.perf_counter() - begin
        self.timers.is_on = False
        return seconds


class Plain:
    """The plain loop, on windows of the tokens of the batches."""

    def __init__(self, shape: dict[str, int], is_compiled: bool) -> None:
        torch.manual_seed(42)
        options = argparse.Namespace(**shape, context=shape['max_len'], rate_factor=1.0)
        self.learner = plain_loop.make_plain(options, shape['n_vocab'])
        self.run = torch.compile(self.learner.model, dynamic=False) if is_compiled else self.learner.model

    def __call__(self, batches: list[Batch]) -> float:
        begin = time.perf_counter()
        for step, batch in enumerate(batches):
            self.learner.adjust(step, 0.0)
            with plain_loop.autocast():
                loss = self.run(batch.ids, batch.targets.ids) / batch.ids.numel()
            loss.backward()
            for optimizer in self.learner.optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--shape', choices=SHAPES, default='default', help='192 x 4, or 256 x 6')
    parser.add_argument('--batch_tokens', type=int, default=1024, help='tokens of a step')
    parser.add_argument('--steps', type=int, default=8, help='steps that are measured, each time')
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--threads', type=int, help='of torch; none: as torch chooses')
    parser.add_argument('--only', nargs='+', default=['ours', 'ours, compiled', 'xlab fit', 'plain', 'plain, compiled'])
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    quieten()
    keep_freed_memory()
    warnings.filterwarnings('ignore', message='.*limit_val_batches.*')
    shape = SHAPES[options.shape]
    sizes = {'n_vocab': shape['n_vocab'], 'max_len': shape['max_len'], 'batch_tokens': options.batch_tokens}
    data = XLabDataModule(**sizes)
    data.prepare_data()
    loader = iter(data.train_dataloader())
    batches = [next(loader) for _ in range(options.steps)]

    timers = Timers()
    for owner, name, part in (
        (documents, 'attend_plan', 'forward: attention'),
        (documents, 'attend_plan_backward', 'backward: attention'),
        (cross_entropy, '_sum_chunks', 'forward: head and loss'),
        (Muon, '_step_matrices', 'Muon'),
        (Muon, '_step_others', 'AdamW'),
    ):
        timers.watch(owner, name, part)
    arguments = [f'--data.{name}={value}' for name, value in sizes.items()]
    arguments += [f'--model.trunk.{name}={shape[name]}' for name in ('d_model', 'n_layers', 'n_heads')]
    makers: dict[str, Callable[[], Callable[[list[Batch]], float]]] = {
        'ours': lambda: Ours(shape, timers, False),
        'ours, compiled': lambda: Ours(shape, Timers(), True),
        'xlab fit': lambda: lambda batches: time_fit(arguments, 3, len(batches)),
        'plain': lambda: Plain(shape, False),
        'plain, compiled': lambda: Plain(shape, True),
    }
    runs = {name: makers[name]() for name in options.only}
    warm = {}
    for name, run in runs.items():
        warm[name] = run(batches[:3])
    timers.seconds.clear()
    medians = alternate({name: functools.partial(run, batches) for name, run in runs.items()}, options.rounds)

    print(f'{options.shape}, {options.batch_tokens:,} tokens a step, {torch.get_num_threads()} threads')
    print(f'{"":24}{"ms/step":>10}{"tokens/s":>12}{"warm-up, s":>12}')
    for name, taken in medians.items():
        rate = options.batch_tokens * options.steps / taken
        print(f'{name:24}{1000 * taken / options.steps:10.1f}{rate:12,.0f}{warm[name]:12.1f}')
    if 'ours' not in runs:
        return
    print('\nparts of ours, means')
    found = dict(timers.seconds)
    for inner, outer in INNER.items():
        found[outer] -= found.get(inner, 0.0)
    for part in PARTS:
        print(f'{part:24}{1000 * found.get(part, 0.0) / options.steps / options.rounds:10.1f}')


if __name__ == '__main__':
    main()
