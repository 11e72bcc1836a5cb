"""The tags of TensorBoard: the figures of a run in groups that open on the loss, train and val beside each other.

Only TensorBoard has these names. Elsewhere (`log.jsonl`, `checkpoint.monitor`, other loggers) a figure keeps its own:
`val_loss` there is `loss/val` here.
"""

import re

SPLITS = ('train', 'val', 'test')

_GROUPS = {
    'tokens_per_second': 'speed',
    'tflops_per_second': 'speed',
    'mfu_ratio': 'speed',
    'gradient_norm': 'optimizer',
    'clip_limit': 'optimizer',
    'clipped_ratio': 'optimizer',
    'skipped_steps': 'optimizer',
    'tokens': 'progress',
    'epochs': 'progress',
}
_PREFIXES = {'learning_rate/': 'optimizer/learning_rate/', 'time/': 'speed/', 'epochs/': 'progress/epochs/'}
_KEPT = ('memory/', 'share/', 'spectra/')
"""Groups that figures name themselves; a part of them may be called as a split is."""

_MARKDOWN = re.compile(r'[^\w\s]|_', re.ASCII)
_LINE_ENDS = re.compile(r'\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]')


def tag_of(name: str) -> str:
    """The tag of a figure: `val_loss` is `loss/val`, `time/step_seconds` is `speed/step_seconds`."""
    if name in _GROUPS:
        return f'{_GROUPS[name]}/{name}'
    for prefix, group in _PREFIXES.items():
        if name.startswith(prefix):
            return group + name.removeprefix(prefix)
    split, _, figure = name.partition('_')
    return f'{figure}/{split}' if split in SPLITS and figure else name


def name_of(tag: str) -> str:
    """The figure of a tag; a tag of an earlier version is the figure's name."""
    group, _, name = tag.partition('/')
    if _GROUPS.get(name) == group:
        return name
    if tag.startswith(_KEPT):
        return tag
    for prefix, named in _PREFIXES.items():
        if tag.startswith(named):
            return prefix + tag.removeprefix(named)
    figure, _, split = tag.rpartition('/')
    return f'{split}_{figure}' if split in SPLITS and figure else tag


def as_markdown(text: str) -> str:
    """A text as Markdown that shows it as it is, line by line; TensorBoard renders every text as Markdown."""
    lines = []
    for line in _LINE_ENDS.split(text):
        body = line.lstrip(' \t')
        indent = line[: len(line) - len(body)].expandtabs(4)
        # Each sign as a number: of letters, digits and spaces alone Markdown makes nothing.
        shown = _MARKDOWN.sub(lambda sign: f'&#{ord(sign[0])};', body)
        lines.append('&nbsp;' * len(indent) + shown.replace('  ', '&nbsp; '))
    return '<br>'.join(lines)
