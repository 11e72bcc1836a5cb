"""YAML of bounded size, aliases expanded: a few lines of YAML can stand for billions of values."""

import re
from pathlib import Path

import yaml

MAX_CHARS = 1 << 20
"""Of a file, or of one value on the command line: the settings of a run take some ten thousand."""

MAX_VALUES = 100_000
"""Where aliases are used, counted once for each time that they stand for what they name."""


_DOTTED = re.compile(r'[\w]\.(?:class_path|init_args)\b[\w.]*(?:["\']\s*:|\s*:(?:\s|$))')
"""A key that reaches into a class: jsonargparse builds what it names without looking at the type that belongs there."""


def load(text: str, loader: type = yaml.SafeLoader) -> object:
    """Read YAML as plain values; errors are those of `check`."""
    check(text, loader)
    return yaml.load(text, loader)


def check(text: str, loader: type = yaml.SafeLoader) -> None:
    """Refuse YAML that is too large to be read.

    Raises:
        ValueError: It is too long, or its aliases stand for too much, or for themselves.
        yaml.YAMLError: It is no YAML.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f'{len(text):,} characters of settings, where {MAX_CHARS:,} are the most')
    if found := _DOTTED.search(text):
        raise ValueError(f'a key with dots that names a class ({found[0].strip()}); write class_path below its setting')
    if '*' in text:
        node = yaml.compose(text, loader)
        if node is not None and _n_values(node) > MAX_VALUES:
            raise ValueError(f'aliases that stand for more than {MAX_VALUES:,} values')


def read(path: Path) -> str:
    """The text of a file of settings, if it is not too long.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too long, or not text in UTF-8.
    """
    with path.open('rb') as file:
        content = file.read(4 * MAX_CHARS + 1)
    if len(content) > 4 * MAX_CHARS:
        raise ValueError(f'more than {4 * MAX_CHARS:,} bytes, where settings are {MAX_CHARS:,} characters at most')
    return content.decode()


def _n_values(root: yaml.Node) -> int:
    """How many values a document is with all aliases written out, each node counted once; endless ones are refused."""
    counts: dict[int, int | None] = {}
    todo = [root]
    while todo:
        node = todo[-1]
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [one for pair in node.value for one in pair]
        if id(node) not in counts:
            counts[id(node)] = None  # under way
            for one in inner:
                if id(one) not in counts:
                    todo.append(one)
                elif counts[id(one)] is None:
                    raise ValueError('an alias that stands for itself')
            continue
        todo.pop()
        if counts[id(node)] is None:
            counts[id(node)] = min(MAX_VALUES + 1, 1 + sum(counts[id(one)] or 0 for one in inner))
    return counts[id(root)] or 0
