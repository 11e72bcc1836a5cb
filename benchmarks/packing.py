"""Useful tokens per second of training steps on packed rows against padded windows, and how full the rows of each are.

Forward, backward, clipping and the default optimizer of the default model, or of a wider one (`--shape 12m`), in which
attention is less of a step; batches made on the way, as many slots a step in all; only targets that count are counted.
Two texts: the embedded corpus, whose documents are far shorter than a row; and documents of many rows, made of its
texts joined (1 to so many in each, drawn at random), so many that windows are as full as `--fill` asks. `padded`
windows go the way of packed rows: attention passes over padding, all else is computed for every slot. `plain` are the
same windows without a layout, padding and all, through torch's fused kernel.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from alternate import alternate

from xlabml.callbacks import keep_freed_memory
from xlabml.data import Chunk, Concat, Corpus, Location, Pack, Plan, Rows, TrainBatches, prepare_store
from xlabml.datamodules import XLabDataModule
from xlabml.engine import auto_precision
from xlabml.models import XLabModel
from xlabml.tokenizer import Tokenizer
from xlabml.training import parameter_groups
from xlabml.transformer import Transformer

SHAPES: dict[str, dict] = {'default': {}, '12m': {'d_model': 384, 'n_layers': 5, 'n_heads': 6}}


def join_until_full(lengths: np.ndarray, gap: int, fill: float, length: int) -> list[np.ndarray]:
    """Which documents to join into one, so that windows of such documents are as full as asked, or nearly."""

    def groups(most: float) -> list[np.ndarray]:
        sizes = 1 + (most * np.random.default_rng(0).random(len(lengths))).astype(int)
        ends = np.cumsum(sizes)
        return np.split(np.arange(len(lengths)), ends[ends < len(lengths)])

    def miss(most: float) -> float:
        slots = np.array([lengths[group].sum() + gap * (len(group) - 1) + 1 for group in groups(most)])
        return abs(slots.sum() / (np.ceil(slots / length) * length).sum() - fill)

    return groups(min(np.arange(1, 41, 0.25), key=miss))


def joined_corpus(corpus: Corpus, tokenizer: Tokenizer, fill: float, length: int, folder: Path) -> Corpus:
    """The train split's texts, joined."""
    documents = corpus.documents('train')
    _, lengths = corpus.token_spans(documents)
    with (folder / 'joined.jsonl').open('w', encoding='utf-8') as file:
        for group in join_until_full(lengths, len(tokenizer.encode('\n\n')), fill, length):
            texts = [tokenizer.decode(corpus.tokens(int(i)).tolist()) for i in documents[group]]
            file.write(json.dumps({'text': '\n\n'.join(texts)}) + '\n')
    store = prepare_store(Location(str(folder / 'joined.jsonl')), tokenizer, folder / 'store')
    return Corpus([store], {'train': 1.0, 'val': 0.0, 'test': 0.0, 'predict': 0.0})


def rows_of(corpus: Corpus, plan: Plan, tokenizer: Tokenizer) -> Rows:
    """The rows that a plan makes of the train split."""
    documents = corpus.documents('train')
    return Rows(corpus, plan.build(corpus.token_spans(documents)[1], documents), tokenizer)


class Training:
    """A model and its optimizer on one kind of rows: each call times the next steps."""

    def __init__(self, rows: Rows, n_vocab: int, rows_per_step: int, has_layout: bool, shape: str) -> None:
        torch.manual_seed(42)
        self.batches = TrainBatches(rows, rows_per_step, rows_per_step, seed=42)
        task = XLabModel(n_vocab, rows.length, partial(Transformer, **SHAPES[shape]))
        self.model, self.optimizer = task.network.train(), task.optimizer(parameter_groups(task))
        self.has_layout = has_layout
        self.is_bf16 = auto_precision('cpu') == 'bf16-mixed'
        self.numbers: Iterator[int] = iter(range(1 << 40))

    def seconds_per_token(self, n_steps: int) -> float:
        """Over the next steps."""
        n_tokens, begin = 0, time.perf_counter()
        for _ in range(n_steps):
            batch = self.batches[next(self.numbers)]
            with torch.autocast('cpu', torch.bfloat16, enabled=self.is_bf16):
                layout = batch.layout if self.has_layout else None
                loss = self.model(batch.ids, layout, targets=batch.targets.ids).objective / batch.n_counted
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            n_tokens += batch.n_counted
        return (time.perf_counter() - begin) / n_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--steps', type=int, default=40, help='steps that are measured, each time')
    parser.add_argument('--warmup', type=int, default=5, help='steps before them')
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--fill', type=float, default=0.81, help='how full padded windows of the joined texts are')
    parser.add_argument('--shape', choices=SHAPES, default='default', help='of the model')
    parser.add_argument('--rows_per_step', type=int, help="None: the data module's")
    options = parser.parse_args()
    keep_freed_memory()
    data = XLabDataModule()
    data.prepare_data()
    tokenizer, length = data.tokenizer, data.max_len
    rows_per_step = options.rows_per_step or data.batch_tokens // length
    print(f'{rows_per_step} rows of {length} a step, {torch.get_num_threads()} threads, {auto_precision("cpu")}')
    print(f'{"":16}{"plan":8}{"rows":>8}{"filled":>9}{"used":>12}{"padded":>12}{"cut":>10}')
    with tempfile.TemporaryDirectory() as folder:
        texts = {
            'embedded corpus': data.corpus,
            'joined texts': joined_corpus(data.corpus, tokenizer, options.fill, length, Path(folder)),
        }
        for name, corpus in texts.items():
            plans = {'Pack': Pack(length), 'Chunk': Chunk(length), 'Concat': Concat(length)}
            rows = {plan: rows_of(corpus, made, tokenizer) for plan, made in plans.items()}
            runs = {
                way: Training(rows[plan], data.n_vocab, rows_per_step, way != 'plain', options.shape)
                for way, plan in (('packed', 'Pack'), ('padded', 'Chunk'), ('plain', 'Chunk'))
            }
            for run in runs.values():
                run.seconds_per_token(options.warmup)
            measures = {way: partial(run.seconds_per_token, options.steps) for way, run in runs.items()}
            medians = alternate(measures, options.rounds)
            for plan, made in rows.items():
                print(
                    f'{name:16}{plan:8}{len(made.plan):8,}{made.plan.fill_ratio:9.1%}{made.plan.n_used:12,}'
                    f'{made.plan.n_padded:12,}{made.plan.n_cut:10,}'
                )
            for way, taken in medians.items():
                speed, gain = 1 / taken, taken / medians['packed']
                print(f'{name:16}{way:8}{speed:12,.0f} useful tokens/s; packed rows give {gain:.3f} times that')


if __name__ == '__main__':
    main()
