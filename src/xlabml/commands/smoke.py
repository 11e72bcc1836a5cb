"""`xlab fit --smoke`: a batch of everything that a run does, in a folder that goes again."""

import contextlib
import io
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from jsonargparse import Namespace

from xlabml import artifacts, checkpoints, settings
from xlabml.callbacks import Checkpoints, Predictions
from xlabml.callbacks.progress import find_figures
from xlabml.data import Source, value_of
from xlabml.datamodules import XLabDataModule
from xlabml.tokenizer import train_tokenizer

from . import autotune
from .building import find_callback
from .command_line import plain, without_option
from .errors import UsageError, usage_errors
from .fit import XLabCLI

_MAX_DOCUMENTS, _MAX_CHARS = 400, 2_000_000  # of each source
_STEPS = 2, 4  # where the first fit, and the one that goes on, end


def smoke(arguments: Sequence[str]) -> None:
    """Train, validate, sample, save, load, go on, test, predict and generate with these settings; leave nothing.

    The settings are those of the run, but for: the first documents of each source (a tokenizer that is not there yet is
    trained on these, and has fewer tokens where they do not suffice), one device, four steps of two micro-batches (on
    a CPU, and where `--autotune` is to choose, of one row each), no warm-up of sizes, one batch of each evaluation, and
    the places that a run writes to. Where help or the settings are asked for, these are printed.

    Args:
        arguments: A command line with `fit`.

    Raises:
        UsageError: The command is another, a checkpoint is named, or this is one process of several.
    """
    words = list(arguments)
    asked = {word.partition('=')[0] for word in words}
    if asked & {'-h', '--help', '--print_config'} or any(re.fullmatch(r'--.*\.help', word) for word in asked):
        XLabCLI(words)
        return
    if 'fit' not in words:
        raise UsageError('--smoke goes with fit: xlab fit --smoke …')
    if '--ckpt_path' in asked:
        raise UsageError('--smoke tries the settings from the start; leave out --ckpt_path')
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise UsageError('--smoke tries one device; start one process')
    started = time.monotonic()
    users = os.environ.get('XLABML_CACHE')
    with artifacts.scratch('smoke-') as name, _cache(f'{name}/cache'):
        stand_in = _StandIn(name, users)
        words += [f'--trainer.default_root_dir={name}', '--checkpoint.folder=null']
        done: dict[str, _SmokeCLI] = {}
        for part, command in (('train', 'fit'), ('go on', 'fit'), ('test', 'test'), ('predict', 'predict')):
            typed = [command if word == 'fit' else word for word in words]
            if part != 'train':
                typed = [*without_option(typed, '--init_from'), '--ckpt_path=last']
            with _saying_where(part), contextlib.redirect_stdout(io.StringIO()):
                done[part] = _SmokeCLI(typed, stand_in, _STEPS[part != 'train'])
        with _saying_where('generate'):
            text = _generate(name)
        figures = done['test'].model.describe(find_figures(done['test'].trainer, 'test_'))
        n_steps, n_documents = done['go on'].trainer.global_step, find_callback(done['predict'].trainer, Predictions)
    print(
        f'smoke: {n_steps} steps, validated, saved and gone on from, tested ({figures}), '
        f'{n_documents.n_documents} documents scored{text}; {time.monotonic() - started:.0f} s, nothing is left behind'
        + stand_in.note
        + ('; --autotune measured nothing' if '--autotune' in words else '')
    )


class _StandIn:
    """What stands in for the sources: their first documents, and a tokenizer.

    Args:
        folder: Where to write them.
        cache: The user's cache, where there may be a tokenizer.

    Attributes:
        note: What was not as it is in the settings, for people.
    """

    def __init__(self, folder: Path, cache: str | None) -> None:
        self.folder, self._cache = folder, cache
        self.settings: dict[str, Any] = {}
        self.note = ''

    def make(self, config: dict[str, Any]) -> None:
        """Read the sources that the settings of the data name; where they are absent, this says so."""
        data = XLabDataModule(**settings.build_arguments(XLabDataModule, config))
        data.check_tokenizer()
        records = [_first_records(source, data.columns) for source in data.sources]
        with _cache(self._cache):
            path = data.tokenizer_path
        sources = []
        for i, some in enumerate(records):
            file = self.folder / f'source-{i}.jsonl'
            file.write_text(''.join(json.dumps(record) + '\n' for record in some), 'utf-8')
            sources.append({'class_path': 'xlabml.data.Location', 'init_args': {'path': str(file)}})
        n_vocab = data.n_vocab
        if not path.exists():
            path = self.folder / 'smoke.model'
            texts = [record['text'] for record in itertools.chain(*records)]
            n_vocab = _train(texts, path, data.n_vocab, data.coverage)
            if n_vocab != data.n_vocab:
                self.note = f' (the tokenizer has {n_vocab:,} tokens for {data.n_vocab:,}: there were few texts)'
        self.settings = {'sources': sources, 'tokenizer_path': str(path), 'n_vocab': n_vocab}


