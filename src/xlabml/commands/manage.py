"""`xlab-manage TASK …`: checkpoints exported and converted, and runs described."""

import argparse
import sys

from . import class_reports, converting, dimensions, distilling, mining, ngrams, projecting
from .arguments import Parser, add_common, import_modules
from .errors import EXIT_STATUS, report_errors, typed_paths

PROGRAM = 'xlab-manage'


def main(arguments: list[str] | None = None) -> int:
    """Run the command; None takes the arguments from the command line.

    Returns:
        The exit status: 0; 2 if the arguments are wrong; 130 after Ctrl-C; 1 after any other error.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return report_errors(PROGRAM, lambda: _run(given), '--debug' in given)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the arguments; `run` is the function of the task that they name.

    Raises:
        UsageError: One of them is wrong.
    """
    parser = Parser(PROGRAM, description='Export and convert checkpoints, or describe runs.', epilog=f'{EXIT_STATUS}.')
    tasks = parser.add_subparsers(title='tasks', metavar='TASK', required=True)
    task = tasks.add_parser(
        'export-checkpoint',
        help='write weights, settings and tokenizer, and nothing else',
        description='Write the weights, settings and tokenizer of a checkpoint, and nothing else, as safetensors. '
        'The file opens wherever a checkpoint does, but training cannot be resumed from it.',
    )
    task.add_argument('ckpt', metavar='CKPT', help="a checkpoint; 'last', 'best': of the newest run below this folder")
    task.add_argument('--output', metavar='PATH', help='(default: beside it, named by the hash of what is written)')
    task.set_defaults(run=export_checkpoint)
    task = tasks.add_parser(
        'describe',
        help='describe runs in text and plots',
        description='Print settings and results of runs, and write them as text, plots (PNG) and one HTML page, into a '
        'folder of its own. Works on a run that is still training, or was cut off. Needs matplotlib (the extra '
        '`plots`).',
    )
    task.add_argument(
        'runs',
        metavar='RUN',
        nargs='+',
        help="a run's folder (logs/version_N); a folder of several, for its newest ten; 'last': the newest run below "
        'this folder',
    )
    task.add_argument('--output', metavar='FOLDER', help='(default: describe, in the folder of the run, or beside it)')
    task.set_defaults(run=describe)
    class_reports.add_tasks(tasks)
    converting.add_tasks(tasks)
    dimensions.add_task(tasks)
    distilling.add_task(tasks)
    mining.add_task(tasks)
    ngrams.add_task(tasks)
    projecting.add_task(tasks)
    for task in tasks.choices.values():
        add_common(task)
    return parser.parse_args(arguments)


def export_checkpoint(options: argparse.Namespace) -> None:
    """Write a checkpoint without what only training needs, and say what was written."""
    from pathlib import Path

    from xlabml import checkpoints
    from xlabml.finite import describe_nonfinite

    with typed_paths():
        path = checkpoints.find(options.ckpt, Path())
        with checkpoints.naming_another(options.ckpt, path):
            export = checkpoints.export(path, options.output)
    if export.nonfinite:
        found = describe_nonfinite(export.nonfinite)
        print(f'{PROGRAM}: {path} has weights that are not finite (NaN or infinity): {found}', file=sys.stderr)
    print(f'{export.path}\n{export.n_bytes} bytes\nsha256 {export.sha256}')


def describe(options: argparse.Namespace) -> None:
    """Print a report of runs, write it with its plots, and say where."""
    from pathlib import Path

    from xlabml.reports.facts import text
    from xlabml.reports.page import write_report
    from xlabml.reports.runs import find_folders, read_runs

    with typed_paths():
        folders = find_folders(options.runs, Path())
    beside = folders[0] / 'describe'
    if len(folders) > 1:
        named = [folder.name for folder in folders[:3]] + ([f'{len(folders) - 3}-more'] if len(folders) > 3 else [])
        beside = folders[0].parent / '-'.join(['describe', *named])
    runs = read_runs(folders)
    print(text(runs))
    for path in write_report(runs, beside if options.output is None else Path(options.output)):
        print(path)


def _run(arguments: list[str]) -> int:
    options = parse(arguments)
    import_modules(options)
    options.run(options)
    return 0
