"""`xlab-manage project CKPT FILE`: the vectors of a file's texts as a map."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Parser, count
from .cut_texts import CutTexts
from .errors import typed_paths

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_MOST = 5000


def add_task(tasks: '_SubParsersAction[Parser]') -> None:
    """Add the task to those of `xlab-manage`."""
    task = tasks.add_parser(
        'project',
        help='draw the vectors of texts as a map',
        description='Embed the texts of a file and write map.png, the two axes of largest variance with a colour a '
        "label, and the files of TensorBoard's projector. Needs matplotlib (the extra `plots`).",
    )
    task.add_argument('ckpt', metavar='CKPT', help="a checkpoint; 'last', 'best': of the newest run of an embedder")
    task.add_argument('file', metavar='FILE', help='txt (a text a line), jsonl, json, csv, tsv, parquet or arrow')
    task.add_argument('--output', metavar='FOLDER', type=Path, default=Path('map'), help='(default: map)')
    task.add_argument('--column', default='text', help='where the text is, in tables (default: text)')
    task.add_argument('--label', metavar='COLUMN', help='what the dots are coloured by, in tables')
    task.add_argument('--most', type=count(2), default=_MOST, help=f'only the first texts (default: {_MOST})')
    task.add_argument('-d', '--device', default='auto', help='cpu, cuda … (default: auto, a GPU if there is one)')
    task.set_defaults(run=project)


def project(options: argparse.Namespace) -> None:
    """Draw the map, write the files, and say where."""
    from xlabml.pipelines import TextEmbedder
    from xlabml.pipelines.reranking import require_one_vector
    from xlabml.reports.maps import draw_map, principal_axes, save_map, write_projector

    from .corpus import Corpus

    with typed_paths():
        corpus = Corpus(options.file, options.column)
        texts, labels = corpus.labelled(options.label, options.most)
        embedder = TextEmbedder.load(options.ckpt, options.device)
        require_one_vector(embedder, options.ckpt)
    usual = 'document' if 'document' in embedder.model.prompts else None
    cut = CutTexts()
    with cut.counting(options.file, embedder):
        vectors = embedder.encode(texts, prompt=usual)
    points, share = principal_axes(vectors)
    options.output.mkdir(parents=True, exist_ok=True)
    title = f'{len(texts):,} texts of {Path(options.file).name}; the two axes have {share:.0%} of the variance'
    save_map(draw_map(points, labels, title), options.output / 'map.png')
    write_projector(options.output, vectors, texts, labels)
    print(f'{options.output / "map.png"}\n{title}\ntensorboard --logdir {options.output}')
    cut.report()
