"""Counting n-grams: seconds and peak memory for texts of some sizes, and microseconds of a lookup.

The texts are the altered leads of `stores.py`, in the 8,192 tokens of a tokenizer trained on them. They are tokenized
before; each size is counted by a process of its own, whose memory is read when it ends. Two times: CPU seconds, and on
the clock.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from stores import altered

from xlabml.ngram import Documents, KneserNey, count_ngrams, open_ngrams
from xlabml.tokenizer import Tokenizer, train_tokenizer

N_VOCAB = 8192


def write_tokens(folder: Path, n_bytes: int) -> None:
    """The tokens of n_bytes of text, and where each document ends."""
    path = folder / 't.model'
    if not path.exists():
        train_tokenizer(altered(4_000_000), path, N_VOCAB)
    tokenizer = Tokenizer.load(path)
    ends = [0]
    with (folder / 'tokens.bin').open('wb') as file:
        texts = altered(n_bytes)
        while some := list(islice(texts, 1000)):
            for text in some:
                ids = np.array(tokenizer.encode(text), np.uint16)
                ids.tofile(file)
                ends.append(ends[-1] + len(ids))
    np.array(ends).tofile(folder / 'ends.bin')


def count(folder: Path) -> None:
    """Count what is in a folder, and print what it took."""
    tokens = np.memmap(folder / 'tokens.bin', np.uint16, 'r')
    ends = np.fromfile(folder / 'ends.bin', np.int64)
    ids = (tokens[begin:end] for begin, end in pairwise(ends))
    begin = time.perf_counter()
    count_ngrams(Documents(ids, N_VOCAB, 1, 2, 'ours'), folder / 'counted')
    seconds = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_SELF)
    anonymous = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('RssAnon'))
    ngrams = KneserNey(open_ngrams(folder / 'counted'))
    n_grams = sum(len(level.keys) for level in ngrams.counted.levels)
    size = sum(file.stat().st_size for file in (folder / 'counted').iterdir())
    row = np.array(tokens[:4096], np.int64)
    begin = time.perf_counter()
    ngrams.score(row[:-1], row[1:], np.array([0]))
    per_token = (time.perf_counter() - begin) / len(row) * 1e6
    begin = time.perf_counter()
    for i in range(200):
        ngrams.next(row[i : i + 4].tolist())
    per_step = (time.perf_counter() - begin) / 200 * 1e6
    cpu = used.ru_utime + used.ru_stime
    print(
        f'{len(tokens) / 1e6:.1f} M tokens: {seconds:.0f} s, {cpu:.0f} CPU s, peak {used.ru_maxrss / 1e3:.0f} MB with '
        f'mapped files ({anonymous.split()[1]} kB own at the end), {n_grams / 1e6:.1f} M n-grams, {size / 1e6:.0f} MB '
        f'on disk; {per_token:.1f} µs a token in a batch, {per_step:.0f} µs a step of generation'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--megabytes', type=float, nargs='+', default=[10, 100])
    parser.add_argument('--folder', type=Path, help='count what is in this folder (for the processes of this script)')
    options = parser.parse_args()
    if options.folder is not None:
        count(options.folder)
        return
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            write_tokens(Path(folder), int(megabytes * 1e6))
            print(f'{megabytes:g} MB: ', end='', flush=True)
            subprocess.run([sys.executable, __file__, '--folder', folder], check=True)


if __name__ == '__main__':
    main()
