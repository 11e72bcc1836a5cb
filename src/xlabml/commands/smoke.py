"""`xlab fit --smoke`: every stage of a run, on one or two batches each, in a temporary folder."""

import contextlib
import io
import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as L
import torch

from xlabml import artifacts, checkpoints
from xlabml.callbacks import Checkpoints
from xlabml.callbacks.progress import find_figures
from xlabml.checkpoints import Saved
from xlabml.data import Format, Source, value_of
from xlabml.data.sources import split_text
from xlabml.datamodules import XLabDataModule
from xlabml.engine import Task
from xlabml.tokenizer import train_tokenizer

from . import autotune
from .building import Built
from .command_line import Parsed, plain, without_option
from .errors import UsageError, usage_errors
from .opening import find_task, open_data
from .parsing import Settings, parse, retype
from .resolving import choose_precision
from .resuming import resume
from .running import execute
from .sizing import AUTO, size_run

# of each source
_MAX_DOCUMENTS = 400
_MAX_CHARS = 2_000_000
_SPREAD = 50
"""How much more of a source with columns is read, whose documents are then thinned."""
_GROUPS = 16  # of a step, where it is counted in groups
_STEPS = 2, 4  # the last steps of the first fit, and of the one that resumes it


class Part(NamedTuple):
    """One of the runs that settings are tried by.

    Args:
        name: What it tries, for people.
        settings: Its settings.
        n_steps: Where its training ends.
    """

    name: str
    settings: Settings
    n_steps: int


def smoke(arguments: Sequence[str]) -> None:
    """Train, validate, sample, save, load, resume, test, predict and generate with these settings; leave nothing.

    The settings are those of the run, but for: the first documents of each source (a tokenizer that is not there yet is
    trained on these, and has fewer tokens where they do not suffice), one device, four steps of two micro-batches (on
    a CPU, and where `--autotune` is to choose, of one row each), one batch of each evaluation, and the
    places that a run writes to. With --help or --print_config, help or the settings are printed instead.

    Args:
        arguments: A command line with `fit`.

    Raises:
        UsageError: The command is another, a checkpoint is named, or this is one process of several.
    """
    asked = {word.partition('=')[0] for word in arguments}
    if asked & {'-h', '--help', '--print_config'} or any(re.fullmatch(r'--.*\.help', word) for word in asked):
        parse(arguments)
        return
    if 'fit' not in arguments:
        raise UsageError('--smoke goes with fit: xlab fit --smoke …')
    if '--ckpt_path' in asked:
        raise UsageError('--smoke tries the settings from the start; leave out --ckpt_path')
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise UsageError('--smoke tries one device; start one process')
    started = time.monotonic()
    users = os.environ.get('XLABML_CACHE')
    with artifacts.scratch('smoke-') as name, _cache(f'{name}/cache'):
        with _saying_where('train'), contextlib.redirect_stdout(io.StringIO()):
            settings = parse(arguments)
            found, note = smoke_parts(settings, name, users)
        done: dict[str, Built] = {}
        for part in found:
            with _saying_where(part.name), contextlib.redirect_stdout(io.StringIO()):
                built = execute(part.settings, [_StopAt(part.n_steps)])
                assert built is not None
                done[part.name] = built
        with _saying_where('generate'):
            text = _generate(done['train'].task, name)
        figures = done['test'].task.describe(find_figures(done['test'].trainer, 'test_'))
        n_steps = done['resume'].trainer.global_step
        scored = ''
        if 'predict' in done:
            scored = f', {done["predict"].own.predictions.n_documents} documents scored'
    print(
        f'smoke: {n_steps} steps, validated, saved, resumed, tested ({figures}){scored}{text}; '
        f'{time.monotonic() - started:.0f} s, nothing is left behind'
        + note
        + ('; --autotune measured nothing' if settings.autotunes else '')
    )