class _SmokeCLI(XLabCLI):
    def __init__(self, args: Sequence[str], stand_in: _StandIn, n_steps: int) -> None:
        self._stand_in, self._n_steps = stand_in, n_steps
        super().__init__(args)

    def before_instantiate_classes(self) -> None:
        """Put the stand-ins for what is too much, or leaves something behind."""
        config = self._own_config()
        with usage_errors():
            if not self._stand_in.settings:
                self._stand_in.make(plain(config.data))
        super().before_instantiate_classes()
        data: dict[str, Any] = {
            **self._stand_in.settings,
            'splits': {'train': 0.5, 'val': 0.25, 'test': 0.25, 'predict': 0.0},
            'predict_split': 'test',
            'group': None,  # the first documents may be one group, and too few of a class
            'stratify': None,
            'max_source_epochs': None,
            'n_processes': 1,
            **_batch_sizes(config),
            'stream': None,
            **autotune.NO_WARMUP,
        }
        config.model.init_args.n_vocab = data['n_vocab']
        trainer = {
            'devices': 1,
            'num_nodes': 1,
            'strategy': 'auto',
            'logger': True,
            'profiler': None,
            'max_time': None,
            'val_check_interval': _STEPS[0],
            'log_every_n_steps': 1,
            **{f'limit_{name}_batches': 1 for name in ('val', 'test', 'predict')},
        }
        if 0 <= config.trainer.max_steps < _STEPS[1]:
            trainer['max_steps'] = _STEPS[1]
        values = {'data': data, 'trainer': trainer, 'progress': {'refresh_seconds': 0}, 'summary': {'max_depth': 0}}
        for group, changed in values.items():
            for name, value in changed.items():
                config[group][name] = value

    def _autotune(self, config: Namespace) -> None:
        """Nothing is measured: what a device holds is the least that could be chosen."""
        if self._checkpoint is None:
            autotune.check(config.data.device_batch_tokens)
        config.data.device_batch_tokens = config.data.max_len

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, 'trainer')
        callbacks = config['callbacks'] or []
        config['callbacks'] = [*(callbacks if isinstance(callbacks, list) else [callbacks]), _StopAt(self._n_steps)]
        return super().instantiate_trainer(**kwargs)


class _StopAt(L.Callback):
    """Ends a run at the validation after so many steps; its length, and so its schedule, are those of the real one."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step >= self.n_steps:
            trainer.should_stop = True

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # Not for good, as early stopping would have: the run is to go on.
        checkpoints.put_callback(checkpoint, Checkpoints.__name__, stopped_early=False)


def _batch_sizes(config: Namespace) -> dict[str, int]:
    """Two micro-batches a step: on a CPU of a row, elsewhere as large as they will be, to see that they fit."""
    data = config.data
    has_gpu = torch.cuda.is_available() and config.trainer.accelerator in ('auto', 'gpu', 'cuda')
    device = (data.device_batch_tokens or data.batch_tokens) if has_gpu else data.max_len
    return {'batch_tokens': device * min(2, math.ceil(data.batch_tokens / device)), 'device_batch_tokens': device}


def _first_records(source: Source, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The first documents of a source, with these columns beside their texts.

    Raises:
        SettingsError: One of them has nothing in a column.
    """
    records: list[dict[str, Any]] = []
    n_chars = 0
    for document in source.documents(columns):
        if isinstance(document.text, str) and document.text:
            for name in columns:
                value_of(document.columns, name, f'{source}, row {document.row}')
            records.append({**document.columns, 'text': document.text[: _MAX_CHARS // 40]})
            n_chars += len(records[-1]['text'])
        if len(records) == _MAX_DOCUMENTS or n_chars > _MAX_CHARS:
            break
    return records


def _train(texts: list[str], path: Path, n_vocab: int, coverage: float) -> int:
    """Train a tokenizer of n_vocab tokens or, where that is too many for the texts, of half, a quarter … of them."""
    while True:
        try:
            train_tokenizer(texts, path, n_vocab, coverage)
        except ValueError:
            if n_vocab < 600:
                raise
            n_vocab //= 2
        else:
            return n_vocab


def _generate(root: Path) -> str:
    """Continue nothing by a few tokens with the best checkpoint; '' where the task is no language model."""
    from xlabml.pipelines.generator import TextGenerator, is_language_model

    path = checkpoints.find('last', root)
    if not is_language_model(checkpoints.load(path).task.class_path):
        return ''
    text = ''.join(TextGenerator.load(path).stream('', 8, seed=0))
    return f', sampled {text!r}'


@contextlib.contextmanager
def _cache(folder: str | None) -> Iterator[None]:
    """Keep what is cached in a folder for a while; None: in the user's own."""
    before = os.environ.get('XLABML_CACHE')
    _set_cache(folder)
    try:
        yield
    finally:
        _set_cache(before)


def _set_cache(folder: str | None) -> None:
    if folder is None:
        os.environ.pop('XLABML_CACHE', None)
    else:
        os.environ['XLABML_CACHE'] = folder


@contextlib.contextmanager
def _saying_where(part: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        if len(error.args) == 1:
            error.args = (f'smoke ({part}): {error.args[0]}',)
        raise
