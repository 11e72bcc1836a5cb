"""The flags of `xlab-infer` that embed and search: what they are, and which go together. torch is loaded late."""

import argparse
from collections.abc import Mapping

from .arguments import Parser, count, import_modules, number

_OF_BOTH: dict[str, tuple[str, str | int | None]] = {
    'column': ('--column', 'text'),
    'document_prompt': ('--document-prompt', None),
    'dim': ('--dim', None),
    'batch_tokens': ('--batch-tokens', None),
    'processes': ('--processes', None),
}
_OF_EMBED: dict[str, tuple[str, str | int | None]] = {
    'output': ('--output', None),
    'dtype': ('--dtype', 'float32'),
    'engine': ('--engine', None),
    'tasks': ('--tasks', None),
    'partition': ('--partition', None),
    'shared_folder': ('--shared-folder', None),
}
_OF_SEARCH: dict[str, tuple[str, str | int | None]] = {
    'results': ('--results', 10),
    'hybrid': ('--hybrid', None),
    'vector_weight': ('--vector-weight', None),
    'bm25_terms': ('--bm25-terms', None),
    'approximate': ('--approximate', None),
    'rerank': ('--rerank', None),
    'candidates': ('--candidates', 100),
}


def add(parser: Parser) -> None:
    """Add the flags; what was not typed is None."""
    group = parser.add_argument_group(
        'vectors', 'FILE is txt (a text a line), jsonl, json, csv, tsv, parquet or arrow, or a folder of them'
    )
    task = group.add_mutually_exclusive_group()
    task.add_argument(
        '--embed', metavar='FILE', help='write the vectors of its texts to --output; resumes after a kill'
    )
    task.add_argument('--search', metavar='FILE', help='find the texts of it that are nearest to PROMPT')
    option = group.add_argument
    option('--output', metavar='PATH', help='of --embed: the file to write, .npy')
    option(
        '--dtype',
        choices=('float32', 'float16', 'int8', 'binary'),
        help='of --embed: of the vectors (default: float32)',
    )
    option(
        '--engine',
        choices=('local', 'ray', 'slurm'),
        help='of --embed: share the corpus out among tasks of an executor of datatrove, the extra `cluster`',
    )
    option('--tasks', type=count(most=1_000_000), metavar='N', help='of --engine: how many (default: one a shard)')
    option('--partition', metavar='NAME', help='of --engine slurm: where the tasks run')
    option('--shared-folder', metavar='PATH', help='of --engine: for the shards (default: beside --output)')
    option('--results', type=count(), metavar='N', help='of --search: how many texts (default: 10)')
    option('--hybrid', action='store_true', default=None, help='of --search: add the scores of BM25 (z-scores of both)')
    option(
        '--vector-weight',
        type=number('from 0 to 1', lambda value: 0 <= value <= 1),
        metavar='W',
        help='of --hybrid: the share of the vectors (default: as chosen in training, else 0.5)',
    )
    option(
        '--bm25-terms',
        choices=('words', 'parts'),
        help='of --hybrid: what BM25 counts, words or parts of them (default: as chosen in training, else words)',
    )
    option(
        '--approximate',
        action='store_true',
        default=None,
        help='of --search: by an index that is kept, for millions of texts; needs faiss, the extra `ann`',
    )
    option('--rerank', metavar='CKPT', help='of --search: order the first texts by this embedder, of tokens or texts')
    option('--candidates', type=count(), metavar='N', help='of --rerank: how many texts it orders (default: 100)')
    option('--column', help='where the text is, in tables (default: text)')
    option('--document-prompt', metavar='NAME', help='a prompt of the model, before each text (default: document)')
    option('--dim', type=count(), metavar='N', help='keep the first N channels of vectors (default: all)')
    option('--batch-tokens', type=count(), metavar='N', help='tokens of a pass (default: 4096; on a GPU 32768)')
    option('--processes', type=count(most=1024), metavar='N', help='processes that share the texts out (default: 1)')


def settle(parser: Parser, options: argparse.Namespace, others: Mapping[str, str]) -> bool:
    """Refuse flags that would have no effect, and put in the defaults of the rest.

    Args:
        others: From the names of flags that continue texts to how they are typed.

    Returns:
        Whether texts are embedded or searched.

    Raises:
        UsageError: Some do not go together, or one is missing.
    """
    embeds = options.embed is not None
    searches = options.search is not None
    useless: dict[str, str] = {}
    if not embeds:
        useless |= dict.fromkeys(_OF_EMBED, 'it is of --embed')
    if not searches:
        useless |= dict.fromkeys(_OF_SEARCH, 'it is of --search')
    if not (embeds or searches):
        useless |= dict.fromkeys(_OF_BOTH, 'it is of --embed and --search')
    else:
        useless |= dict.fromkeys(others, 'nothing is continued with ' + ('--embed' if embeds else '--search'))
    flags = {name: flag for name, (flag, _) in (_OF_BOTH | _OF_EMBED | _OF_SEARCH).items()} | {**others}
    for name, flag in flags.items():
        if name in useless and getattr(options, name) not in (None, False):
            parser.error(f'{flag} would have no effect: {useless[name]}')
    if embeds and options.prompt is not None:
        parser.error(f'{options.prompt!r} would have no effect: --embed takes no PROMPT')
    if embeds and options.output is None:
        parser.error('--embed needs --output PATH, the file to write')
    for name in ('tasks', 'partition', 'shared_folder'):
        if getattr(options, name) is not None and options.engine is None:
            parser.error(f'{_OF_EMBED[name][0]} would have no effect without --engine')
    if (options.engine == 'slurm') != (options.partition is not None):
        parser.error('--engine slurm needs --partition, and no other engine has one')
    if options.engine is not None and options.processes is not None:
        parser.error('--processes would have no effect: --engine has --tasks')
    if searches and not (options.prompt or '').strip():
        parser.error('--search needs a query behind the file: CKPT --search FILE "QUERY"')
    if options.approximate and options.hybrid:
        parser.error('--approximate and --hybrid do not go together: BM25 scores every text')
    for name in ('vector_weight', 'bm25_terms'):
        if getattr(options, name) is not None and not options.hybrid:
            parser.error(f'{_OF_SEARCH[name][0]} would have no effect without --hybrid')
    if options.candidates is not None and options.rerank is None:
        parser.error('--candidates would have no effect without --rerank')
    options.query = options.prompt
    for name, (_, default) in (_OF_BOTH | _OF_EMBED | _OF_SEARCH).items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return embeds or searches


def run(options: argparse.Namespace) -> None:
    """Embed or search."""
    from .embedding import embed, search

    import_modules(options)
    (search if options.embed is None else embed)(options)
