"""`xlab-manage mine CKPT FILE`: hard negatives for the pairs of a file, found by an embedder."""

import argparse
import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xlabml.blank import is_blank

from .arguments import Parser, count, number
from .cut_texts import CutTexts
from .errors import UsageError, typed_paths, usage_errors

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from xlabml.pipelines import TextClassifier, TextEmbedder
    from xlabml.pipelines.mining import Pair, Rescore


class Texts(NamedTuple):
    """What is mined.

    Args:
        pairs: Each query with the texts that answer it, in order.
        corpus: Where negatives come from, each text once.
    """

    pairs: list['Pair']
    corpus: list[str]


def add_task(tasks: '_SubParsersAction[Parser]') -> None:
    """Add the task to those of `xlab-manage`."""
    task = tasks.add_parser(
        'mine',
        help='find hard negatives for the pairs of a file',
        description='For each query of FILE, find the texts that are nearest to it and do not answer it, and write '
        'them with the pair as a line of JSON with the roles anchor, positive and negatives. The texts are '
        "the positives of FILE, or of --corpus. FILE may be a folder of BEIR's, which has its own corpus and columns.",
    )
    option = task.add_argument
    option('ckpt', metavar='CKPT', help="a checkpoint; 'last', 'best': of the newest run of an embedder")
    option('file', metavar='FILE', help="jsonl, json, csv, tsv, parquet or arrow; or a folder in BEIR's layout")
    option('--output', metavar='PATH', type=Path, required=True, help='the file to write, .jsonl')
    option('--anchor', metavar='COLUMN', help='where the query is (default: anchor)')
    option('--positive', metavar='COLUMN', help='where its answer is, or a list of them (default: positive)')
    option('--corpus', metavar='FILE', help='where negatives come from: txt (a text a line) or a table')
    option('--column', help='of --corpus: where the text is (default: text)')
    option('--split', help="of a folder of BEIR's: the name of the file in qrels/ (default: train)")
    option('-n', '--negatives', type=count(), default=5, help='the most of a query (default: 5)')
    option(
        '--ranks',
        type=count(),
        nargs=2,
        metavar=('FIRST', 'LAST'),
        default=(1, 100),
        help='only texts of these ranks, from 1, those that answer the query not counted (default: 1 100)',
    )
    share = number('0 or more', lambda value: 0 <= value < math.inf)
    option('--absolute-margin', metavar='M', type=share, help="only scores of at most the positive's minus M")
    option(
        '--relative-margin', metavar='M', type=share, help="only scores of at most p - M |p|, p being the positive's"
    )
    option('--sample', action='store_true', help='draw the negatives; else the nearest are taken')
    option('-s', '--seed', type=count(0, 2**63 - 1), help='of --sample (default: 0)')
    option(
        '--rescore',
        metavar='CKPT',
        help='another embedder, or a classifier of two texts, by whose scores margins and order go',
    )
    option(
        '--layout',
        choices=('roles', 'flag'),
        default='roles',
        help="columns: anchor, positive, negatives, scores; flag: FlagEmbedding's query, pos, neg, pos_scores, "
        'neg_scores (default: roles)',
    )
    option('--batch-tokens', type=count(), metavar='N', help='tokens of a pass (default: 4096; on a GPU 32768)')
    option('-d', '--device', default='auto', help='cpu, cuda … (default: auto, a GPU if there is one)')
    task.set_defaults(run=mine)


def mine(options: argparse.Namespace) -> None:
    """Write the negatives, and print in a line what was found and what was dropped."""
    from xlabml.pipelines import TextEmbedder
    from xlabml.pipelines.mining import Miner, Rules, check_output, write_negatives
    from xlabml.pipelines.reranking import require_one_vector

    from .pair_files import embed_with

    if options.seed is not None and not options.sample:
        raise UsageError('--seed would have no effect: nothing is drawn without --sample')
    first, last = options.ranks
    rules = Rules(
        options.negatives,
        first,
        last,
        options.absolute_margin,
        options.relative_margin,
        options.sample,
        options.seed or 0,
    )
    rules.check()
    with typed_paths():
        check_output(options.output)
        embedder = TextEmbedder.load(options.ckpt, options.device)
        require_one_vector(embedder, options.ckpt)
        other = None if options.rescore is None else _load_rescorer(options.rescore, options.device)
        texts = _read(options)
    cut = CutTexts()
    vectors = embed_with(embedder, 'document', cut, 'corpus', options.batch_tokens)(texts.corpus)
    answers: dict[str, set[str]] = defaultdict(set)
    for pair in texts.pairs:
        answers[pair.query].update(pair.positives)
    miner = Miner(
        texts.corpus,
        vectors,
        embed_with(embedder, 'query', cut, 'queries', options.batch_tokens),
        embed_with(embedder, 'document', cut, 'positives', options.batch_tokens),
        rules,
        None if other is None else _rescore_by(other, texts.corpus, cut, options.batch_tokens),
    )
    with typed_paths():
        write_negatives(options.output, miner.mine(texts.pairs, answers.__getitem__), options.layout)
    print(f'{options.output}: {miner.counts}')
    cut.report()


