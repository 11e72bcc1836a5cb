"""Write docs/settings.md from the signatures and docstrings: `python scripts/settings_page.py` (`--check`: compare)."""

import collections.abc
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from docstring_parser import DocstringStyle, parse

from xlabml import data, datamodules, evaluation, losses, metadata, models, settings, training, transformer
from xlabml.commands.groups import CALLBACKS
from xlabml.commands.trainer import Trainer
from xlabml.untrusted.matching import parameters

PAGE = Path(__file__).parents[1] / 'docs/settings.md'
PARTS = {
    'Sources (`data.sources`, `data.held_out`)': (data, data.Source),
    'Examples (`data.examples`)': (data.rows, data.Format),
    'Examples with metadata (`data.examples`)': (data.conditioned, data.Format),
    'Types of metadata (`data.examples.types`)': (metadata, metadata.MetadataType),
    'Sampling of metadata (`data.examples.sampling`)': (data.conditioned, data.Sampling),
    'Plans (`data.plan`)': (data, data.Plan),
    'Losses (`model.loss`)': (losses, losses.Loss),
    'Metrics (`model.metrics`)': (evaluation, evaluation.TokenMetric),
    'Optimizers (`model.optimizer`)': (training, torch.optim.Optimizer),
    'Schedules (`model.schedule`)': (training, training.Schedule),
    'Positions (`model.trunk.positions`)': (transformer, transformer.Positions),
    'Initializers (`model.trunk.init`)': (transformer, transformer.Initializer),
}
"""Parts that a setting chooses among: the room that has them, and their base class."""

SINGLE = {
    'Trunk (`model.trunk`)': transformer.Transformer,
    'Adapters (`model.trunk.adapters`)': transformer.LoRA,
    'Clipping (`model.clip`)': training.AdaptiveClip,
    'Near-duplicates (`data.near_duplicates`)': data.NearDuplicates,
    'Streaming (`data.stream`)': data.Stream,
}
INNER = {'Shard'}
"""Classes that are no choice of a user's."""

HANDED = {'n_vocab': 'data.n_vocab', 'max_len': 'data.max_len', 'seed': 'seed_everything'}
"""Arguments that follow from a setting."""

HEAD = """# Settings

Every setting of ours, by its group: what `xlab COMMAND --help` prints, on one page. Written by
`python scripts/settings_page.py` from the signatures and their docstrings; a test holds it true. A setting is typed as
`--data.max_len 256` or stands in a YAML file as `data: {max_len: 256}`; a part is chosen by its class,
`model: {optimizer: AdamW}`, and set by `{class_path: AdamW, init_args: {lr: 1e-3}}`.

Beside the groups there are `seed_everything` (what weights, data order and dropout are drawn from; 42) and `ckpt_path`.
"""


def main() -> int:
    text = page()
    if sys.argv[1:] == ['--check']:
        is_same = PAGE.exists() and PAGE.read_text('utf-8') == text
        print(f'{PAGE.name} is {"up to date" if is_same else "not what the signatures say; write it anew"}')
        return 0 if is_same else 1
    PAGE.write_text(text, encoding='utf-8')
    return 0


def page() -> str:
    """The whole page."""
    blocks = [HEAD]
    blocks.append(section('Trainer (`trainer`)', Trainer, "Beside these, the arguments of Lightning's own Trainer."))
    blocks.append(section('Data (`data`)', datamodules.XLabDataModule))
    blocks.append('## Models (`model`)\n')
    blocks += [entry(cls) for cls in concrete(models, models.Task)]
    blocks += [section(title, cls) for title, cls in SINGLE.items()]
    for title, (room, base) in PARTS.items():
        blocks.append(f'## {title}\n')
        blocks += [entry(cls) for cls in concrete(room, base)]
    for group, cls in CALLBACKS.items():
        blocks.append(section(f'{cls.__name__} (`{group}`)', cls))
    return '\n'.join(blocks)


def concrete(room: types.ModuleType, base: type) -> list[type]:
    """The classes of a room that can stand where a base class is asked for, by name."""
    found = (value for name in room.__all__ if inspect.isclass(value := getattr(room, name)))
    return sorted(
        (
            cls
            for cls in found
            if issubclass(cls, base) and not inspect.isabstract(cls) and cls is not base and cls.__name__ not in INNER
        ),
        key=lambda cls: cls.__name__,
    )


def section(title: str, cls: type, note: str = '') -> str:
    """A heading, what the class is, and its arguments."""
    return f'## {title}\n\n{summary(cls)}\n' + (f'\n{note}\n' if note else '') + table(cls)


def entry(cls: type) -> str:
    """One of several classes that a setting chooses among."""
    return f'**{settings.describe(cls)["class_path"]}** – {summary(cls)}\n' + table(cls)


def summary(cls: type) -> str:
    found = parse(inspect.getdoc(cls) or '', DocstringStyle.GOOGLE)
    return one_line(found.short_description or '')


def table(cls: type) -> str:
    rows = list(arguments(cls))
    if not rows:
        return ''
    head = ['', '| setting | type | default | meaning |', '| --- | --- | --- | --- |']
    return '\n'.join([*head, *rows]) + '\n'


def arguments(cls: type) -> Iterator[str]:
    """A row for each argument of ours: those of another library's base class are documented there."""
    kinds = parameters(cls)
    said = meanings(cls)
    seen = set()
    for part in cls.__mro__:
        if not part.__module__.startswith('xlabml') or '__init__' not in vars(part):
            continue
        for name, parameter in list(inspect.signature(vars(part)['__init__']).parameters.items())[1:]:
            is_handed = name in HANDED and HANDED[name] != f'data.{name}' * (cls is datamodules.XLabDataModule)
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in seen or is_handed:
                continue
            seen.add(name)
            if parameter.default is parameter.empty and not said.get(name):
                continue  # what xlabml hands to a part: a width, a length
            default = '' if parameter.default is parameter.empty else f'`{shown(parameter.default)}`'
            yield f'| `{name}` | `{kind(kinds[name])}` | {default} | {one_line(said.get(name, ""))} |'


def meanings(cls: type) -> dict[str, str]:
    """What an argument means: said by the class, or by the one of ours that it is derived from."""
    found: dict[str, str] = {}
    for part in cls.__mro__:
        if part.__module__.startswith('xlabml'):
            for item in parse(inspect.cleandoc(part.__doc__ or ''), DocstringStyle.GOOGLE).params:
                found.setdefault(item.arg_name, item.description or '')
    return found


def shown(default: Any) -> str:
    """A default as YAML has it."""
    if inspect.isclass(default):
        return default.__name__
    if default is None or isinstance(default, bool):
        return {None: 'null', True: 'true', False: 'false'}[default]
    return str(default)


def kind(annotation: Any) -> str:
    """A type as a reader of YAML knows it: a factory is the class that it makes."""
    origin = typing.get_origin(annotation)
    inner = typing.get_args(annotation)
    if origin is collections.abc.Callable:
        return kind(inner[-1])
    if origin in (typing.Union, types.UnionType):
        return ' or '.join(dict.fromkeys(kind(one) for one in inner))
    if origin is typing.Literal:
        return ' or '.join(dict.fromkeys(map(str, inner)))
    if origin is not None:
        return f'{origin.__name__}[{", ".join(kind(one) for one in inner)}]'
    if annotation is type(None):
        return 'null'
    return re.sub(r'[\w.]+\.', '', getattr(annotation, '__name__', str(annotation)))


def one_line(text: str) -> str:
    return re.sub(r'\s*\n\s*', ' ', text.strip()).replace('|', '\\|')


if __name__ == '__main__':
    sys.exit(main())
