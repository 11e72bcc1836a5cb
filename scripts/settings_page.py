"""Write docs/settings.md from the signatures and docstrings: `python scripts/settings_page.py` (`--check`: compare)."""

import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import torch

from xlabml import data, datamodules, evaluation, losses, metadata, models, settings, training, transformer
from xlabml.commands import signatures
from xlabml.commands.groups import CALLBACKS
from xlabml.commands.signatures import kind, meanings, one_line, shown
from xlabml.commands.trainer import Trainer
from xlabml.untrusted.matching import parameters

PAGE = Path(__file__).parents[1] / 'docs/settings.md'
PARTS = {
    'Sources (`data.sources`, `data.held_out`)': (data, data.Source),
    'Examples (`data.examples`)': (data.rows, data.Format),
    'Examples with metadata (`data.examples`)': (data.conditioned, data.Format),
    'Types of metadata (`data.examples.types`)': (metadata, metadata.MetadataType),
    'Preprocessors of metadata (`data.examples.preprocessors`)': (metadata, metadata.Preprocessor),
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
    return cell(signatures.summary(cls))


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
            yield f'| `{name}` | `{kind(kinds[name])}` | {default} | {cell(said.get(name, ""))} |'


def cell(text: str) -> str:
    """A text as it may stand in a table."""
    return one_line(text).replace('|', '\\|')


if __name__ == '__main__':
    sys.exit(main())