def smoke_parts(settings: Settings, folder: Path, cache: str | None) -> tuple[list[Part], str]:
    """The runs that settings are tried by, and how they differ from the settings, for people.

    Args:
        settings: As `parse` returns them.
        folder: Where all that they write goes, the stand-ins for the sources too.
        cache: The user's cache, where there may be a tokenizer.

    Raises:
        ValueError: The settings do not go together, or the sources cannot be read.
    """
    with contextlib.ExitStack() as opened:
        given = size_run(choose_precision(resume(settings, opened)))
    values = plain(given.values)
    if settings.autotunes:
        autotune.check(values['data']['device_batch_tokens'])
        values['data']['device_batch_tokens'] = values['data']['max_len']  # the least that could be chosen
    with usage_errors():
        described = open_data(given)
        data, note = _stand_in(described, folder, cache)
    changed = {
        **{f'data.{name}': value for name, value in {**data, **_batch_sizes(values, described.examples)}.items()},
        'data.splits': {'train': 0.5, 'val': 0.25, 'test': 0.25, 'predict': 0.0},
        'data.predict_split': 'test',
        'data.group': None,  # the first documents may be one group, and too few of a class
        'data.stratify': None,
        'data.fold': None,
        'data.max_source_epochs': None,
        'data.n_processes': 1,
        'data.stream': None,
        'trainer.default_root_dir': str(folder),
        'trainer.devices': 1,
        'trainer.num_nodes': 1,
        'trainer.strategy': 'auto',
        'trainer.logger': True,
        'trainer.profiler': None,
        'trainer.max_time': None,
        'trainer.val_check_interval': _STEPS[0],
        'trainer.log_every_n_steps': 1,
        **{f'trainer.limit_{name}_batches': 1 for name in ('val', 'test', 'predict')},
        'checkpoint.folder': None,
        'progress.refresh_seconds': 0,
        'summary.max_depth': 0,
    }
    n_steps = values['trainer']['max_steps']
    if settings.values.trainer.max_steps == AUTO or 0 <= n_steps < _STEPS[1]:
        changed['trainer.max_steps'] = max(n_steps, _STEPS[1])
    last = {**changed, 'ckpt_path': 'last'}
    begun = settings._replace(arguments=tuple(without_option(settings.arguments, '--init_from')))
    if given.initial is not None:
        changed['init_from'] = str(given.initial.path)  # `last` is of the user's folder, not of this one
    found = [
        Part('train', retype(settings, 'fit', changed), _STEPS[0]),
        Part('resume', retype(begun, 'fit', last), _STEPS[1]),
        Part('test', retype(begun, 'test', last), 0),
    ]
    if find_task(settings).predictions is not Task.predictions:
        found.append(Part('predict', retype(begun, 'predict', last), 0))
    return found, note


def _stand_in(data: XLabDataModule, folder: Path, cache: str | None) -> tuple[Parsed, str]:
    """Settings of data: the first documents of the sources, and a tokenizer; and how the tokenizer differs from the
    settings. Raises an error where a source is missing."""
    records = [_first_records(source, data.texts.columns_of(i)) for i, source in enumerate(data.texts.sources)]
    with _cache(cache):
        path = data.tokenizer_path
    sources = []
    for i, (some, _) in enumerate(records):
        file = folder / f'source-{i}.jsonl'
        file.write_text(''.join(json.dumps(record) + '\n' for record in some), 'utf-8')
        sources.append({'class_path': 'xlabml.data.Location', 'init_args': {'path': str(file)}})
    n_vocab = data.n_vocab
    note = ''
    if not path.exists():
        path = folder / 'smoke.model'
        texts = [text for _, some in records for text in some]
        n_vocab = _train(texts, path, data.n_vocab, data.coverage, data.fold_text)
        if n_vocab != data.n_vocab:
            note = f' (the tokenizer has {n_vocab:,} tokens for {data.n_vocab:,}: there were few texts)'
    return {'sources': sources, 'tokenizer_path': str(path), 'n_vocab': n_vocab}, note


