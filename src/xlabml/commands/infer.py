"""`xlab-infer CKPT PROMPT`: a trained model continues a text on the terminal; or embeds and finds the texts of files.

Lightning is never loaded, torch late.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterable, Sequence

from . import classifying, embedding_arguments, ngrams, ranking
from .arguments import Parser, add_common, count, import_modules, number
from .errors import EXIT_STATUS, report_errors, typed_paths
from .output import visible

PROGRAM = 'xlab-infer'

_DRAWING = {'temperature': ('-T', 1.0), 'top_k': ('-k', None), 'top_p': ('-p', None), 'seed': ('-s', None)}
_BEAM = {'beam_width': ('-w', 10), 'length_penalty': ('-z', 0.0)}
_OF_GENERATION = {
    'runs': '-n',
    'limit': '-l',
    'greedy': '-g',
    'beam': '-b',
    'continued': '-c',
    'tokenizer': '-t',
    'meta': '--meta',
    'guidance': '--guidance',
    'ngram': '--ngram',
    **{name: flag for name, (flag, _) in (_DRAWING | _BEAM).items()},
}
"""Flags that say how a text is continued."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; None takes the arguments from the command line.

    Returns:
        The exit status: 0; 2 if the arguments are wrong; 130 after Ctrl-C; 1 after any other error.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return report_errors(PROGRAM, lambda: _run(given), '--debug' in given)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the arguments, and refuse those that would have no effect.

    Raises:
        UsageError: One of them is wrong.
    """
    parser = Parser(
        PROGRAM,
        description='Let a trained language model continue a text; or, with --embed or --search, let an embedder make '
        'vectors of the texts of a file, or find those that are nearest to a query.',
        epilog=f'With CKPT {classifying.FLAG} TEXT a classifier labels texts; with CKPT TEXT {ranking.FLAG} KEY a '
        f'model that was trained with metadata finds that of a text. {EXIT_STATUS}.',
    )
    add = parser.add_argument
    add(
        'ckpt',
        metavar='CKPT',
        nargs='?',
        help="a checkpoint, an exported file or a run's folder; 'last', 'best': of the newest run below here",
    )
    add('prompt', metavar='PROMPT', nargs='?', help='what the text begins with; with --search, the query')
    add('-n', '--runs', type=count(), help='how many texts to make (default: 1)')
    add('-l', '--limit', type=count(0), help='tokens to add at the most (default: 100)')
    positive = number('above 0', lambda value: 0 < value < math.inf)
    add('-T', '--temperature', type=positive, help='above 1 more daring, below 1 less so (default: 1)')
    add('-k', '--top-k', type=count(), help='draw from the K likeliest tokens only (default: from all)')
    share = number('above 0, at most 1', lambda value: 0 < value <= 1)
    add('-p', '--top-p', type=share, help='draw from the likeliest tokens that make up this share (default: 1, all)')
    add('-s', '--seed', type=count(0, 2**63 - 1), help='the same gives the same texts (default: new ones every time)')
    search = parser.add_mutually_exclusive_group()
    search.add_argument('-g', '--greedy', action='store_true', help='always the likeliest token')
    search.add_argument('-b', '--beam', action='store_true', help='the likeliest text that beam search finds')
    add('-w', '--beam-width', type=count(), help='how many texts beam search keeps side by side (default: 10)')
    penalty = number('in -10..10', lambda value: -10 <= value <= 10)
    add('-z', '--length-penalty', type=penalty, help='above 0 for longer texts, below 0 for shorter (default: 0)')
    add('-c', '--continued', action='store_true', help='the prompt is the middle of a text: no start token before it')
    add('-d', '--device', default='auto', help='cpu, cuda, cuda:1 … (default: auto, a GPU if there is one)')
    add('-t', '--tokenizer', metavar='PATH', help='a tokenizer to use instead of the one in the checkpoint')
    add(
        '--meta',
        metavar='KEY=VALUE',
        action='append',
        help='what is known of the text, as title="…"; several times for several keys, which are those of the training',
    )
    add(
        '--guidance',
        metavar='W',
        action='append',
        help='how much --meta counts: 1 as in training, more exaggerates; KEY=W for one key (default: as in training)',
    )
    add(
        '--ngram',
        metavar='FOLDER',
        action='append',
        help='mix the model with the n-grams of texts, as xlab-manage ngram writes them; may be repeated',
    )
    embedding_arguments.add(parser)
    add_common(parser)
    options = parser.parse_intermixed_args(arguments)  # the query stands behind --search FILE
    if options.ckpt is None:
        parser.error('the following arguments are required: CKPT, PROMPT')
    if embedding_arguments.settle(parser, options, _OF_GENERATION):
        return options
    if options.prompt is None:
        parser.error('the following arguments are required: PROMPT')
    options.meta = _pairs(parser, '--meta', options.meta or [])
    options.guidance = _weights(parser, options.guidance or [])
    if options.guidance is not None and options.beam:
        parser.error('--guidance would have no effect: beam search, -b, has none')
    options.runs = 1 if options.runs is None else options.runs
    options.limit = 100 if options.limit is None else options.limit

    useless: dict[str, str] = {}
    if options.greedy or options.beam:
        useless |= dict.fromkeys(_DRAWING, 'nothing is drawn with ' + ('-g' if options.greedy else '-b'))
    if not options.beam:
        useless |= dict.fromkeys(_BEAM, 'it is for beam search, -b')
    for name, (flag, default) in (_DRAWING | _BEAM).items():
        if getattr(options, name) is None:
            setattr(options, name, default)
        elif name in useless:
            parser.error(f'{flag} would have no effect: {useless[name]}')
    return options


def _pairs(parser: Parser, flag: str, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition('=')
        if not key or not equals:
            parser.error(f'{flag} is {one!r}; give it as KEY=VALUE')
        if key in found:
            parser.error(f'{flag} has {key} twice; give it once')
        found[key] = value
    return found


def _weights(parser: Parser, given: Sequence[str]) -> float | dict[str, float] | None:
    """One weight, one for each key, or none."""
    if not given:
        return None
    if len(given) == 1 and '=' not in given[0]:
        return _weight(parser, given[0])
    return {key: _weight(parser, value) for key, value in _pairs(parser, '--guidance', given).items()}


def _weight(parser: Parser, given: str) -> float:
    try:
        weight = float(given)
    except ValueError:
        weight = math.nan
    if not -100 <= weight <= 100:
        parser.error(f'--guidance is {given!r}; give a number in -100..100, or KEY=NUMBER')
    return weight


def infer(options: argparse.Namespace) -> None:
    """Continue the prompt `--runs` times, and write each text as it is made."""
    import torch

    from xlabml.pipelines import TextGenerator

    import_modules(options)
    with typed_paths():
        generator = TextGenerator.load(options.ckpt, options.device, options.tokenizer)
        if options.ngram:
            ngrams.mix(generator, options.ngram, options.ckpt)
    seed = None if options.seed is None else torch.Generator().manual_seed(options.seed)  # one for all runs
    drawing = (options.temperature, options.top_k, options.top_p, seed)
    for run in range(options.runs):
        pieces: Iterable[str]
        if options.beam:
            beam = (options.beam_width, options.length_penalty)
            pieces = [generator.beam(options.prompt, options.limit, *beam, options.continued, options.meta)]
        else:
            pieces = generator.stream(
                options.prompt,
                options.limit,
                *drawing,
                greedy=options.greedy,
                continued=options.continued,
                meta=options.meta,
                guidance=options.guidance,
            )
        _write(('---\n' if run else '') + options.prompt)
        for piece in pieces:
            _write(piece)
        _write('\n')


def _run(arguments: list[str]) -> int:
    try:
        if classifying.FLAG in arguments:
            classifying.classify(classifying.parse(PROGRAM, arguments), _write)
            return 0
        if ranking.is_asked(arguments):
            ranking.rank(ranking.parse(PROGRAM, arguments), _write)
            return 0
        options = parse(arguments)
        if options.embed is not None or options.search is not None:
            embedding_arguments.run(options)
            return 0
        try:
            infer(options)
        except KeyboardInterrupt:  # the text that stands there is enough
            return 130
    except BrokenPipeError:
        # Whoever read has seen enough; what Python still wants to flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _write(text: str) -> None:
    sys.stdout.write(visible(text, sys.stdout.encoding or 'utf-8'))
    sys.stdout.flush()
