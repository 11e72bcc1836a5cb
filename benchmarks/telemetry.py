"""What the curves cost a real `xlab fit`: in every step, in a row, and in a look at the spectra.

Arguments go to fit, which trains the default model on the embedded corpus without validation.
"""

import argparse
import contextlib
import functools
import io
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from xlabml.callbacks import Curves
from xlabml.commands.fit import XLabCLI, quieten
from xlabml.telemetry import spectra

_HOOKS = (
    'on_train_batch_start',
    'on_before_zero_grad',
    'on_before_backward',
    'on_after_backward',
    'on_before_optimizer_step',
    'on_train_batch_end',
)


def timed(function: Callable, taken: list[float]) -> Callable:
    """A function that notes how long it takes, in milliseconds."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            taken.append(1000 * (time.perf_counter() - begin))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--steps', type=int, default=100)
    options, arguments = parser.parse_known_args()
    quieten()
    warnings.filterwarnings('ignore', message='.*limit_val_batches.*')
    taken: dict[str, list[float]] = defaultdict(list)
    for name in _HOOKS:
        setattr(Curves, name, timed(getattr(Curves, name), taken[name]))
    for where, name in ((Curves, '_write_row'), (Curves, '_write'), (spectra, 'summarize')):
        setattr(where, name, timed(getattr(where, name), taken[name]))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        steps = f'--trainer.max_steps={options.steps}'
        root = f'--trainer.default_root_dir={folder}'
        XLabCLI(['fit', steps, root, '--trainer.limit_val_batches=0', *arguments])
    n_batches, n_rows = len(taken['on_train_batch_start']), len(taken['_write_row'])
    row = statistics.median(taken['_write_row'])
    hooks = sum(statistics.median(taken[name]) for name in _HOOKS)
    print(f'{n_batches} batches, {n_rows} rows, {1000 * (time.perf_counter() - begin) / options.steps:.1f} ms a step')
    print(f'in each batch, all hooks      {hooks:8.3f} ms')
    written, looks = statistics.median(taken['_write']), taken['summarize']
    print(f'in each row                   {row:8.3f} ms, of which loggers and lines {written:.3f}')
    if looks:
        print(f'a look at the spectra         {statistics.median(looks):8.1f} ms, {len(looks)} times')


if __name__ == '__main__':
    main()
