"""`xlab-manage import-checkpoint`, `export-encoder`, …: networks of other libraries and files of ours."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .arguments import Parser, count
from .errors import typed_paths

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_MOST_NAMED = 6

Made = TypeVar('Made')


def add_tasks(tasks: '_SubParsersAction[Parser]') -> None:
    """Add what `xlab-manage` does with folders of other libraries."""
    task = tasks.add_parser(
        'import-checkpoint',
        help='make a checkpoint of a folder of sentence-transformers',
        description='Read a folder that sentence-transformers or transformers saved (BERT, RoBERTa, DistilBERT, '
        'ModernBERT; weights as safetensors, a tokenizer.json) and write it as a file of ours, an exported text '
        'encoder. Nothing in the folder is executed. Where sentence-transformers is installed, its vectors are '
        'compared with ours.',
    )
    task.add_argument('folder', metavar='FOLDER', type=Path, help='what was saved')
    task.add_argument('output', metavar='OUT', type=Path, help='the file to write, as safetensors')
    task.add_argument('--max-len', type=count(3), help='cut texts at this many tokens (default: where the folder says)')
    task.set_defaults(run=import_checkpoint)
    task = tasks.add_parser(
        'export-encoder',
        help='make a folder for sentence-transformers of a text encoder',
        description="Write a text encoder of BERT's or ModernBERT's shape as a folder that sentence-transformers loads "
        'without code of ours. Its vectors are compared with those of the checkpoint, by sentence-transformers where '
        'that is installed. An encoder of another shape is refused with the settings that are in the way.',
    )
    task.add_argument('ckpt', metavar='CKPT', help="a checkpoint; 'last', 'best': of the newest run of an embedder")
    task.add_argument('folder', metavar='FOLDER', type=Path, help='what is made')
    task.set_defaults(run=export_encoder)
    task = tasks.add_parser(
        'export-decoder',
        help='make a folder for transformers, and for GGUF, of a language model',
        description="Write a language model of Qwen3's or Llama's shape (conf/portable.yaml trains one) as a folder "
        'that transformers loads without code of ours, and which the converter of llama.cpp reads. Its tokens and '
        'logits are compared with those of the checkpoint, where transformers is installed. A model of another shape '
        'is refused with the settings that are in the way. Needs the extra `hf`.',
    )
    task.add_argument(
        'ckpt', metavar='CKPT', help="a checkpoint; 'last', 'best': of the newest run of a language model"
    )
    task.add_argument('folder', metavar='FOLDER', type=Path, help='what is made')
    task.set_defaults(run=export_language_model)
    task = tasks.add_parser(
        'export-onnx',
        help='make an ONNX graph of a text encoder',
        description='Write a text encoder as a folder with an ONNX graph of padded batches and its tokenizer. The '
        'vectors of the graph are compared with those of the checkpoint, by onnxruntime. Needs the extra `onnx`.',
    )
    task.add_argument('ckpt', metavar='CKPT', help="a checkpoint; 'last', 'best': of the newest run of an embedder")
    task.add_argument('folder', metavar='FOLDER', type=Path, help='what is made')
    task.set_defaults(run=export_graph)


def import_checkpoint(options: argparse.Namespace) -> None:
    """Write the file, and say what it holds and what was left out."""
    from xlabml.conversion import describe_difference, import_folder

    with typed_paths():
        made = import_folder(options.folder, options.output, options.max_len)
    network = made.network
    n_layers = len(network.list_blocks())
    print(
        f'a text encoder: {n_layers} layers of {network.trunk.d_model}, {len(made.tokenizer):,} tokens, '
        f'vectors of {network.d_vector}, texts of up to {network.max_len} tokens'
    )
    if made.unused:
        more = f' and {len(made.unused) - _MOST_NAMED} more' if len(made.unused) > _MOST_NAMED else ''
        print(f'not used: {", ".join(made.unused[:_MOST_NAMED])}{more}')
    if made.default_prompt is not None:
        print(f'the folder puts the prompt {made.default_prompt!r} before every text; here it has to be named')
    print(describe_difference(made.difference))
    print(f'{made.export.path}\n{made.export.n_bytes} bytes\nsha256 {made.export.sha256}')


def export_encoder(options: argparse.Namespace) -> None:
    """Write the folder, and say what the comparison found."""
    from xlabml.conversion import describe_difference, export_folder
    from xlabml.conversion.importing import TASK

    made = _export(options, TASK, export_folder)
    print(f'{made.folder}\n{describe_difference(made.difference)}')


def export_language_model(options: argparse.Namespace) -> None:
    """Write the folder, and say what the comparison found."""
    from xlabml.conversion import describe_same, export_decoder
    from xlabml.conversion.decoders import TASK

    made = _export(options, TASK, export_decoder)
    print(f'{made.folder}\n{describe_same(made.difference)}')


def export_graph(options: argparse.Namespace) -> None:
    """Write the graph, and say what the comparison found."""
    from xlabml.conversion.checking import TEXTS
    from xlabml.conversion.importing import TASK
    from xlabml.conversion.onnx_export import export_onnx

    made = _export(options, TASK, export_onnx)
    print(f'{made.folder}\nsame vectors by onnxruntime, to {made.difference:.0e} ({len(TEXTS)} texts)')


def _export(options: argparse.Namespace, task: str, export: Callable[[Path, Path], Made]) -> Made:
    """Export the checkpoint that was typed; `last` is that of the task's newest run."""
    from xlabml import checkpoints

    with typed_paths():
        path = checkpoints.find(options.ckpt, Path(), task)
        with checkpoints.naming_another(options.ckpt, path):
            return export(path, options.folder)
