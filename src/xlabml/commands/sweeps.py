"""`xlab fit --folds 5 --seeds 42,43`: a run for each fold and each seed, tested, and a table of all at the end."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from xlabml import bounds
from xlabml.callbacks.progress import find_figures
from xlabml.errors import SettingsError
from xlabml.evaluation.class_results import ClassResults, describe_mean, find_results, pool
from xlabml.evaluation.class_table import class_table, describe_classes, describe_table

from .command_line import plain, without_option
from .errors import UsageError
from .parsing import Settings, parse, retype
from .running import execute

FLAGS = ('--folds', '--seeds')
_MOST_FOLDS = 1000
_MOST_FIGURES = 4


class Member(NamedTuple):
    """One of the runs.

    Args:
        name: Of its folder, below that of the whole.
        fold: Its number; None: there are no folds.
        seed: Its seed.
    """

    name: str
    fold: int | None
    seed: int


class Done(NamedTuple):
    """What came of a run.

    Args:
        member: Which.
        figures: Of its test.
        results: What it said of each test example; None: it is no classifier.
    """

    member: Member
    figures: Mapping[str, float]
    results: ClassResults | None


def sweep(arguments: Sequence[str]) -> None:
    """Train and test a run for each fold and seed, each in a folder of its own, and print what they reach together.

    Typed once more, runs that are finished are not trained again, and one that was cut is resumed.

    Args:
        arguments: A command line with `fit`, and --folds, --seeds or both.

    Raises:
        UsageError: The command is another, or something does not go with several runs.
    """
    folds, seeds, typed = read_flags(arguments)
    asked = {word.partition('=')[0] for word in typed}
    if asked & {'-h', '--help', '--print_config'} or any(re.fullmatch(r'--.*\.help', word) for word in asked):
        parse(typed)
        return
    if '--smoke' in asked:
        raise UsageError('--smoke tries one run; leave out --folds and --seeds')
    settings = parse(typed)
    _check(settings, asked, folds, seeds)
    root = Path(settings.values.trainer.default_root_dir)
    members = list_members(folds, seeds or [settings.values.seed_everything])
    done = []
    for number, member in enumerate(members):
        print(f'{member.name}, run {number + 1} of {len(members)}, in {root / member.name}', flush=True)
        done.append(_run(settings, member, folds, root / member.name))
    print(*describe(done), sep='\n', flush=True)


def read_flags(arguments: Sequence[str]) -> tuple[int | None, list[int], list[str]]:
    """How many folds there are, the seeds, and the rest of a command line.

    Raises:
        UsageError: A value is none.
    """
    values: dict[str, str] = {}
    typed = list(arguments)
    for flag in FLAGS:
        for word, after in zip(typed, [*typed[1:], '']):
            if word == flag or word.startswith(f'{flag}='):
                values[flag] = after if word == flag else word.partition('=')[2]
        typed = without_option(typed, flag)
    folds = None
    if '--folds' in values:
        if not values['--folds'].isdecimal() or not 2 <= int(values['--folds'][:9]) <= _MOST_FOLDS:
            raise UsageError(f'--folds is {values["--folds"]!r:.40}; give a number from 2 to {_MOST_FOLDS}, as 5')
        folds = int(values['--folds'])
    words = values['--seeds'].strip('[]').split(',') if '--seeds' in values else []
    for word in words:
        if not word.strip().isdecimal() or int(word.strip()[:12]) > bounds.MOST['seed']:
            raise UsageError(f'--seeds has {word!r:.40}; give whole numbers with commas between them, as 42,43,44')
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise UsageError(f'--seeds has a number twice ({values["--seeds"]:.80}); name each once')
    return folds, seeds, typed


def list_members(folds: int | None, seeds: Sequence[int]) -> list[Member]:
    """The runs: for each seed those of all folds."""
    if folds is None:
        return [Member(f'seed_{seed}', None, seed) for seed in seeds]
    before = {seed: f'seed_{seed}/' if len(seeds) > 1 else '' for seed in seeds}
    return [Member(f'{before[seed]}fold_{i}', i, seed) for seed in seeds for i in range(folds)]


def _check(settings: Settings, asked: set[str], folds: int | None, seeds: list[int]) -> None:
    """Raise UsageError where something does not go with several runs."""
    if settings.command != 'fit':
        raise UsageError(f'{" and ".join(FLAGS)} go with fit: xlab fit --folds 5 …')
    for flag in ('--ckpt_path', '--autotune', '--checkpoint.folder'):
        if flag in asked:
            why = 'each run resumes its own' if flag == '--ckpt_path' else 'give it to one run alone'
            raise UsageError(f'{flag} does not go with several runs; leave it out: {why}')
    values = plain(settings.values)
    if folds is not None and values['data']['fold'] is not None:
        raise UsageError('--folds sets data.fold of each run; leave data.fold out')
    if seeds and '--seed_everything' in asked:
        raise UsageError('--seeds sets seed_everything of each run; leave --seed_everything out')
    if int(os.environ.get('WORLD_SIZE', '1')) > 1 or values['trainer']['devices'] not in ('auto', 1, '1'):
        raise UsageError(
            'several runs in one command train on one device each; set trainer.devices to 1, or start the runs one by '
            'one with --data.fold [i,n] and --seed_everything'
        )


def _run(settings: Settings, member: Member, folds: int | None, root: Path) -> Done:
    """Train and test one run, or what is missing of it."""
    changed: dict[str, object] = {
        'trainer.default_root_dir': str(root),
        'trainer.devices': 1,
        'seed_everything': member.seed,
    }
    if member.fold is not None:
        changed['data.fold'] = [member.fold, folds]
    is_begun = any(root.glob('logs/version_*/checkpoints/*.ckpt'))
    execute(retype(settings, 'fit', {**changed, **({'ckpt_path': 'last'} if is_begun else {})}))
    begun = settings._replace(arguments=tuple(without_option(settings.arguments, '--init_from')))
    built = execute(retype(begun, 'test', {**changed, 'ckpt_path': 'best'}))
    assert built is not None
    figures = find_figures(built.trainer, 'test_')
    results = None
    if built.claimed is not None:
        try:
            results, _ = find_results(built.claimed.path, ('test',))
        except SettingsError:  # no classifier
            results = None
    return Done(member, figures, results)


def describe(done: Sequence[Done]) -> list[str]:
    """A table of the runs, with what they reach together.

    Args:
        done: The runs, those of a seed together.
    """
    known = list(dict.fromkeys(name for one in done for name in one.figures))
    names = [name for name in known if not name.endswith(('_low', '_high'))][:_MOST_FIGURES]
    rows = {one.member.name: [one.figures.get(name, math.nan) for name in names] for one in done}
    columns = list(zip(*rows.values()))
    lines = {'': [f'{name:>12.12}' for name in names]}
    lines |= {name: [f'{value:12.4f}' for value in row] for name, row in rows.items()}
    lines['mean'] = [f'{fmean(column):12.4f}' for column in columns]
    if len(done) > 1:
        lines['deviation'] = [f'{stdev(column):12.4f}' for column in columns]
    width = max(map(len, lines))
    shown = ['  '.join([f'{name:{width}}', *cells]) for name, cells in lines.items()]
    return [f'{len(done)} runs, test split', *shown, *_describe_examples(done)]


def _describe_examples(done: Sequence[Done]) -> list[str]:
    """The pooled examples of classifiers: of each seed, beside its baselines, and the mean over seeds."""
    if any(one.results is None for one in done):
        return []
    seeds = list(dict.fromkeys(one.member.seed for one in done))
    pooled = {
        seed: pool([one.results for one in done if one.member.seed == seed and one.results is not None])
        for seed in seeds
    }
    lines = []
    for seed, whole in pooled.items():
        rows = class_table(whole.systems, whole.labels, whole.task, whole.groups)
        title = f'seed {seed}: {len(whole.ids):,} examples, each tested once'
        lines += describe_table(rows, title, whole.task) + describe_classes(whole.own, whole.labels, whole.task)
    return lines + describe_mean(list(pooled.values()))
