"""`xlab-manage distill CKPT FILE`: a table of token vectors that stands in for an encoder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Parser, count
from .errors import typed_paths

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_task(tasks: '_SubParsersAction[Parser]') -> None:
    """Add the task to those of `xlab-manage`."""
    task = tasks.add_parser(
        'distill',
        help='make fast token vectors of an encoder',
        description='Fit a vector for each token, so that the mean of those of a text is what the encoder makes of it. '
        'The file that is written embeds and searches as a checkpoint does, without a trunk. Give texts like those '
        'that will be embedded, queries and documents; one in ten is held out and decides how closely the rest is '
        'fitted.',
    )
    task.add_argument('ckpt', metavar='CKPT', help="a checkpoint; 'last', 'best': of the newest run of an embedder")
    task.add_argument('file', metavar='FILE', help='txt (a text a line), jsonl, json, csv, tsv, parquet or arrow')
    task.add_argument('--output', metavar='PATH', type=Path, required=True, help='the file to write, as safetensors')
    task.add_argument(
        '--column',
        metavar='COLUMN',
        nargs='+',
        default=['text'],
        help='where texts are, in tables; several are taken one after the other (default: text)',
    )
    task.add_argument('--most', type=count(), help='only the first texts of each column (default: all)')
    task.add_argument('--dim', type=count(), metavar='N', help='width of the vectors (default: that of the encoder)')
    task.add_argument('--prompt', metavar='NAME', help='a prompt of the encoder, before each text (default: none)')
    task.add_argument('-d', '--device', default='auto', help='cpu, cuda … (default: auto, a GPU if there is one)')
    task.set_defaults(run=distill)


def distill(options: argparse.Namespace) -> None:
    """Write the file, and say how near its vectors are to those of the encoder."""
    from itertools import islice

    from xlabml import checkpoints
    from xlabml.pipelines import TextEmbedder
    from xlabml.pipelines.distilling import distill, save
    from xlabml.pipelines.reranking import require_one_vector

    from .corpus import Corpus

    with typed_paths():
        checkpoints.check_target(options.output)
        embedder = TextEmbedder.load(options.ckpt, options.device)
        require_one_vector(embedder, options.ckpt)
        texts = [
            text
            for column in dict.fromkeys(options.column)
            for text in islice(Corpus(options.file, column).texts(), options.most)
        ]
    made = distill(embedder, texts, options.dim, options.prompt)
    with typed_paths():
        export = save(made.network, embedder.tokenizer, options.output)
    network = made.network
    print(
        f'{network.n_vocab:,} token vectors of {network.d_vector}, which keep {made.kept:.1%} of what {made.n_texts:,} '
        f'texts are to the encoder; mean cosine with it on {made.n_held_out:,} texts held out: {made.cosine:.3f} '
        f'(tokens embedded alone: {made.prior_cosine:.3f})'
    )
    print(f'{export.path}\n{export.n_bytes} bytes\nsha256 {export.sha256}')
