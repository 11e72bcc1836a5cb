"""Building a token store against the tokenizer's library without one: MB/s of text, CPU seconds, and memory.

The texts are those of the English leads with their words altered: each is a real document, cut at a random place and
turned around, with every tenth word replaced by one drawn from the corpus; so nothing repeats, and the words are as
frequent as they are. Three sides, for each tokenizer, with the same number of processes:

- store: `prepare_store` on a file of JSON lines. It ends on the disk: ids, hashes, counts, and how many documents do
  not come back from their ids as they were.
- script: what a user would write instead. A pool of processes shares out the lines of the same file, parses them, and
  calls the library on a thousand texts at a time; the ids are dropped. Reading is part of both, since ids of texts that
  nobody reads are of no use.
- alone: the library's own threads encode texts that are in memory already; reading is not counted.

The sides are run in alternation, each in a process of its own; loading modules is not counted. CPU seconds are user and
system, of the process and its children. Memory is the proportional set size (Pss_Anon: what a child shares with its
parent is counted once) of the process and its children, read every 20 ms in a run of its own.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np

from xlabml.tokenizer import Tokenizer, train_tokenizer

_TEXTS = 1_000  # in a call of the library
_SPAN_BYTES = 1 << 20
_SIDES = ('store', 'script', 'alone')


def altered(n_bytes: int, seed: int = 0) -> Iterator[str]:
    """Texts of n_bytes in all, in which nothing repeats."""
    from xlabml.data import WikipediaLeads

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


def read_texts(path: Path, start: int, end: int) -> Iterator[list[str]]:
    """The texts of the lines that begin in a stretch of a file, some at a time."""
    texts = []
    with path.open('rb') as file:
        if start:
            file.seek(start - 1)
            file.readline()
        while file.tell() < end and (line := file.readline()):
            texts.append(json.loads(line)['text'])
            if len(texts) == _TEXTS:
                yield texts
                texts = []
    if texts:
        yield texts


def encode(tokenizer: Tokenizer, texts: list[str], n_threads: int) -> list[list[int]]:
    """The ids of texts by the library."""
    if tokenizer.kind == 'huggingface':
        found = tokenizer._library.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]
    return tokenizer._processor.encode(texts, num_threads=n_threads)


def encode_span(span: tuple[int, int]) -> int:
    """How many ids a stretch of the file has, in a process of the script."""
    return sum(len(ids) for texts in read_texts(_path, *span) for ids in encode(_tokenizer, texts, 1))


_path: Path
_tokenizer: Tokenizer


def run_script(path: Path, tokenizer: Tokenizer, n_processes: int) -> None:
    """Encode the texts of a file in a pool of processes."""
    global _path, _tokenizer
    _path = path
    _tokenizer = tokenizer
    size = path.stat().st_size
    spans = [(start, min(start + _SPAN_BYTES, size)) for start in range(0, size, _SPAN_BYTES)]
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context('fork')) as pool:
        assert sum(pool.map(encode_span, spans))


def build(path: Path, tokenizer: Tokenizer, n_processes: int) -> None:
    """Build a store, and throw it away."""
    from xlabml.data import Location, prepare_store

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepare_store(Location(str(path)), tokenizer, Path(folder, 'store'), n_processes=n_processes)


def cpu_seconds() -> float:
    """User and system, of this process and of the children that it waited for."""
    usages = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds that something takes."""
    cpu = cpu_seconds()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin, cpu_seconds() - cpu


def run_side(side: str, path: Path, model: Path, n: int) -> tuple[float, float]:
    """Wall and CPU seconds of a side."""
    # Threads of the library do not survive a fork: only where it is alone may it have some.
    os.environ['TOKENIZERS_PARALLELISM'] = 'true' if side == 'alone' and n > 1 else 'false'
    os.environ['RAYON_NUM_THREADS'] = str(n)
    tokenizer = Tokenizer.load(model)
    if side == 'store':
        import xlabml.data  # noqa: F401

        return measure(lambda: build(path, tokenizer, n))
    if side == 'script':
        return measure(lambda: run_script(path, tokenizer, n))
    texts = list(read_texts(path, 0, path.stat().st_size))
    return measure(lambda: [encode(tokenizer, some, n) and None for some in texts])


