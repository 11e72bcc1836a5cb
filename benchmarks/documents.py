"""How fast training steps on packed rows are, documents kept apart, against the same steps on plain rows.

Tokens/s of the one over those of the other, both with the same tokens: plain rows go through torch's fused kernel, as
if each were one document. Of packed rows each way that `documents.CPU_WAYS` may name is measured, whatever the length
of the documents, and `dense`, torch's kernel with a mask of all pairs of a row; the one that this processor takes has
a star. Steps of all ways alternate in one process, and each is held against the plain step of its round: medians, in
parentheses those of forward and backward alone. Forward, backward, clipping and the default optimizer; the tokens are
random, the documents as long as `--lengths` says on average, drawn anew for each step.
"""

import argparse
import random
import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from xlabml.batches import Layout
from xlabml.callbacks import keep_freed_memory
from xlabml.models import XLabModel
from xlabml.training import parameter_groups
from xlabml.transformer import Transformer
from xlabml.transformer.attention import Documents, Pass, Rule, choice, documents

WAYS = ('plain', 'tiles', 'blocks', 'dense')


def draw_layout(mean: int, n_rows: int, length: int, seed: int) -> Layout:
    """Documents that fill rows: exponentially long, at least one token; of a row's length, where the mean is."""
    draw, lengths = random.Random(seed), []
    for _ in range(n_rows):
        rest = length
        while rest:
            here = rest if mean >= length else min(rest, 1 + round(draw.expovariate(1 / mean)))
            lengths.append(here)
            rest -= here
    starts = torch.tensor([0, *lengths]).cumsum(0)
    return Layout(starts.int(), max(lengths))


class DensePass(Pass):
    """One mask for all layers."""

    def __init__(self, rule: Rule, documents: Documents, is_plain: bool) -> None:
        segment = documents.segment
        self.visible = (segment[:, None, :, None] == segment[:, None, None, :]).tril()

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # b h n c
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.visible).transpose(1, 2)


class Training:
    """A model and its optimizer that go one way."""

    def __init__(self, way: str, options: argparse.Namespace, mean: int, precision: str) -> None:
        torch.manual_seed(0)
        sizes = {'d_model': options.d_model, 'n_layers': options.n_layers, 'n_heads': options.n_heads}
        task = XLabModel(options.n_vocab, options.length, partial(Transformer, **sizes))
        self.model, self.optimizer = task.network.train(), task.optimizer(parameter_groups(task))
        self.way, self.mean, self.is_bf16 = way, mean, precision == 'bf16'
        self.shape = options.batch_tokens // options.length, options.length
        self.n_vocab, self.steps = options.n_vocab, iter(range(1 << 40))

    def seconds(self) -> tuple[float, float]:
        """Of forward and backward alone, and of the whole step."""
        step = next(self.steps)
        ids = torch.randint(self.n_vocab, self.shape, generator=torch.Generator().manual_seed(step))
        layout = None if self.way == 'plain' else draw_layout(self.mean, *self.shape, step)
        kind = documents.cpu_kind()
        own = documents.CPU_WAYS[kind], documents._SHORT, choice.DocumentsPass
        if self.way == 'dense':
            choice.DocumentsPass = DensePass  # type: ignore[assignment,misc]
        elif self.way != 'plain':
            documents.CPU_WAYS[kind], documents._SHORT = self.way, 1 << 30  # type: ignore[assignment]
        begin = time.perf_counter()
        with torch.autocast('cpu', torch.bfloat16, enabled=self.is_bf16):
            loss = self.model(ids, layout, targets=ids.roll(-1, 1)).objective / ids.numel()
        loss.backward()
        middle = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = time.perf_counter()
        documents.CPU_WAYS[kind], documents._SHORT, choice.DocumentsPass = own  # type: ignore[misc]
        return middle - begin, end - begin


def measure(options: argparse.Namespace, mean: int, precision: str) -> Iterator[tuple[str, float, float, float]]:
    """Each way, its milliseconds a step, and how many times as fast as plain rows steps and their passes are."""
    runs = {way: Training(way, options, mean, precision) for way in options.ways}
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in runs}
    for i in range(options.warmup + options.rounds):
        for way, run in runs.items():
            seconds = run.seconds()
            if i >= options.warmup:
                taken[way].append(seconds)
    for way, times in taken.items():
        passes, steps = (statistics.median(p[kind] / t[kind] for p, t in zip(taken['plain'], times)) for kind in (0, 1))
        yield way, 1000 * statistics.median(whole for _, whole in times), steps, passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    for name, default in (('d_model', 256), ('n_layers', 6), ('n_heads', 4), ('n_vocab', 4096)):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--length', type=int, default=256, help='tokens of a row')
    parser.add_argument('--batch_tokens', type=int, default=2048, help='tokens of a step')
    parser.add_argument('--lengths', type=int, nargs='+', default=[16, 64, 256], help='of documents, on average')
    parser.add_argument('--precisions', nargs='+', choices=['bf16', 'fp32'], default=['bf16', 'fp32'])
    parser.add_argument('--threads', type=int, nargs='+', default=[torch.get_num_threads()])
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=WAYS, help='plain first')
    parser.add_argument('--warmup', type=int, default=2, help='steps of each way before those that are measured')
    parser.add_argument('--rounds', type=int, default=9, help='the median of so many')
    options = parser.parse_args()
    keep_freed_memory()
    kind = documents.cpu_kind()
    print(f'a CPU of kind {kind}; {options.length} tokens a row, {options.batch_tokens} a step')
    for threads in options.threads:
        torch.set_num_threads(threads)
        for precision in options.precisions:
            for mean in options.lengths:
                print(f'{threads} threads, {precision}, documents of {mean}:', end='', flush=True)
                for way, milliseconds, steps, passes in measure(options, mean, precision):
                    takes_tiles = documents.CPU_WAYS[kind] == 'tiles' and mean < documents._SHORT
                    star = '*' if way == ('tiles' if takes_tiles else 'blocks') else ''
                    print(f'  {way}{star} {milliseconds:.0f} ms {steps:.3f} ({passes:.3f})', end='', flush=True)
                print()


if __name__ == '__main__':
    main()
