"""`xlab-infer CKPT --classify TEXT`: a classifier labels texts on the terminal, or those of a file."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xlabml.blank import is_blank
from xlabml.plain import Plain

from .arguments import Parser, add_common, import_modules
from .errors import EXIT_STATUS, UsageError, typed_paths

if TYPE_CHECKING:
    from xlabml.pipelines import Prediction, TextClassifier

FLAG = '--classify'
_AT_A_TIME = 256
_MOST_NAMED = 5


class Asked(NamedTuple):
    """An example to label.

    Args:
        name: For people and for files: its row, or what stands in the column of --id.
        where: For messages.
        texts: As TextClassifier.predict takes them; it refuses others.
    """

    name: Plain
    where: str
    texts: Any


def parse(program: str, arguments: list[str]) -> argparse.Namespace:
    """Read the arguments.

    Raises:
        UsageError: One of them is wrong.
    """
    parser = Parser(
        program,
        description='Label texts: a line for each, with the class, its probability, and the set of classes that holds '
        'the true one at the coverage that the checkpoint was calibrated for. A classifier of pairs reads two texts, '
        'one of preferences a prompt and two answers.',
        epilog=f'{EXIT_STATUS}.',
    )
    add = parser.add_argument
    add(
        'ckpt',
        metavar='CKPT',
        help="a checkpoint or an exported file; 'last', 'best': of the newest run of a classifier below this folder",
    )
    add(
        FLAG,
        metavar='TEXT',
        nargs='?',
        help='the text, or a file, as with --file; without it each line of standard input is a text (of several texts '
        'an example: a JSON list of them)',
    )
    add('more', metavar='TEXT', nargs='*', help='the second text of a pair; both answers behind a prompt')
    add('--file', metavar='PATH', help='a txt file with a text a line, or a table: jsonl, json, csv, tsv, parquet')
    add('--columns', metavar='A,B', help="of a table: where the texts are (default: the training data's columns)")
    add('--id', metavar='COLUMN', help='of a table: what names a row in --output (default: its number, from 0)')
    add('--output', metavar='PATH', help='write to a file, .jsonl, .csv or .parquet, what xlab predict writes')
    add('--json', action='store_true', help='write JSON lines, with the probability of every class')
    add('-d', '--device', default='auto', help='cpu, cuda, cuda:1 … (default: auto, a GPU if there is one)')
    add_common(parser)
    options = parser.parse_intermixed_args(arguments)
    if options.classify is not None and options.file is not None:
        parser.error('a text and --file are both given; leave one out')
    if options.classify is not None and not options.more and _is_file(options.classify):
        options.file = options.classify  # who types the name of a file means what is in it
        options.classify = None
    for name in ('columns', 'id'):
        if getattr(options, name) is not None and options.file is None:
            parser.error(f'--{name} would have no effect: it is of --file')
    if options.output is not None and options.json:
        parser.error('--json would have no effect: --output says by its ending what is written')
    return options


def classify(options: argparse.Namespace, write: Callable[[str], None]) -> None:
    """Label the text, the lines or the rows, and write a line for each as it is found, or one file of all.

    Raises:
        UsageError: There is no such file, or the file to write is there.
    """
    from xlabml.artifacts import tables
    from xlabml.pipelines import TextClassifier

    import_modules(options)
    output = None if options.output is None else Path(options.output)
    if output is not None:
        tables.check_ending(output, '--output')
        if output.exists():
            raise UsageError(f'--output {output} is there already; delete it, or name another')
        if not output.parent.is_dir():
            raise UsageError(f'there is no folder {output.parent} for --output {output.name}; make it first')
    if options.file is not None and not Path(options.file).is_file():
        raise UsageError(f'--file {options.file} is no file')
    with typed_paths():
        classifier = TextClassifier.load(options.ckpt, options.device)
    found = _label(classifier, _asked(classifier, options))
    if output is None:
        for _, prediction in found:
            write((_as_json(prediction) if options.json else _as_text(prediction)) + '\n')
        return
    n = tables.write_rows(output, _as_rows(found, classifier.model.task == 'multi-label'))
    print(f'{output}: {n:,} rows')


def _asked(classifier: 'TextClassifier', options: argparse.Namespace) -> Iterator[Asked]:
    """The examples to label."""
    if options.classify is not None:
        texts = (options.classify, *options.more)
        yield Asked(0, 'what was typed', texts[0] if len(texts) == 1 else texts)
        return
    if options.file is None:
        yield from _lines(map(_strip, sys.stdin), 'standard input', classifier)
        return
    from xlabml.data.sources.kinds import TABLES, kind_of

    if kind_of(Path(options.file)) in TABLES:
        yield from _rows(classifier, options)
        return
    for name in ('columns', 'id'):
        if getattr(options, name) is not None:
            raise UsageError(f'--{name} names columns, but --file {options.file} is no table; give a csv or jsonl file')
    with Path(options.file).open(encoding='utf-8') as file:
        yield from _lines(map(_strip, file), options.file, classifier)


def _lines(lines: Iterator[str], name: str, classifier: 'TextClassifier') -> Iterator[Asked]:
    """The lines that are not empty; of several texts an example each is a JSON list, or an object."""
    fields = classifier.framing.fields
    for number, line in enumerate(lines):
        if is_blank(line):
            continue
        where = f'line {number + 1} of {name}'
        if len(fields) == 1:
            yield Asked(number, where, line)
            continue
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, list | dict):
            raise UsageError(
                f'{where} is {line!r:.60}; this classifier reads {len(fields)} texts ({", ".join(fields)}): write a '
                'JSON list of them in each line'
            )
        yield Asked(number, where, tuple(found) if isinstance(found, list) else found)


def _rows(classifier: 'TextClassifier', options: argparse.Namespace) -> Iterator[Asked]:
    """The rows of a table; those with an empty text are left out, and said at the end."""
    from xlabml.data import Location
    from xlabml.data.groups.preference_records import parse_turns

    framing = classifier.framing
    columns = framing.columns if options.columns is None else tuple(options.columns.split(','))
    if len(columns) != len(framing.fields):
        raise UsageError(
            f'--columns names {len(columns)} columns, but this classifier reads {len(framing.fields)} texts '
            f'({", ".join(framing.fields)}); name one for each'
        )
    source = Location(options.file).of_columns(columns)
    empty: list[int] = []
    with typed_paths():
        for document in source.documents([*columns, *([] if options.id is None else [options.id])]):
            where = f'row {document.row} of {options.file}'
            texts = tuple(document.columns[name] for name in columns)
            if framing.is_preference:
                texts = tuple(parse_turns(one, framing.has_turns, name, where) for one, name in zip(texts, columns))
            elif any(one is None or (isinstance(one, str) and is_blank(one)) for one in texts):
                empty.append(document.row)
                continue
            name = document.row if options.id is None else document.columns[options.id]
            yield Asked(_as_plain(name), where, texts[0] if len(texts) == 1 else texts)
    if empty:
        rows = ', '.join(map(str, empty[:_MOST_NAMED])) + (' …' if empty[_MOST_NAMED:] else '')
        print(f'{options.file}: left out {len(empty):,} rows with an empty text ({rows})', file=sys.stderr)


def _label(classifier: 'TextClassifier', asked: Iterator[Asked]) -> Iterator[tuple[Plain, 'Prediction']]:
    """What the classifier says of each example, with its name.

    Raises:
        RequestError: One of them cannot be read; it is named by its place.
    """
    while some := list(islice(asked, _AT_A_TIME)):
        for one in some:
            classifier.framing.fields_of(one.texts, one.where)  # refuses what cannot be read by the name of its place
        yield from zip([one.name for one in some], classifier.predict([one.texts for one in some]))


def _as_rows(found: Iterator[tuple[Plain, 'Prediction']], is_several: bool) -> Iterator[dict[str, Any]]:
    """What is written of each example; a bar counts them."""
    from xlabml.pipelines.bars import progress_bar

    with progress_bar('texts labelled') as advance:
        for name, said in found:
            advance(1)
            yield {'id': name, **said.row(is_several)}


def _is_file(text: str) -> bool:
    """Whether a text is the path of a file, which no long text is."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _strip(line: str) -> str:
    return line.rstrip('\r\n')


def _as_plain(value: object) -> Plain:
    return value if isinstance(value, str | int | float | None) else str(value)


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
