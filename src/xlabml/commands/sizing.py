"""`auto`: the sizes of a run that follow from its texts, filled in before the data is opened (resolve's first part)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml.data import Source
from xlabml.datamodules import DEFAULT_SPLITS, XLabDataModule
from xlabml.errors import VocabularyError
from xlabml.plain import Plain, below
from xlabml.settings import build, build_arguments
from xlabml.tokenizer import Tokenizer
from xlabml.untrusted.matching import parameters

from . import run_plan
from .command_line import plain
from .errors import UsageError, usage_errors
from .opening import blaming, find_task
from .parsing import Settings

AUTO = 'auto'
_NUMBERS = ('data.n_vocab', 'data.batch_tokens', 'trainer.max_steps')
_SPLITS = 'data.splits'


def size_run(settings: Settings) -> Settings:
    """Fill in the vocabulary, the splits, the batch and the length of a run where they are `auto`.

    A run that resumes keeps what it began with, whatever its texts are by now.

    Raises:
        UsageError: The size of the texts is not known, or the examples are no rows of tokens.
    """
    asked = [name for name in _NUMBERS if settings.values.get(name) == AUTO]
    if _has_auto(plain(settings.values.data.splits)):
        asked.append(_SPLITS)
    if not asked:
        return settings
    if settings.resumed is not None:
        checkpoint = settings.resumed.checkpoint
        kept: dict[str, Plain] = {f'data.{name}': value for name, value in checkpoint.data.items()}
        kept['trainer.max_steps'] = below(checkpoint.run.settings, 'trainer').get('max_steps', -1)
        return _keep(settings, {name: kept.get(name) for name in asked})
    n_bytes = _text_bytes(settings, asked[0])
    found: dict[str, Plain] = {}
    n_vocab = settings.values.data.n_vocab
    if n_vocab == AUTO:
        n_vocab = _vocabulary(settings, n_bytes)
        found['data.n_vocab'] = n_vocab
        settings = _keep(settings, found)
    if asked != ['data.n_vocab']:  # else no size of the model is needed, which may follow from the data, as classes do
        n_tokens = max(1, round(n_bytes / run_plan.bytes_per_token(n_vocab)))
        found |= _sizes(settings, asked, n_tokens)
    for name, value in found.items():
        _say(f'{name} {_shown(value)}, for {_size(n_bytes)} of text')
    return _keep(settings, found)


def shrink_vocabulary(settings: Settings, error: VocabularyError) -> Settings:
    """The settings with the vocabulary that the texts can have, where a found one was too large for them.

    What else was found follows from it roughly, and stays.
    """
    _say(f'data.n_vocab {error.most:,}: the texts have no more tokens to learn, as repetitive ones do')
    return _keep(settings, {'data.n_vocab': error.most})


def _sizes(settings: Settings, asked: Sequence[str], n_tokens: int) -> dict[str, Plain]:
    """Splits, batch and steps for a number of tokens; the vocabulary is known."""
    values = settings.values
    found: dict[str, Plain] = {}
    batch = values.data.batch_tokens
    steps = values.trainer.max_steps
    if steps == AUTO and values.trainer.max_epochs is not None:
        raise UsageError('trainer.max_steps is auto, and trainer.max_epochs is set; leave one of them out')
    if AUTO not in (batch, steps) and steps > 0:
        n_trained = batch * steps
    else:
        n_trained = run_plan.trained_tokens(n_tokens, count_parameters(settings))
    if batch == AUTO:
        world = _n_devices(settings)
        batch = run_plan.batch_tokens(n_trained, values.data.max_len, world)
        found['data.batch_tokens'] = batch
        is_free = values.data.device_batch_tokens is None and not settings.autotunes
        if is_free and batch // world > run_plan.MOST_ON_DEVICE:
            found['data.device_batch_tokens'] = run_plan.batch_tokens(
                run_plan.MOST_ON_DEVICE * 4000, values.data.max_len
            )
    if steps == AUTO:
        found['trainer.max_steps'] = run_plan.n_steps(n_trained, batch)
    if _SPLITS in asked:
        found[_SPLITS] = _splits(plain(values.data.splits), run_plan.held_share(n_tokens, n_trained))
    return found


def count_parameters(settings: Settings) -> int:
    """Parameters of the model that settings describe; no memory is taken for them."""
    cls = find_task(settings)
    with blaming(settings), torch.device('meta'):
        task = cls(**build_arguments(cls, plain(settings.values.model).get('init_args') or {}))
    return sum(parameter.numel() for parameter in task.parameters())


def _has_auto(splits: Plain) -> bool:
    return splits == AUTO or (isinstance(splits, dict) and AUTO in splits.values())


def _splits(given: Plain, share: float) -> dict[str, Plain]:
    """The shares, where `auto` is for validation and test, and train is the rest unless it is typed."""
    typed = given if isinstance(given, dict) else {}
    held = {name: typed.get(name, AUTO) for name in ('val', 'test')}
    found: dict[str, Plain] = {name: share if value == AUTO else value for name, value in held.items()}
    found['predict'] = typed.get('predict', DEFAULT_SPLITS['predict'])
    train = typed.get('train', AUTO)
    found['train'] = round(1 - sum(float(str(value)) for value in found.values()), 6) if train == AUTO else train
    return found


def _vocabulary(settings: Settings, n_bytes: int) -> int:
    """That of a tokenizer which is there, else one for the texts."""
    if settings.initial is not None and settings.values.data.tokenizer_path is None:
        known = settings.initial.contents.data.get('n_vocab')
        assert isinstance(known, int)
        return known
    path = settings.values.data.tokenizer_path
    if path is not None and Path(path).exists():
        with usage_errors():
            return len(Tokenizer.load(path))
    return run_plan.vocabulary(n_bytes)


def _text_bytes(settings: Settings, name: str) -> int:
    """About how many bytes of text the sources have."""
    values = plain(settings.values.data)
    if values['stream'] is not None:
        raise UsageError(f'{name} is auto, and data.stream reads texts whose size no run knows before it ends; set it')
    given = values['sources']
    with blaming(settings):
        sources: Sequence[Source] = XLabDataModule().sources
        if given is not None:
            sources = build(given, parameters(XLabDataModule)['sources'])
        sizes = [part.n_bytes for source in sources for part in source.parts()]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise UsageError(f'{name} is auto, and the size of a source is not known before it is read; set it')
    return sum(known)


def _n_devices(settings: Settings) -> int:
    """Devices of the run, as far as settings say."""
    trainer = settings.values.trainer
    devices = trainer.devices
    if isinstance(devices, list):
        n_devices = len(devices)
    elif isinstance(devices, str) and not devices.isdecimal():
        is_cpu = trainer.accelerator == 'cpu' or not torch.cuda.is_available()
        n_devices = 1 if is_cpu else torch.cuda.device_count()
    else:
        n_devices = int(devices)
    return max(1, n_devices) * int(trainer.num_nodes)


def _keep(settings: Settings, found: dict[str, Plain]) -> Settings:
    """The settings with these values, and the vocabulary at the task too, which follows from the data's."""
    changed: dict[str, object] = dict(found)
    if 'data.n_vocab' in found and 'n_vocab' in parameters(find_task(settings)):
        changed['model.init_args.n_vocab'] = found['data.n_vocab']
    return settings.changed(changed)


def _shown(value: Plain) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{name} {share:.4g}' for name, share in value.items() if isinstance(share, float) and share)
    return f'{value:,}'


def _size(n_bytes: int) -> str:
    for size, unit in ((10**9, 'GB'), (10**6, 'MB'), (10**3, 'KB')):
        if n_bytes >= size:
            return f'{n_bytes / size:.3g} {unit}'
    return f'{n_bytes} bytes'


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)
