"""N-grams of texts beside a language model: `xlab-manage ngram` counts them, and `--ngram FOLDER` of `xlab test`,
`xlab predict` and `xlab-infer` mixes them with the model."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Parser, count, number
from .errors import UsageError, typed_paths

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    import lightning.pytorch as L

    from xlabml.datamodules import XLabDataModule
    from xlabml.engine import Task
    from xlabml.ngram import Mixture
    from xlabml.pipelines import TextGenerator

    from .finding import Resumed

HELP = (
    'N-grams to put beside the model, and to mix with it: a folder that xlab-manage ngram has written. The model alone '
    'keeps its own figures.'
)

HELD_OUT = 0.05
"""The share of the documents that a gate is fitted on; they are not counted."""

MOST_HELD_OUT = 100_000
"""Tokens that a gate is fitted on, at the most: it has some eight weights."""


def add_task(tasks: '_SubParsersAction[Parser]') -> None:
    """Add the task to those of `xlab-manage`."""
    task = tasks.add_parser(
        'ngram',
        help='count the n-grams of texts, for a language model to be mixed with',
        description='Count the n-grams (Kneser-Ney) of TEXTS in the tokens of a language model, and fit the gate that '
        'mixes both, on one document in twenty, which is not counted. With --ngram FOLDER xlab test, xlab predict and '
        'xlab-infer then use them: the model knows the texts without being trained on them. Without TEXTS those that '
        'it was trained on are counted, and the gate is fitted on its validation split.',
    )
    task.add_argument(
        'ckpt', metavar='CKPT', help="a checkpoint; 'last', 'best': of the newest run of a model below here"
    )
    task.add_argument(
        'texts', metavar='TEXTS', nargs='*', help='files or folders: txt, jsonl, json, csv, tsv, parquet or arrow'
    )
    task.add_argument('--output', metavar='FOLDER', type=Path, required=True, help='the folder to write')
    task.add_argument('--order', type=count(2, 8), default=5, help='tokens of the longest n-gram (default: 5)')
    task.add_argument('--column', help='where texts are, in tables (default: text)')
    share = number('above 0, below 0.9', lambda value: 0 < value < 0.9)
    task.add_argument(
        '--test', type=share, metavar='SHARE', help='leave out this share of the documents, to test on (default: none)'
    )
    task.add_argument('-d', '--device', default='auto', help='cpu, cuda … (default: auto, a GPU if there is one)')
    task.set_defaults(run=count_texts)


def count_texts(options: argparse.Namespace) -> None:
    """Count, fit the gate, and say what was made."""
    from xlabml import ngram
    from xlabml.data.store import TerminalProgress
    from xlabml.pipelines import TextGenerator

    for name in ('column', 'test'):
        if getattr(options, name) is not None and not options.texts:
            raise UsageError(f'--{name} would have no effect: it is of TEXTS, and there are none')
    if options.output.exists():
        raise UsageError(f'--output {options.output} is there already; delete it, or name another')
    begin = time.monotonic()
    with typed_paths():
        generator = TextGenerator.load(options.ckpt, options.device)
        data = _open_texts(options)
    data.prepare_data()
    corpus = data.texts.corpus
    train = corpus.documents('train')
    held_out = []
    n_held_out = 0
    for document in corpus.documents('val').tolist():
        if n_held_out < MOST_HELD_OUT:
            held_out.append(corpus.tokens(document))
            n_held_out += len(held_out[-1])
    special = data.texts.tokenizer.special_ids
    documents = ngram.Documents(
        map(corpus.tokens, train.tolist()), corpus.n_vocab, special['sos'], special['eos'], corpus.tokenizer_hash
    )
    with TerminalProgress() as report, typed_paths():
        ngram.count_ngrams(documents, options.output, options.order, held_out, report)
        generator.mix_with([options.output], options.ckpt, report.say, report)
    n_bytes = int(corpus.n_bytes(train).sum())
    counted = ngram.open_ngrams(options.output)
    grams = ', '.join(f'{len(level.keys):,}' for level in counted.levels)
    size = sum(file.stat().st_size for file in options.output.iterdir())
    print(
        f'{options.output}: {counted.n_tokens:,} tokens of {len(train):,} documents ({n_bytes / 1e6:.1f} MB of text); '
        f'n-grams of 2 to {counted.order} tokens: {grams}; {size / 1e6:.1f} MB, {time.monotonic() - begin:.0f} s'
    )
    if options.test is not None:
        splits = ', '.join(f'{name}: {share:g}' for name, share in _splits(options.test).items())
        print(f"to test on what was left out: --data.splits '{{{splits}}}', with --data.sources and --ngram")


def _splits(test: float) -> dict[str, float]:
    return {'train': round(1 - HELD_OUT - test, 9), 'val': HELD_OUT, 'test': test, 'predict': 0.0}


def _open_texts(options: argparse.Namespace) -> 'XLabDataModule':
    """The texts in the tokens of the checkpoint: its own, in its own splits, or those that are typed."""
    from xlabml import checkpoints
    from xlabml.data import Location, NextTokens
    from xlabml.data.rows import RowFormat
    from xlabml.datamodules import XLabDataModule
    from xlabml.pipelines.generator import JOINT_MODEL, LANGUAGE_MODEL

    path = checkpoints.find(str(options.ckpt), Path(), (LANGUAGE_MODEL, JOINT_MODEL))
    if not options.texts:
        data = XLabDataModule.load_from_checkpoint(path)
        if data.stream is not None or not isinstance(data.examples, RowFormat):
            what = 'a stream' if data.stream is not None else f'data.examples {type(data.examples).__name__}'
            raise UsageError(f'{options.ckpt} was trained on {what}, which is not counted by itself; name TEXTS')
        return data
    for name in options.texts:
        if not Path(name).exists() and '://' not in name and not any(item in name for item in '*?['):
            raise UsageError(f'there are no texts at {name}: no such file or folder')
    sources = [Location(name, column=options.column or 'text') for name in options.texts]
    none = dict.fromkeys(('weights', 'max_source_epochs', 'group', 'stratify', 'fold', 'near_duplicates', 'held_out'))
    splits = _splits(options.test or 0.0)
    return XLabDataModule.load_from_checkpoint(
        path, **none, sources=sources, splits=splits, stream=None, skip=None, skip_rows=None, examples=NextTokens
    )


def open_for(folder: str, ckpt: str, device: str) -> 'Mixture':
    """The n-grams of a folder with their gate for a checkpoint, which is fitted where it is not there yet."""
    from xlabml.pipelines import TextGenerator

    generator = TextGenerator.load(ckpt, device)
    [found] = mix(generator, [folder], ckpt)
    return found


def mix(generator: 'TextGenerator', folders: Sequence[str], ckpt: str) -> 'Sequence[Mixture]':
    """Mix the predictions of a generator with the n-grams of folders; say where a gate is fitted first."""
    from xlabml.data.store import TerminalProgress

    with TerminalProgress() as report:
        return generator.mix_with([Path(folder) for folder in folders], ckpt, report.say, report)


def mix_task(folder: str, resumed: 'Resumed', task: 'Task') -> 'list[L.Callback]':
    """Put n-grams beside the model of a test or a prediction.

    Args:
        folder: What --ngram names.
        resumed: The checkpoint.
        task: The task that was built for it; it gets an evaluator, and columns of predictions.

    Returns:
        The callback that shows what was found.

    Raises:
        UsageError: The task is no language model.
        ValueError: The folder cannot be used.
    """
    from xlabml.callbacks.ngram_table import NgramTable
    from xlabml.evaluation.ngrams import Mixable, NgramBits

    if not isinstance(task, Mixable):
        raise UsageError(f'--ngram is for language models, and {resumed.found.path} holds a {type(task).__name__}')
    path = str(resumed.found.path)
    with typed_paths():
        task.mixture = open_for(folder, path, 'auto')
    evaluator = NgramBits(task.mixture)
    task.evaluators.append(evaluator)
    return [NgramTable(evaluator)]
