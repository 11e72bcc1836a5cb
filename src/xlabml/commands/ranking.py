"""`xlab-infer CKPT --rank-meta KEY`: the values of a type of metadata that texts have, as a language model has it."""

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from .arguments import Parser, add_common, import_modules
from .errors import EXIT_STATUS, UsageError, typed_paths

FLAG = '--rank-meta'
_AT_A_TIME = 64


def is_asked(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for this."""
    return any(one == FLAG or one.startswith(f'{FLAG}=') for one in arguments)


def parse(program: str, arguments: list[str]) -> argparse.Namespace:
    """Read the arguments.

    Raises:
        UsageError: One of them is wrong.
    """
    parser = Parser(
        program,
        description='The probability of each value of a type of metadata, such as topic, for a text: by how probable a '
        'language model that was trained with metadata finds the text behind each value, calibrated on the validation '
        'of its training.',
        epilog=f'{EXIT_STATUS}.',
    )
    add = parser.add_argument
    add('ckpt', metavar='CKPT', help="a checkpoint or an exported file; 'last', 'best': of the newest run below here")
    add('text', metavar='TEXT', nargs='?', help='the text; or give --file')
    add(FLAG, metavar='KEY', required=True, help='the type, one that has few values in training')
    add('--file', metavar='FILE', help='txt (a text a line), jsonl, json, csv, tsv, parquet or arrow')
    add('--column', default='text', help='where the text is, in tables (default: text)')
    add('--json', action='store_true', help='write JSON lines, with the probability of every value')
    add('-d', '--device', default='auto', help='cpu, cuda, cuda:1 … (default: auto, a GPU if there is one)')
    add_common(parser)
    options = parser.parse_intermixed_args(arguments)
    if (options.text is None) == (options.file is None):
        parser.error('give a text or --file' if options.text is None else 'a text and --file are both given; leave one')
    return options


def rank(options: argparse.Namespace, write: Callable[[str], None]) -> None:
    """Write the values of the text, one a line; of a file, a line for each text, with its most probable value.

    Raises:
        UsageError: There is no such file.
    """
    if options.file is not None and not Path(options.file).is_file():
        raise UsageError(f'--file {options.file} is no file')
    from xlabml.pipelines import MetadataRanker

    from .corpus import Corpus

    import_modules(options)
    with typed_paths():
        ranker = MetadataRanker.load(options.ckpt, options.device)
        ranker.posterior(options.rank_meta)
        texts = iter([options.text]) if options.file is None else Corpus(options.file, options.column).texts()
        while some := list(islice(texts, _AT_A_TIME)):
            for found in ranker.rank(some, options.rank_meta):
                if options.json:
                    write(json.dumps(found, ensure_ascii=False) + '\n')
                elif options.file is None:
                    width = max(map(len, found))
                    write(''.join(f'{value:{width}}  {prob:.3f}\n' for value, prob in found.items()))
                else:
                    value, prob = next(iter(found.items()))
                    write(f'{value}\t{prob:.3f}\n')
