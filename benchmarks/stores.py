"""Building a token store against the tokenizer's library alone, in MB/s of text, and how much memory each takes.

The texts are those of the English leads with their words altered: each is a real document, cut at a random place and
turned around, with every tenth word replaced by one drawn from the corpus; so nothing repeats, and the words are as
frequent as they are. The library alone (SentencePiece's `encode`, or `encode_batch_fast` of `tokenizers`) encodes the
same texts, in memory already, into lists of ints with its own threads, as many as the store has processes; the store
reads them from JSON lines, and ends on the disk. Both are taken in alternation, each in a process of its own. Memory is
the anonymous resident memory (RssAnon) of the process and all its children, summed up every 20 ms in a run of its own;
what a forked child shares with its parent is counted twice.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from alternate import alternate, seconds

from xlabml.data import Location, WikipediaLeads, prepare_store
from xlabml.tokenizer import Tokenizer, train_tokenizer

_BATCH_BYTES = 1 << 20


def altered(n_bytes: int, seed: int = 0) -> Iterator[str]:
    """Texts of so many bytes in all that nothing repeats in."""
    draw = np.random.default_rng(seed)
    documents = [str(document.text).split(' ') for document in WikipediaLeads().documents()]
    words = np.array([word for document in documents for word in document], object)
    made = 0
    for document in cycle(documents):
        if made >= n_bytes:
            return
        cut = int(draw.integers(len(document)))
        turned = np.array(document[cut:] + document[:cut], object)
        there = draw.random(len(turned)) < 0.1
        turned[there] = words[draw.integers(len(words), size=int(there.sum()))]
        text = ' '.join(turned)
        made += len(text.encode())
        yield text


def batches(path: Path) -> Iterator[list[str]]:
    """The texts of a file, a megabyte at a time."""
    some, size = [], 0
    with path.open() as file:
        for line in file:
            some.append(json.loads(line)['text'])
            size += len(some[-1])
            if size >= _BATCH_BYTES:
                yield some
                some, size = [], 0
    if some:
        yield some


def encode_alone(path: Path, tokenizer: Tokenizer, n_threads: int) -> float:
    """Seconds that the library takes for the texts of a file; reading them is not counted."""
    if tokenizer.kind == 'huggingface':
        os.environ['TOKENIZERS_PARALLELISM'] = 'true' if n_threads > 1 else 'false'
        os.environ['RAYON_NUM_THREADS'] = str(n_threads)
        encode = tokenizer._library.encode_batch_fast
        return sum(
            seconds(lambda some=some: [found.ids for found in encode(some, add_special_tokens=False)])
            for some in batches(path)
        )
    encode = tokenizer._processor.encode
    return sum(seconds(lambda some=some: encode(some, num_threads=n_threads)) for some in batches(path))


def build(path: Path, tokenizer: Tokenizer, n_processes: int) -> None:
    """Build a store, and throw it away."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepare_store(Location(str(path)), tokenizer, Path(folder, 'store'), n_processes=n_processes)


def tree_memory(pid: int) -> int:
    """Bytes of anonymous memory of a process and its descendants."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f'/proc/{pid}/status').read_text().splitlines():
            if line.startswith('RssAnon:'):
                total += int(line.split()[1]) * 1024
        for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split():
            total += tree_memory(int(child))
    return total


def peak_memory(command: list[str]) -> int:
    """The most that a process and its descendants held at a time."""
    process, peak, done = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, tree_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    done.set()
    watcher.join()
    if status:
        raise SystemExit(f'{" ".join(command)} failed with status {status}')
    return peak


def taken_by(command: list[str]) -> float:
    """The seconds that a process says its work took."""
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--sizes', type=int, nargs='+', default=[10, 1000], help='MB of text')
    parser.add_argument('--processes', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--n_vocab', type=int, default=4096, help='of the tokenizer that is trained')
    parser.add_argument('--tokenizer', type=Path, help='one that is there already; default: one of ours is trained')
    parser.add_argument('--special_tokens', type=json.loads, default={}, help='as data.special_tokens, in JSON')
    parser.add_argument('--folder', type=Path, help='where texts and stores go; default: a temporary one')
    parser.add_argument('--only', nargs=4, metavar=('WHAT', 'FILE', 'MODEL', 'N'), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        what, file, model, n = options.only
        loaded = Tokenizer.load(model)
        if what == 'alone':
            print(encode_alone(Path(file), loaded, int(n)))
        else:
            print(seconds(lambda: build(Path(file), loaded, int(n))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model = Path(folder, 'tokenizer.model')
        if options.tokenizer is None:
            tokenizer = train_tokenizer(
                (str(document.text) for document in WikipediaLeads().documents()), model, options.n_vocab
            )
        else:
            tokenizer = Tokenizer.load(options.tokenizer, options.special_tokens)
            model.write_bytes(tokenizer.data)
        library = 'tokenizers' if tokenizer.kind == 'huggingface' else 'SentencePiece'
        print(f'{os.cpu_count()} cores, {len(tokenizer):,} tokens ({tokenizer.kind}); medians of {options.rounds}')
        for size in options.sizes:
            path = Path(folder, f'{size}.jsonl')
            started, n_bytes = time.perf_counter(), 0
            with path.open('w') as file:
                for text in altered(size * 1_000_000):
                    file.write(json.dumps({'text': text}, ensure_ascii=False) + '\n')
                    n_bytes += len(text.encode())
            print(f'{n_bytes / 1e6:,.0f} MB of text (made in {time.perf_counter() - started:.0f} s)')
            for n in options.processes:
                commands = {
                    what: [sys.executable, __file__, '--only', what, str(path), str(model), str(n)]
                    for what in ('alone', 'store')
                }
                taken = alternate(
                    {what: lambda command=command: taken_by(command) for what, command in commands.items()},
                    options.rounds,
                )
                peaks = {what: peak_memory(command) / 1e6 for what, command in commands.items()}
                rates = {what: n_bytes / 1e6 / value for what, value in taken.items()}
                print(
                    f'  {n} processes: store {rates["store"]:.2f} MB/s, {library} alone {rates["alone"]:.2f} MB/s in '
                    f'{n} threads: {rates["store"] / rates["alone"]:.1%}; peak memory {peaks["store"]:,.0f} MB, alone '
                    f'{peaks["alone"]:,.0f} MB'
                )
            path.unlink()


if __name__ == '__main__':
    main()