def _read(options: argparse.Namespace) -> Texts:
    """The pairs and the corpus.

    Raises:
        UsageError: An option does not go with the file.
        DataError: A text is empty, or there is no pair.
    """
    from xlabml.data import BeirFolder
    from xlabml.data.sources.beir import read_corpus

    from .corpus import Corpus
    from .pair_files import pairs_of, read_pairs

    is_beir = Path(options.file).is_dir() and any(Path(options.file).glob('qrels*'))
    for name, is_used, why in (
        ('anchor', not is_beir, "BEIR's columns have names of their own"),
        ('positive', not is_beir, "BEIR's columns have names of their own"),
        ('corpus', not is_beir, f'{options.file} has its own corpus'),
        ('split', is_beir, f'{options.file} is no folder of BEIR'),
        ('column', options.corpus is not None, 'it is of --corpus'),
    ):
        if getattr(options, name) is not None and not is_used:
            raise UsageError(f'--{name} would have no effect: {why}')
    anchor = options.anchor or ('query' if is_beir else 'anchor')
    positive = options.positive or 'positive'
    if is_beir:
        pairs = list(pairs_of(BeirFolder(options.file, options.split or 'train'), anchor, positive))
    else:
        pairs = read_pairs(options.file, anchor, positive)
    if is_beir:
        corpus = dict.fromkeys(text for _, text in read_corpus(options.file) if not is_blank(text))
    elif options.corpus is not None:
        corpus = dict.fromkeys(Corpus(options.corpus, options.column or 'text').texts())
    else:
        corpus = dict.fromkeys(text for pair in pairs for text in pair.positives)
    return Texts(pairs, list(corpus))


def _load_rescorer(ckpt: str, device: str) -> 'TextEmbedder | TextClassifier':
    """What --rescore names: a classifier of two texts, or another embedder."""
    from xlabml import checkpoints
    from xlabml.pipelines import TextClassifier, TextEmbedder
    from xlabml.pipelines.reranking import check_scores, require_one_vector

    path = checkpoints.find(ckpt, Path()) if Path(ckpt).exists() else None
    network = None if path is None else checkpoints.load(path).network
    with usage_errors():
        if network is not None and network.class_path.endswith('.SequenceClassifier'):
            classifier = TextClassifier.load(ckpt, device)
            check_scores(classifier)
            return classifier
        embedder = TextEmbedder.load(ckpt, device)
        require_one_vector(embedder, f'--rescore {ckpt}')
        return embedder


def _rescore_by(
    model: 'TextEmbedder | TextClassifier', corpus: list[str], cut: CutTexts, batch_tokens: int | None
) -> 'Rescore':
    """The score of a classifier of two texts, or the cosine of query and text by another embedder."""
    import numpy as np

    from xlabml.pipelines import TextClassifier
    from xlabml.pipelines.reranking import pair_scores

    from .pair_files import embed_with

    if isinstance(model, TextClassifier):
        classifier = model
        return lambda pairs: pair_scores(classifier, pairs)
    embedder = model

    embed_queries = embed_with(embedder, 'query', cut, 'queries of --rescore', batch_tokens)
    embed_documents = embed_with(embedder, 'document', cut, 'texts of --rescore', batch_tokens)
    vectors = embed_documents(corpus)
    row = {text: i for i, text in enumerate(corpus)}

    def rescore(pairs: list[tuple[str, str]]) -> list[float]:
        queries = {query: i for i, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
        others = {text: i + len(corpus) for i, text in enumerate(dict.fromkeys(t for _, t in pairs if t not in row))}
        documents = np.concatenate([vectors, embed_documents(list(others))]) if others else vectors
        place = row | others if others else row
        of_queries = embed_queries(list(queries))[[queries[query] for query, _ in pairs]]
        scores: list[float] = (of_queries * documents[[place[text] for _, text in pairs]]).sum(axis=1).tolist()
        return scores

    return rescore
