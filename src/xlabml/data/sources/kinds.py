"""What a file's name says: its kind, whether it is compressed, and whether it is one of the texts of a folder."""

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath
from typing import TypeVar

TABLES = ('.parquet', '.jsonl', '.ndjson', '.json', '.csv', '.tsv', '.arrow')
TEXTS = ('.txt', '.text', '.md', '.log')
PACKED = ('.gz', '.bz2', '.xz', '.zst')
UNPACKED_RATIO = 4  # of text to its compressed file, about; to say how much disk a store will take
KINDS = ', '.join(ending[1:] for ending in (*TABLES, *TEXTS))
"""All kinds, for people."""

_BINARY = ('.parquet', '.arrow')  # compressed inside, never as a whole
_ABOUT = ('dataset_info.json', 'dataset_infos.json', 'dataset_dict.json')  # the datasets library's own
_MAX_NAMED = 8

_Path = TypeVar('_Path', bound=PurePath)


def kind_of(path: PurePath) -> str:
    """A file's kind, one of TABLES and TEXTS; '' where the name says none that we can read. Case does not matter."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    packed = is_packed(path)
    if packed:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ''
    return kind if kind in (*TABLES, *TEXTS) and not (packed and kind in _BINARY) else ''


def is_packed(path: PurePath) -> bool:
    """Whether the name says that the file is compressed."""
    return path.suffix.lower() in PACKED


def is_readable(path: PurePath) -> bool:
    """Whether the name says that we can read it."""
    return bool(kind_of(path)) and not is_hidden(path)


def is_hidden(path: PurePath) -> bool:
    """Whether a folder's other tools keep it for themselves: `.git`, `_SUCCESS`."""
    return path.name.startswith(('.', '_'))


def pick_texts(paths: Iterable[_Path]) -> tuple[list[_Path], Counter[str]]:
    """The paths that are named like texts, in their order, and how many of the others there are of which sort."""
    passed_over: Counter[str] = Counter()
    texts = []
    for path in paths:
        if is_hidden(path):
            passed_over['hidden (. or _)'] += 1
        elif path.name in _ABOUT:
            passed_over[path.name] += 1
        elif not kind_of(path):
            passed_over[_ending(path)] += 1
        else:
            texts.append(path)
    return texts, passed_over


def leave_out_notes(texts: list[_Path]) -> tuple[list[_Path], Counter[str]]:
    """Texts without what tells of them: a log where there is anything else, a README where there are tables; and how
    many of each there were."""
    kinds = {kind_of(path) for path in texts}
    no_logs = kinds != {'.log'}
    has_tables = bool(kinds & {*TABLES})
    left_out: Counter[str] = Counter()
    kept = []
    for path in texts:
        if no_logs and kind_of(path) == '.log':
            left_out[_ending(path)] += 1
        elif has_tables and kind_of(path) not in TABLES and path.name.lower().startswith('readme.'):
            left_out['README'] += 1
        else:
            kept.append(path)
    return kept, left_out


def describe_passed_over(n_files: int, passed_over: Counter[str]) -> str:
    """A line for people; '' where nothing was passed over."""
    if not passed_over:
        return ''
    named = passed_over.most_common(_MAX_NAMED)
    more = passed_over.total() - sum(n for _, n in named)
    what = ', '.join(f'{n:,} {sort}' for sort, n in named) + (f', {more:,} of other endings' if more else '')
    return f'reads {n_files:,} files, passes over {passed_over.total():,} others: {what}'


def _ending(path: PurePath) -> str:
    suffixes = path.suffixes[-2:] if is_packed(path) else path.suffixes[-1:]
    return ''.join(suffixes).lower() or 'without an ending'
