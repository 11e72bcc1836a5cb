"""`xlab-manage dimensions CKPT FILE`: what a search by the first channels of vectors finds, as a picture."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Parser, count
from .cut_texts import CutTexts
from .errors import UsageError, typed_paths

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from xlabml.pipelines import TextEmbedder
    from xlabml.pipelines.mining import Pair

_LEAST = 8
_AT = (1, 10)


def add_task(tasks: '_SubParsersAction[Parser]') -> None:
    """Add the task to those of `xlab-manage`."""
    task = tasks.add_parser(
        'dimensions',
        help='draw what shorter vectors cost a search',
        description='Search for the answers of the queries of a file by the first channels of their vectors, for '
        'several numbers of channels, and draw the recall. Of a model trained with Matryoshka the curve is flat for '
        'long. Needs matplotlib (the extra `plots`).',
    )
    task.add_argument('ckpt', metavar='CKPT', help="a checkpoint; 'last', 'best': of the newest run of an embedder")
    task.add_argument('file', metavar='FILE', help='jsonl, json, csv, tsv, parquet or arrow: one pair a record')
    task.add_argument('--anchor', metavar='COLUMN', default='anchor', help='where the query is (default: anchor)')
    task.add_argument('--positive', metavar='COLUMN', default='positive', help='where its answer is, or a list')
    task.add_argument('--dims', type=count(), nargs='+', metavar='N', help='(default: halves of the width, down to 8)')
    task.add_argument('--most', type=count(2), default=2000, help='only the first pairs (default: 2000)')
    task.add_argument('--output', metavar='PATH', type=Path, default=Path('dimensions.png'), help='the picture')
    task.add_argument('-d', '--device', default='auto', help='cpu, cuda … (default: auto, a GPU if there is one)')
    task.set_defaults(run=draw_dimensions)


def draw_dimensions(options: argparse.Namespace) -> None:
    """Print a line for each number of channels, and write the picture."""
    from xlabml.pipelines import TextEmbedder
    from xlabml.pipelines.reranking import require_one_vector
    from xlabml.reports.maps import save_map
    from xlabml.reports.search_curve import draw_curve

    from .pair_files import read_pairs

    with typed_paths():
        if not options.output.parent.is_dir():
            raise FileNotFoundError(f'there is no folder {options.output.parent} to write a picture to; make it first')
        embedder = TextEmbedder.load(options.ckpt, options.device)
        require_one_vector(embedder, options.ckpt)
        dims = _choose(options.dims, embedder.model.d_vector)
        pairs = read_pairs(options.file, options.anchor, options.positive)[: options.most]
    cut = CutTexts()
    found = recalls(embedder, pairs, dims, cut)
    print(f'{"channels":>8}  ' + '  '.join(f'{name:>6}' for name in found))
    for i, dim in enumerate(dims):
        print(f'{dim:>8}  ' + '  '.join(f'{values[i]:>6.3f}' for values in found.values()))
    save_map(draw_curve(dims, found, f'{len(pairs):,} pairs of {Path(options.file).name}'), options.output)
    print(options.output)
    cut.report()


def recalls(
    embedder: 'TextEmbedder', pairs: Sequence['Pair'], dims: Sequence[int], cut: CutTexts
) -> Mapping[str, list[float]]:
    """R@1 and R@10 of a search among all answers, for each number of channels; equal texts are one, `cut` counts."""
    from xlabml.evaluation import search_figures
    from xlabml.evaluation.ranking import make_relevance

    from .pair_files import embed_with

    relevant: dict[str, set[str]] = {}
    for pair in pairs:
        relevant.setdefault(pair.query, set()).update(pair.positives)
    row = {text: i for i, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair.positives))}
    relevance = make_relevance([sorted(row[text] for text in texts) for texts in relevant.values()])
    queries = embed_with(embedder, 'query', cut, 'queries')(list(relevant))
    documents = embed_with(embedder, 'document', cut, 'answers')(list(row))
    found: dict[str, list[float]] = {f'R@{k}': [] for k in _AT}
    for dim in dims:
        values = search_figures(queries[:, :dim], documents[:, :dim], relevance, _AT, ('recall',))
        for k in _AT:
            found[f'R@{k}'].append(float(values[f'recall_at_{k}'].mean()))
    return found


def _choose(dims: list[int] | None, width: int) -> list[int]:
    """The numbers of channels, rising.

    Raises:
        UsageError: One is more than there are.
    """
    if dims is None:
        return sorted(
            {width >> halvings for halvings in range(width.bit_length()) if width >> halvings >= _LEAST} | {width}
        )
    if max(dims) > width:
        raise UsageError(f'--dims has {max(dims)}, but the vectors have {width} channels; give at most as many')
    return sorted({*dims})
