"""Tokens per second that the loader alone makes on one core, and how full the rows of each plan are.

Useful tokens (targets that count) of training batches made one after another in this process, the store ready: the
order, the rows, ids, targets and layout. The embedded corpus, the data module's row length.
"""

import argparse
import statistics
import time

import torch

from xlabml.data import BatchSequence, Chunk, Concat, Epochs, Pack
from xlabml.datamodules import XLabDataModule


def tokens_per_second(batches: BatchSequence, first: int, seconds: float) -> float:
    """Of the batches from the first on, for so long."""
    n_tokens, n_batches, begin = 0, 0, time.perf_counter()
    while (taken := time.perf_counter() - begin) < seconds:
        n_tokens += batches[first + n_batches].n_counted
        n_batches += 1
    return n_tokens / taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seconds', type=float, default=2.0, help='that each measure takes')
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--rows', type=int, nargs='+', default=[4, 32, 256], help='rows in a batch')
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f'{"plan":8}{"rows":>8}{"filled":>9}{"used":>12}{"padded":>12}{"cut":>10}   M useful tokens/s')
    for plan in (Pack, Chunk, Concat):
        data = XLabDataModule(plan=plan)
        rows = data.texts.train_examples
        figures = []
        for n in options.rows:
            batches = BatchSequence(Epochs(rows, 1), n, n, seed=1)
            batches[0]
            measured = [tokens_per_second(batches, 1000 * i, options.seconds) for i in range(options.rounds)]
            figures.append(f'{statistics.median(measured) / 1e6:.1f} ({n} rows)')
        made = rows.plan
        print(
            f'{plan.__name__:8}{len(made):8,}{made.fill_ratio:9.2%}{made.n_used:12,}{made.n_padded:12,}{made.n_cut:10,}'
            f'   {", ".join(figures)}'
        )


if __name__ == '__main__':
    main()
