"""`xlab-infer CKPT --classify TEXT`: a classifier labels texts on the terminal."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Parser, add_common, import_modules
from .errors import EXIT_STATUS, UsageError, typed_paths

if TYPE_CHECKING:
    from xlabml.pipelines import Prediction

FLAG = '--classify'
_AT_A_TIME = 256


def parse(program: str, arguments: list[str]) -> argparse.Namespace:
    """Read the arguments.

    Raises:
        UsageError: One of them is wrong.
    """
    parser = Parser(
        program,
        description='Label texts: a line for each, with the class, its probability, and the set of classes that holds '
        'the true one at the coverage that the checkpoint was calibrated for.',
        epilog=f'{EXIT_STATUS}.',
    )
    add = parser.add_argument
    add(
        'ckpt',
        metavar='CKPT',
        help="a checkpoint or an exported file; 'last', 'best': of the newest run of a classifier below this folder",
    )
    add(FLAG, metavar='TEXT', nargs='?', help='the text; without it each line of standard input, or of --file, is one')
    add('--file', metavar='PATH', help='a file with a text in each line')
    add('--json', action='store_true', help='write JSON lines, with the probability of every class')
    add('-d', '--device', default='auto', help='cpu, cuda, cuda:1 … (default: auto, a GPU if there is one)')
    add_common(parser)
    options = parser.parse_args(arguments)
    if options.classify is not None and options.file is not None:
        parser.error('a text and --file are both given; leave one out')
    return options


def classify(options: argparse.Namespace, write: Callable[[str], None]) -> None:
    """Label the text or the lines, and write a line for each as it is found.

    Raises:
        UsageError: There is no such file.
    """
    from xlabml.pipelines import TextClassifier

    import_modules(options)
    with typed_paths():
        classifier = TextClassifier.load(options.ckpt, options.device)
    texts = iter([options.classify]) if options.classify is not None else _lines(options.file)
    while some := list(islice(texts, _AT_A_TIME)):
        for prediction in classifier.predict(some):
            write((_as_json(prediction) if options.json else _as_text(prediction)) + '\n')


def _lines(path: str | None) -> Iterator[str]:
    if path is None:
        yield from (line for line in map(_strip, sys.stdin) if line)
        return
    if not Path(path).is_file():
        raise UsageError(f'--file {path} is no file')
    with Path(path).open(encoding='utf-8') as file:
        yield from (line for line in map(_strip, file) if line)


def _strip(line: str) -> str:
    return line.rstrip('\r\n')


def _as_text(found: 'Prediction') -> str:
    cut = f'\t({found.n_cut} tokens cut)' if found.n_cut else ''
    if found.number is not None:
        return f'{found.number:g}{cut}'
    shown = ', '.join(f'{name}\t{found.probabilities[name]:.3f}' for name in found.labels) or 'none'
    if found.in_set:
        shown += f'\tset: {", ".join(found.in_set)}'
    return shown + ('' if found.answered else '\t(not certain)') + cut


def _as_json(found: 'Prediction') -> str:
    return json.dumps(found._asdict(), ensure_ascii=False)
