"""Peak memory and time of cross-entropy over a large vocabulary, forward and backward: plain, defined, chunked.

8,192 tokens, 32,768 entries. `plain` is torch's cross-entropy of all logits and nothing else; `defined`, with correct
predictions and nats, is what `chunked` is tested against. Every measurement is a process of its own. Memory is what
the process (on a GPU: torch's allocator) held at its peak during a pass, less what it held before it: hidden states and
head are there already, their gradients are not, and count on both sides.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from xlabml.losses import CrossEntropy
from xlabml.losses.cross_entropy import cross_entropy

WAYS = ('plain', 'defined', 'chunked')
DTYPES = {'bfloat16': torch.bfloat16, 'float32': torch.float32}


class Peak:
    """The most memory of this process while it is entered, in bytes above what it was before."""

    def __init__(self, device: str) -> None:
        self.is_cuda, self.bytes = device == 'cuda', 0

    def __enter__(self) -> 'Peak':
        if self.is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.before, self.done = _resident(), threading.Event()
            self.watcher = threading.Thread(target=self._watch)
            self.watcher.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.001):
            self.bytes = max(self.bytes, _resident() - self.before)

    def __exit__(self, *_: object) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self.before
        else:
            self.done.set()
            self.watcher.join()


def plain(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum over the targets."""
    return F.cross_entropy(F.linear(hidden, head).float(), targets, reduction='sum')


def _resident() -> int:
    """Bytes of memory that this process holds (Linux)."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096


def measure(way: str, dtype: str, options: argparse.Namespace) -> dict[str, float]:
    """Bytes at the peak, and the median of the seconds of a pass."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    hidden = torch.randn(options.tokens, options.width, device=device, dtype=DTYPES[dtype]).requires_grad_()
    head = (torch.randn(options.vocabulary, options.width, device=device) / options.width**0.5).requires_grad_()
    targets = torch.randint(options.vocabulary, (options.tokens,), device=device)
    loss = {'plain': plain, 'defined': cross_entropy, 'chunked': CrossEntropy()}[way]
    if options.compile:
        loss = torch.compile(loss, dynamic=False)

    def run() -> float:
        hidden.grad = head.grad = None
        begin = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == 'bfloat16'):
            result = loss(hidden, head, targets)
        (result if way == 'plain' else result.objective).backward()
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    # The allocator of a CPU keeps what was freed, so the peak is that of the first pass; compilers run before it.
    if options.compile or device == 'cuda':
        run()
        hidden.grad = head.grad = None
    with Peak(device) as peak:
        run()
    return {'bytes': peak.bytes, 'seconds': statistics.median(run() for _ in range(options.passes))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--tokens', type=int, default=8192)
    parser.add_argument('--vocabulary', type=int, default=32768)
    parser.add_argument('--width', type=int, default=512, help='of the hidden states')
    parser.add_argument('--passes', type=int, default=3, help='the median of so many, in each process')
    parser.add_argument('--rounds', type=int, default=3, help='processes of each way, in alternation; the median')
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--one', nargs=2, metavar=('WAY', 'DTYPE'), help='measure one in this process; print JSON')
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options)))
        return
    print(f'{"type":>10}{"way":>10}{"MiB":>10}{"ms":>10}')
    for dtype in DTYPES:
        taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, *sys.argv[1:], '--one', way, dtype]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                taken[way].append(json.loads(done.stdout.splitlines()[-1]))
        medians = {
            way: {name: statistics.median(one[name] for one in ones) for name in ('bytes', 'seconds')}
            for way, ones in taken.items()
        }
        for way, median in medians.items():
            print(f'{dtype:>10}{way:>10}{median["bytes"] / 2**20:10.0f}{1000 * median["seconds"]:10.0f}')
        ours = medians['chunked']
        for way in ('plain', 'defined'):
            other = medians[way]
            print(
                f'{dtype}: chunked takes 1/{other["bytes"] / ours["bytes"]:.1f} of the memory and '
                f'{ours["seconds"] / other["seconds"]:.2f} times the time of {way}'
            )


if __name__ == '__main__':
    main()
