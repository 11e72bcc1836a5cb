"""How long the loader takes to the first batch of step 0 and of step 1,000,000: plain, weighted and streamed.

    python benchmarks/seek.py [--texts 20000]

Stores and shards are there already; what is timed is what a resume does: open them, lay the window out (streamed), find
the place, make the batch.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from xlabml.data import (
    BatchSequence,
    Corpus,
    Epochs,
    Location,
    Mixed,
    Mixture,
    Pack,
    Place,
    Rows,
    ShardCache,
    Stream,
    StreamedRows,
    TokenStore,
    loader,
    open_plan,
    prepare_store,
)
from xlabml.tokenizer import train_tokenizer

FAR, LENGTH, ROWS = 1_000_000, 512, 64
SPLITS = {'train': 1.0}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    arguments.add_argument('--texts', type=int, default=20_000, help='how many texts of about 100 words')
    n = arguments.parse_args().texts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources, tokenizer = write(folder, n), None
        tokenizer = train_tokenizer((document.text for document in sources[0].documents()), folder / 'x.model', 1000)
        folders = [folder / f'store-{i}' for i in range(len(sources))]
        for source, path in zip(sources, folders):
            prepare_store(source, tokenizer, path)

        def rows() -> Rows:
            corpus = Corpus([TokenStore.open(path) for path in folders], SPLITS)
            return Rows(corpus, open_plan(Pack(LENGTH), corpus, 'train', False, folder / 'plans'), tokenizer)

        def plain(step: int) -> BatchSequence:
            return BatchSequence(Epochs(rows(), 1), ROWS, ROWS, seed=1)

        def weighted(step: int) -> BatchSequence:
            some = rows()
            weights = [float(i + 1) for i in range(len(sources))]
            mixture = Mixture(some.plan.source_rows, some.plan.source_counted, weights)
            return BatchSequence(Mixed(some, 1, mixture), ROWS, ROWS, seed=1)

        def streamed(step: int) -> BatchSequence:
            cache = ShardCache(sources, tokenizer, folder / 'cache', 1 << 40, 1)
            stream = StreamedRows(cache, Stream(window_shards=2), Pack(LENGTH), SPLITS, False, [], 1)
            start = Place(step // 100, 3) if step else Place(0, 0)
            return BatchSequence(stream, ROWS, ROWS, seed=1, first_step=step, start=start)

        for name, build in (('plain', plain), ('weighted', weighted), ('streamed', streamed)):
            timed = {}
            for step in (0, FAR, 0, FAR):  # the first two fill the caches
                start = time.perf_counter()
                batches = build(step)
                next(iter(loader(batches, step, 1)))
                timed[step] = time.perf_counter() - start
                if isinstance(batches.passes, StreamedRows):
                    batches.passes.close()
            print(f'{name}: step 0 in {timed[0]:.3f} s, step {FAR:,} in {timed[FAR]:.3f} s')


def write(folder: Path, n: int) -> list[Location]:
    draw = random.Random(0)
    words = [''.join(draw.choices('abcdefghijklmnop', k=draw.randrange(2, 9))) for _ in range(2000)]
    sources = []
    for i in range(4):
        path = folder / f'{i}.jsonl'
        with path.open('w') as file:
            for k in range(n // 4):
                text = f'{i}-{k} ' + ' '.join(draw.choices(words, k=draw.randrange(20, 180)))
                file.write(json.dumps({'text': text}) + '\n')
        sources.append(Location(str(path)))
    return sources


if __name__ == '__main__':
    main()
