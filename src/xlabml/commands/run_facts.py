"""What a run is made of, said before it starts: texts, rows, steps, epochs, and tokens a parameter."""

from collections.abc import Iterator

import lightning.pytorch as L
import numpy as np

from xlabml.callbacks.summary import count_parameters
from xlabml.data import split_names
from xlabml.datamodules import XLabDataModule
from xlabml.engine import Run
from xlabml.models import Task

_SPLITS = ('train', 'val', 'test')


class RunFacts(L.Callback):
    """Say what the run is made of when it has been set up, so that what is refused is refused before."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = Run.of(trainer).data
        if trainer.is_global_zero and isinstance(data, XLabDataModule) and isinstance(pl_module, Task):
            print(*describe_run(data, pl_module, trainer.max_steps), sep='\n', flush=True)


def describe_run(data: XLabDataModule, task: Task, length: int) -> Iterator[str]:
    """The lines, for people.

    Args:
        data: What the run reads, prepared.
        task: What it trains.
        length: Its steps; -1: no end is known.
    """
    if data.stream is None:
        yield from _describe_texts(data)
    n_parameters = max(1, count_parameters(task))
    is_tokens = data.examples.sized_by == 'tokens'
    sizes = {'tokens': f'{data.batch_tokens:,} tokens', 'groups': f'{data.batch_groups:,} groups'}
    size = sizes.get(data.examples.sized_by, ' or '.join(sizes.values()))
    if length < 0:
        yield f'run: steps of {size}, {n_parameters:,} parameters'
        return
    each = data.steps_per_epoch()
    epochs = f', {_short(length / each)} epochs' if each else ''
    ratio = f', {_short(length * data.batch_tokens / n_parameters)} tokens a parameter' if is_tokens else ''
    yield f'run: {length:,} steps of {size}{epochs}; {n_parameters:,} parameters{ratio}'


def _describe_texts(data: XLabDataModule) -> Iterator[str]:
    corpus = data.texts.corpus
    splits = corpus.splits(np.arange(len(corpus)))
    documents = {split: np.flatnonzero(splits == i) for i, split in enumerate(split_names)}
    n_documents = sum(map(len, documents.values()))
    n_tokens = sum(int(corpus.token_spans(some)[1].sum()) for some in documents.values())
    n_bytes = sum(int(corpus.n_bytes(some).sum()) for some in documents.values())
    yield f'texts: {_documents(n_documents)}, {n_tokens:,} tokens, {n_bytes / max(1, n_tokens):.2f} bytes a token'
    is_rows = data.examples.sized_by == 'tokens'
    shown = []
    for split in _SPLITS if is_rows else _SPLITS[:2]:  # what a format of groups refuses in test is no matter of a fit
        if len(documents[split]):
            n_examples = len(data.texts.open_examples(split, split))
            shown.append(f'{split} {n_examples:,} ({_documents(len(documents[split]))})')
    unit = f'rows of {data.max_len:,}' if is_rows else 'examples'
    yield f'{unit}: {", ".join(shown)}'


def _documents(n: int) -> str:
    return '1 document' if n == 1 else f'{n:,} documents'


def _short(number: float) -> str:
    """A number in two digits, and whole ones as they are."""
    return f'{number:,.0f}' if number >= 100 else f'{number:.2g}' if number < 10 else f'{number:.1f}'