class _StopAt(L.Callback):
    """Ends a run at the validation after `n_steps`; its length and its schedule are those of the full run."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step >= self.n_steps:
            trainer.should_stop = True

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Saved) -> None:
        # Early stopping ends a run for good; this one is to be resumed.
        checkpoints.put_callback(checkpoint, Checkpoints.__name__, stopped_early=False)


def _batch_sizes(values: Parsed, examples: Format) -> dict[str, int]:
    """Two micro-batches a step: on a CPU of a row, elsewhere as large as in the run, to see that they fit. Of groups
    there are a few, in chunks of the longest text."""
    data = values['data']
    if examples.sized_by == 'steps':
        sizes = {'batch_tokens': data['max_len'] * min(2, data['batch_tokens'] // data['max_len'])}
        return {**sizes, 'batch_groups': min(data['batch_groups'], _GROUPS), 'device_batch_tokens': data['max_len']}
    if examples.sized_by == 'groups':
        return {'batch_groups': min(data['batch_groups'], _GROUPS), 'device_batch_tokens': data['max_len']}
    has_gpu = torch.cuda.is_available() and values['trainer']['accelerator'] in ('auto', 'gpu', 'cuda')
    device = (data['device_batch_tokens'] or data['batch_tokens']) if has_gpu else data['max_len']
    return {'batch_tokens': device * min(2, math.ceil(data['batch_tokens'] / device)), 'device_batch_tokens': device}


def _first_records(source: Source, columns: Sequence[str]) -> tuple[list[dict[str, object]], list[str]]:
    """The first records of a source, with these columns beside their texts, and the texts.

    With columns they are spread over more of its beginning, since a source may be sorted by one of them.

    Raises:
        SettingsError: A document has no value in one of the columns.
    """
    kept: list[tuple[dict[str, object], list[str]]] = []
    n_read = 0
    n_chars = 0
    stride = 1
    spread = _SPREAD if columns else 1
    for document, record in source.records(columns):
        if not isinstance(document.text, str) or not document.text:
            continue
        if n_read % stride == 0:
            where = f'{source}, row {document.row}'
            for name in columns:
                value_of(document.columns, name, where)
            if source.has_empty_pieces:
                texts = list(filter(None, split_text(document, where, may_be_empty=True)))
            else:
                texts = [document.text[: _MAX_CHARS // 40]]
                record['text'] = texts[0]
            kept.append((record, texts))
        n_read += 1
        n_chars += len(document.text)
        if n_read == spread * _MAX_DOCUMENTS or n_chars > spread * _MAX_CHARS:
            break
        if len(kept) == 2 * _MAX_DOCUMENTS:
            kept = kept[::2]
            stride *= 2
    while columns and (len(kept) > _MAX_DOCUMENTS or _n_chars(kept) > _MAX_CHARS) and len(kept) > 2:
        kept = kept[::2]
    return [record for record, _ in kept], [text for _, some in kept for text in some]


def _n_chars(kept: Sequence[tuple[dict[str, object], list[str]]]) -> int:
    """How long the texts of some records are."""
    return sum(len(text) for _, some in kept for text in some)


def _train(texts: list[str], path: Path, n_vocab: int, coverage: float, fold_text: bool) -> int:
    """Train a tokenizer of n_vocab tokens or, where that is too many for the texts, of half, a quarter … of them."""
    while True:
        try:
            train_tokenizer(texts, path, n_vocab, coverage, fold_text=fold_text)
        except ValueError:
            if n_vocab < 600:
                raise
            n_vocab //= 2
        else:
            return n_vocab


def _generate(task: Task, root: Path) -> str:
    """Generate a few tokens with the newest checkpoint; '' of a task that generates nothing."""
    if not task.generates:
        return ''
    from xlabml.pipelines.generator import TextGenerator

    text = ''.join(TextGenerator.load(checkpoints.find('last', root)).stream('', 8, seed=0))
    return f', sampled {text!r}'


@contextlib.contextmanager
def _cache(folder: str | None) -> Iterator[None]:
    """Use another cache folder while this lasts; None: the user's own."""
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
