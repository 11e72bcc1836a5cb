"""Examples per second of training a classifier on texts of mixed lengths: flat rows against padded ones.

One network and one loss, forward and backward, the same random examples a step, in alternation. `flat` is what a
Classifier trains on: the texts of a step one after the other. `padded` has each text as long as the longest of its
step, padding apart from the text; the logits are the same. `plain` is the same padded rows with no layout at all: the
least that padding costs, since texts attend to it (so the logits are others).
"""

import argparse
import gzip
import json
import lzma
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from alternate import alternate
from torch import Tensor

from xlabml.batches import Layout
from xlabml.hardware import cpu_kind
from xlabml.heads import SequenceClassifier
from xlabml.heads.text_encoder import frame, pack
from xlabml.tokenizer import train_tokenizer
from xlabml.transformer import Transformer

_N_CLASSES = 12


def read_texts(path: Path, column: str) -> list[str]:
    """A column of a jsonl file, compressed or not, in random order."""
    opened = {'.xz': lzma.open, '.gz': gzip.open}.get(path.suffix, open)
    with opened(path, 'rt', encoding='utf-8') as file:
        texts = [json.loads(line)[column] for line in file]
    return [texts[row] for row in np.random.default_rng(0).permutation(len(texts))]


def flat(network: SequenceClassifier, ids: list[list[int]], pad: int) -> Tensor:
    """Logits of texts one after the other."""
    return network(*pack(ids, torch.device('cpu')))


def padded(network: SequenceClassifier, ids: list[list[int]], pad: int) -> Tensor:
    """Logits of texts that are padded to the longest, each attending to itself alone."""
    n = max(map(len, ids))
    lengths = torch.tensor([[len(some), n - len(some)] for some in ids]).flatten()
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    is_text = torch.tensor([True, False]).repeat(len(ids))
    example = torch.where(is_text, torch.arange(len(is_text)) // 2, -1)
    return network(_rows(ids, pad), Layout(starts, n, is_text), example, torch.zeros_like(example), len(ids))


def plain(network: SequenceClassifier, ids: list[list[int]], pad: int) -> Tensor:
    """Logits of padded rows as if padding were text."""
    return network(_rows(ids, pad))


def _rows(ids: list[list[int]], pad: int) -> Tensor:
    n = max(map(len, ids))
    return torch.tensor([some + [pad] * (n - len(some)) for some in ids])


def compare(path: Path, options: argparse.Namespace) -> None:
    """Print the examples per second of each way on the texts of a file."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    autocast = torch.autocast('cpu', torch.bfloat16, enabled=cpu_kind() != 'other')
    n = options.batch_size * options.steps
    texts = read_texts(path, options.column)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(texts[:4000], Path(folder) / 'texts.model', 8192)
    ends = tokenizer.special_ids
    encoded = tokenizer.encode(texts[: n * options.rounds])
    ids = [frame(one, ends['sos'], ends['eos'], options.max_len) for one in encoded]
    torch.manual_seed(0)
    trunk = partial(Transformer, d_model=options.d_model, n_layers=options.layers, n_heads=3, causal=False)
    classes = [str(i) for i in range(_N_CLASSES)]
    network = SequenceClassifier.build(len(tokenizer), options.max_len, classes, trunk=trunk).eval()
    torch.nn.init.normal_(network.head.output.weight)  # zero at first, which would make all logits alike
    labels = torch.arange(options.batch_size) % _N_CLASSES

    def step(way: Callable[..., Tensor], some: list[list[int]]) -> Tensor:
        network.zero_grad()
        with autocast:
            logits = way(network, some, ends['pad'])
        F.cross_entropy(logits, labels[: len(some)]).backward()
        return logits.detach()

    def measure(way: Callable[..., Tensor], rounds: Iterator[list[list[int]]]) -> float:
        some = next(rounds)
        begin = clock()
        for i in range(0, len(some), options.batch_size):
            step(way, some[i : i + options.batch_size])
        return clock() - begin

    ways = (flat, padded, plain)
    logits = {way: step(way, ids[: options.batch_size]) for way in ways}  # warms up
    apart = (logits[flat] - logits[padded]).abs().max() / logits[flat].abs().max()
    parts = [ids[i : i + n] for i in range(0, n * options.rounds, n)]
    taken = alternate({way.__name__: partial(measure, way, iter(parts)) for way in ways}, options.rounds)
    lengths = np.array([len(some) for some in ids])
    shown = ', '.join(f'{np.percentile(lengths, share):.0f}' for share in (10, 50, 90))
    print(f'{path.name}: tokens of a text {shown} (10, 50, 90 %); flat and padded differ by {apart:.1e}')
    for name, of_way in taken.items():
        print(f'{name:>8}{n / of_way:10.1f} examples/s   flat {of_way / taken["flat"]:.2f} x')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('texts', type=Path, nargs='+', help='jsonl files, compressed or not')
    parser.add_argument('--column', default='text', help='of the text in each of them')
    parser.add_argument('--max_len', type=int, default=256, help='longer texts lose their end')
    parser.add_argument('--batch_size', type=int, default=64, help='examples of a step')
    parser.add_argument('--steps', type=int, default=4, help='steps of a measurement')
    parser.add_argument('--d_model', type=int, default=192)
    parser.add_argument('--layers', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument(
        '--cpu_time', action='store_true', help='seconds of the processor (on a busy machine, 1 thread)'
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for path in options.texts:
        compare(path, options)


if __name__ == '__main__':
    main()