def tree_memory(pid: int) -> int:
    """Bytes of anonymous memory of a process and its descendants, what they share counted once."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
            if line.startswith('Pss_Anon:'):
                total += int(line.split()[1]) * 1024
        for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split():
            total += tree_memory(int(child))
    return total


def peak_memory(command: list[str]) -> int:
    """The most that a process and its descendants held at a time."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    done = threading.Event()

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


def taken_by(command: list[str]) -> list[float]:
    """The wall and CPU seconds that a process says its work took."""
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def compare(path: Path, n_bytes: int, model: Path, n: int, n_rounds: int) -> None:
    """Run the sides, and print a row each."""
    commands = {side: [sys.executable, __file__, '--only', side, str(path), str(model), str(n)] for side in _SIDES}
    taken: dict[str, list[list[float]]] = {side: [] for side in commands}
    for _ in range(n_rounds):
        for side, command in commands.items():
            taken[side].append(taken_by(command))
    wall, cpu = ({side: statistics.median(one[i] for one in all_) for side, all_ in taken.items()} for i in range(2))
    for side, command in commands.items():
        against = f'{wall[side] / wall["store"]:6.1%} {cpu[side] / cpu["store"]:6.1%}' if side != 'store' else ' ' * 13
        print(
            f'  {n} processes, {side:6}: {n_bytes / 1e6 / wall[side]:6.2f} MB/s, {wall[side]:6.2f} s, '
            f'{cpu[side]:6.2f} s of CPU, {peak_memory(command) / 1e6:5,.0f} MB  {against}',
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--sizes', type=int, nargs='+', default=[10, 100], help='MB of text')
    parser.add_argument('--processes', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--rounds', type=int, default=5, help='the medians of this many are printed')
    parser.add_argument('--n_vocab', type=int, default=4096, help='of the tokenizer that is trained')
    parser.add_argument('--tokenizers', type=Path, nargs='+', help='files or folders; default: one of ours is trained')
    parser.add_argument('--special_tokens', type=json.loads, default={}, help='as data.special_tokens, in JSON')
    parser.add_argument('--folder', type=Path, help='where texts and stores go; default: a temporary one')
    parser.add_argument('--only', nargs=4, metavar=('SIDE', 'FILE', 'MODEL', 'N'), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        side, file, model, n = options.only
        print(json.dumps(run_side(side, Path(file), Path(model), int(n))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        models = {}
        for number, path in enumerate(options.tokenizers or [None]):
            model = Path(folder, f'{number}.model')
            if path is None:
                from xlabml.data import WikipediaLeads

                texts = (str(document.text) for document in WikipediaLeads().documents())
                models[model] = train_tokenizer(texts, model, options.n_vocab)
            else:
                models[model] = Tokenizer.load(path, options.special_tokens)
                model.write_bytes(models[model].data)
        print(f"{os.cpu_count()} cores; medians of {options.rounds}; last: share of the store's speed, by wall and CPU")
        for size in options.sizes:
            file = Path(folder, f'{size}.jsonl')
            n_bytes = 0
            with file.open('w') as lines:
                for text in altered(size * 1_000_000):
                    lines.write(json.dumps({'text': text}, ensure_ascii=False) + '\n')
                    n_bytes += len(text.encode())
            for path, (model, tokenizer) in zip(options.tokenizers or ['ours'], models.items()):
                print(f'{n_bytes / 1e6:,.0f} MB of text, {path}, {len(tokenizer):,} tokens ({tokenizer.kind})')
                for n in options.processes:
                    compare(file, n_bytes, model, n, options.rounds)
            file.unlink()


if __name__ == '__main__':
    main()
