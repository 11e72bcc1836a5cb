"""`xlab init`: a commented file of settings for texts of one's own, to change and to train by."""

import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path

from xlabml import artifacts

from .arguments import Parser
from .errors import UsageError, typed_paths

_NAME = 'run.yaml'
_EXAMPLE = 'texts/*.txt'
_PLAIN = re.compile(r'[\w./~-]+', re.ASCII)
"""A path that means the same in YAML without quotes."""

_TEMPLATE = """\
# Settings of a run. Train by them:        xlab fit -c {name}
# Try each stage on one batch first:       xlab fit -c {name} --smoke
# Resume the newest run:                   xlab fit -c {name} --ckpt_path last
# Evaluate it on the test split:           xlab test --ckpt_path best
# Continue a text with it:                 xlab-infer last "Once upon a time"
# What is left out has its default: docs/settings.md lists all, xlab fit --help data explains a group. A flag counts
# before the file: --trainer.max_steps 100

data:
  # Files, folders or patterns: txt, md, jsonl, csv, tsv, parquet and more. Other forms of a line:
  #   - {{path: table.csv, column: body}}            texts that are in a column
  #   - {{path: poems.txt, document: paragraph}}     what a document of a text file is: file, paragraph, line, a number
  #                                                of characters, or a pattern such as ^CHAPTER
  #   - {{path: held_out.txt, only: val}}            a source that is for validation only
  sources:
{sources}
  # Shares of the documents, as in {{train: 0.9, val: 0.05, test: 0.05}}; val: 0 trains without validation.
  splits: auto           # auto: found from the size of the texts, and printed
  n_vocab: auto          # tokens of the tokenizer
  batch_tokens: auto     # tokens of an optimizer step
  max_len: 256           # tokens of a row: the model attends to no more
  # device_batch_tokens: 1024   # tokens in memory at a time; a step of more accumulates them

model:
  # 3 million parameters in the layers; {{d_model: 320, n_layers: 6, n_heads: 5}} has 7, {{d_model: 512, n_layers: 8,
  # n_heads: 8}} 25. Those of the vocabulary, n_vocab times d_model, come on top.
  trunk: {{d_model: 256, n_layers: 4, n_heads: 4}}
  # optimizer: AdamW     # default: Muon; xlab fit --model.optimizer.help Muon explains its learning rates

trainer:
  max_steps: auto        # optimizer steps of the run
  val_check_interval: 0.1    # validate after each tenth of it; a whole number: that many steps
  # precision: bf16-mixed    # default: the fastest that this machine computes well
  # logger: csv          # default: tensorboard; or wandb, mlflow, [tensorboard, csv]
  # devices: 2

# overfitting: {{patience: 3}}   # end the run after 3 validations that were no better than the best

samples:
  show: true             # print the text that is sampled at each validation
  prompt: {prompt}            # what it begins with
"""


def run(arguments: Sequence[str]) -> str:
    """Write the file.

    Returns:
        What was written, and what to do next.

    Raises:
        UsageError: There are no such texts, or the file is there already.
    """
    parser = Parser(
        'xlab init',
        description='Write a commented file of settings for texts of your own, which xlab fit -c FILE trains by.',
    )
    parser.add_argument('texts', metavar='TEXTS', nargs='*', help='files, folders or patterns (default: an example)')
    parser.add_argument('--output', metavar='FILE', default=_NAME, help=f'(default: {_NAME})')
    options = parser.parse_args(arguments)
    for text in options.texts:
        if not Path(text).expanduser().exists() and not glob.glob(text, recursive=True):
            raise UsageError(f'there is no file or folder {text} (from {Path.cwd()}); check the path')
    path = Path(options.output)
    if path.exists():
        raise UsageError(f'{path} is there already; name another file with --output, or remove it')
    with typed_paths(), artifacts.replacing(path) as place:
        place.write_text(template(options.texts, path), encoding='utf-8')
    change = '' if options.texts else f'; name your texts in it, in the place of {_EXAMPLE}'
    return f'wrote {path}{change}. Train by it: xlab fit -c {path}'


def template(texts: Sequence[str], path: Path) -> str:
    """The file of settings for these texts.

    Args:
        texts: Files, folders or patterns; (): an example stands in their place.
        path: Where it is written to. Paths in it count from where a command is typed.
    """
    sources = [f'    - {_quoted(text)}' for text in texts] or [f'    - {_EXAMPLE}     # your texts']
    return _TEMPLATE.format(name=path, sources='\n'.join(sources), prompt='The')


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
