"""`xlab-manage errors` and `compare`: what classifiers said of each example, as `xlab test` and `fit` wrote it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Parser, count
from .errors import UsageError, typed_paths
from .output import visible

if TYPE_CHECKING:
    from xlabml.evaluation.class_errors import Mistake
    from xlabml.evaluation.class_results import ClassResults
    from xlabml.plain import PlainDict

_WIDTH = 20


def add_tasks(tasks: 'argparse._SubParsersAction[Parser]') -> None:
    """Add both."""
    task = tasks.add_parser(
        'errors',
        help='list the most confident mistakes of a classifier, and probable errors of labels',
        description='List the most confident mistakes of a classifier on its test split (else val), and the examples '
        'whose label is probably wrong: of another class that is as probable as it is for those of that class '
        '(confident learning). Reads what `xlab test` wrote into the folder of the run.',
    )
    task.add_argument(
        'ckpt',
        metavar='CKPT',
        help="a checkpoint, or a run's folder; 'last', 'best': of the newest run of a classifier below this folder",
    )
    task.add_argument('--most', type=count(), default=20, metavar='N', help='how many of each (default: 20)')
    task.add_argument('--split', choices=('test', 'val'), help='(default: test, where it was tested, else val)')
    task.add_argument('--output', metavar='PATH', help='write all of them to a file, .jsonl, .csv or .parquet')
    task.set_defaults(run=errors)
    task = tasks.add_parser(
        'compare',
        help='compare classifiers on the examples that all have scored',
        description='Make the table of several runs of classifiers on the examples that all of them scored, with 95 % '
        'bootstrap intervals, those of differences paired; and the baselines of the first. Reads what `xlab test` (or '
        'fit, with --split val) wrote into the folders of the runs.',
    )
    task.add_argument('runs', metavar='RUN', nargs='+', help="a run's folder (logs/version_N); the first is the base")
    task.add_argument('--split', choices=('test', 'val'), default='test', help='(default: test)')
    task.set_defaults(run=compare)


def errors(options: argparse.Namespace) -> None:
    """Print mistakes and probable label errors; with --output, write all."""
    from xlabml.artifacts import tables
    from xlabml.evaluation.class_errors import confident_mistakes, probable_label_errors
    from xlabml.evaluation.class_results import find_results

    output = None if options.output is None else Path(options.output)
    if output is not None:
        tables.check_ending(output, '--output')
        if output.exists():
            raise UsageError(f'--output {output} is there already; delete it, or name another')
    with typed_paths():
        results, split = find_results(
            _folder_of(options.ckpt), ('test', 'val') if options.split is None else (options.split,)
        )
    n = len(results.ids)
    mistakes = confident_mistakes(results, n * max(1, len(results.classes)))
    suspects = probable_label_errors(results)
    print(f'{split}: {n:,} examples, {len(mistakes):,} mistakes, the most confident first')
    _print(mistakes[: options.most], results)
    if results.task in ('single-label', 'ordinal'):
        print(f'{len(suspects):,} labels that are probably wrong, the clearest first')
        _print(suspects[: options.most], results)
    if output is not None:
        rows = [*_rows(mistakes, results, 'mistake'), *_rows(suspects, results, 'probable label error')]
        print(f'{output}: {tables.write_rows(output, rows):,} rows')


def compare(options: argparse.Namespace) -> None:
    """Print a table of runs."""
    import torch

    from xlabml.evaluation.class_results import find_results
    from xlabml.evaluation.class_table import class_table, describe_table

    with typed_paths():
        folders = [_folder_of(run) for run in options.runs]
        twice = [typed for typed, folder in zip(options.runs, folders) if folders.count(folder) > 1]
        if twice:
            raise UsageError(f'{twice[0]} is named twice; name each run once')
        found = [find_results(folder, (options.split,))[0] for folder in folders]
    names = name_runs(folders)
    first = found[0]
    for name, one in zip(names[1:], found[1:]):
        if (one.task, one.classes) != (first.task, first.classes):
            raise UsageError(
                f'{names[0]} is {first.task} of {", ".join(first.classes) or "a number"}, but {name} is {one.task} of '
                f'{", ".join(one.classes) or "a number"}; compare runs of one task'
            )
    places = [{key: i for i, key in enumerate(one.keys)} for one in found]
    shared = [key for key in first.keys if all(key in known for known in places)]
    if not shared:
        raise UsageError(f'{", ".join(names)} scored no example in common; test them on one set of data')
    picked = [one.picked(torch.tensor([known[key] for key in shared])) for one, known in zip(found, places)]
    for name, one in zip(names[1:], picked[1:]):
        if not torch.equal(one.labels, picked[0].labels):
            raise UsageError(f'{names[0]} and {name} have different labels of the same examples; test them on one set')
    systems = {name: one.own for name, one in zip(names, picked)}
    systems |= {name: outputs for name, outputs in picked[0].systems.items() if name != next(iter(picked[0].systems))}
    left = max(len(one.keys) for one in found) - len(shared)
    title = f'{options.split}: {len(shared):,} examples' + (f' that all have; {left:,} are not in all' if left else '')
    rows = class_table(systems, picked[0].labels, first.task, picked[0].groups)
    print(*describe_table(rows, title, first.task), sep='\n')


def name_runs(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart, at most as wide as a table has room for."""
    parts = [folder.absolute().parts for folder in folders]
    for n in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(one[-n:]) for one in parts]
        if len(set(names)) == len(names):
            break
    short = [name if len(name) <= _WIDTH else f'…{name[1 - _WIDTH :]}' for name in names]
    return short if len(set(short)) == len(short) else [f'{i + 1}: {name[-12:]}' for i, name in enumerate(names)]


def _folder_of(typed: str) -> Path:
    """The folder of a run, from it or from one of its checkpoints."""
    from xlabml import checkpoints
    from xlabml.pipelines.classifier import CLASSIFIER

    folder = Path(typed)
    if folder.is_dir():
        return folder
    path = checkpoints.find(typed, Path(), CLASSIFIER)
    return path.parent.parent if path.parent.name == 'checkpoints' else path.parent


def _print(mistakes: 'Sequence[Mistake]', results: 'ClassResults') -> None:
    encoding = sys.stdout.encoding or 'utf-8'
    for one in mistakes:
        how = f'{one.confidence:.3g} off' if results.task == 'regression' else f'{one.confidence:.1%}'
        line = f'  {results.ids[one.place]}: {one.label}, predicted {one.predicted} ({how})'
        print(visible(line, encoding))
        if results.texts:
            text = ' '.join(results.texts[one.place].split())
            print(visible(f'    {text if len(text) <= 74 else text[:73] + "…"}', encoding))


def _rows(mistakes: 'Sequence[Mistake]', results: 'ClassResults', kind: str) -> 'list[PlainDict]':
    rows: list[PlainDict] = []
    for one in mistakes:
        text = results.texts[one.place] if results.texts else ''
        known: PlainDict = {'id': results.ids[one.place], 'kind': kind, 'label': one.label, 'predicted': one.predicted}
        rows.append({**known, 'confidence': round(one.confidence, 6), 'text': text})
    return rows
