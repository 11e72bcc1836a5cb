"""Which files of a folder or a pattern are read: all that hold texts, in an order that never changes."""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from xlabml.errors import SettingsError

from .files import describe_no_file
from .kinds import KINDS, describe_passed_over, is_hidden, is_readable, leave_out_notes, pick_texts

_SPLIT_NAMES = ('train', 'training', 'validation', 'valid', 'val', 'dev', 'test', 'testing')
_SAVED = 'state.json', 'dataset_info.json'
"""What `save_to_disk` of the datasets library writes beside the files that the first of them names."""


class Listing(NamedTuple):
    """The files that are read.

    Args:
        files: In their order.
        passed_over: How many others there are, of which sort.
    """

    files: list[Path]
    passed_over: Counter[str]

    def __str__(self) -> str:
        return describe_passed_over(len(self.files), self.passed_over)


def list_pattern(pattern: str) -> Listing:
    """The files that a pattern matches, sorted.

    Raises:
        ValueError: One is a dead link, a folder cannot be listed, or no file matches.
    """
    matches = sorted(set(map(Path, _matches(pattern))))
    found, others = _regular(path for path in matches if not path.is_dir())
    if not found:
        raise SettingsError(f'no file matches {pattern} (from {Path.cwd()}); check the path of the source')
    picked, passed_over = pick_texts(found)
    files, notes = leave_out_notes(picked)
    if not files:
        raise SettingsError(f'cannot read {found[0]}, which {pattern} matches: a name must end in one of {KINDS}')
    if '**' not in pattern and (n_folders := len([path for path in matches if path.is_dir()])):
        passed_over['folders (a pattern with ** takes what is in them)'] = n_folders
    return Listing(files, passed_over + notes + others)


def list_folder(folder: Path, split: str, source: str) -> Listing:
    """The files of a folder and of the folders in it: those of a split, where their names or folders say splits.

    Args:
        source: Names the source, for errors.

    Raises:
        ValueError: There is none, a file is a dead link, or a folder cannot be listed.
    """
    walked, passed_over = _walk(folder, ())
    all_files, notes = leave_out_notes(walked)
    passed_over += notes
    marks = {file: _split_of(file.relative_to(folder), split) for file in all_files}
    files = [file for file in all_files if marks[file] == split]
    if not files and split == 'train' and not any(_name_mark(file.name, split) for file in all_files):
        files = [file for file in all_files if not marks[file]]
    if files:
        for file in all_files:
            if marks[file] != marks[files[0]]:
                passed_over[f'of the split {marks[file]}' if marks[file] else f'not of the split {split}'] += 1
        return Listing(files, passed_over)
    there = ', '.join(sorted(item.name for item in folder.iterdir())[:20]) or 'nothing'
    what = f'files of the split {split!r}' if all_files else f'{KINDS} files'
    raise SettingsError(
        f'source {source}: there are no {what} in {folder}; it holds {there}. Give the configuration as name, and '
        f'split as the files begin; or name a pattern, {folder}/**/*, which takes files of any name'
    )


def _matches(pattern: str) -> Iterator[str]:
    """What `glob.glob` finds, which follows a link to a folder above 40 times, and two of them 2 ** 40 times."""
    found = re.match(r'(.*?/|)\*\*(?:/\*\*)*(?:/(.*)|$)', pattern, re.DOTALL)
    if found is None:
        yield from glob.iglob(pattern)
        return
    for top in glob.iglob(found[1] or '.'):
        for folder in _folders(Path(top), ()):
            yield from _matches(os.path.join(glob.escape(str(folder)), found[2] or '*'))


def _folders(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """A folder and those in it, but hidden ones (.); links are followed, but not back."""
    here, items = _look_into(folder)
    if here in above:
        return
    yield folder
    for item in items:
        if item.is_dir() and not item.name.startswith('.'):
            yield from _folders(item, (*above, here))


def _look_into(folder: Path) -> tuple[tuple[int, int], list[Path]]:
    """What tells a folder from all others, and what is in it, sorted.

    Raises:
        ValueError: It cannot be listed.
    """
    try:
        stat = folder.stat()
        return (stat.st_dev, stat.st_ino), sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f'{folder} cannot be listed ({error.strerror}); change its mode, or move it away') from error


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> tuple[list[Path], Counter[str]]:
    """A folder's own files, sorted, then those of its folders; links are followed, but not back."""
    here, items = _look_into(folder)
    if here in above:
        return [], Counter({'links to a folder above': 1})
    folders = [item for item in items if item.is_dir()]
    if all((folder / name).is_file() for name in _SAVED):
        files, passed_over = _saved_files(folder, items)
    else:
        found, others = _regular(item for item in items if not item.is_dir())
        files, passed_over = pick_texts(found)
        passed_over += others
    for item in folders:
        if is_hidden(item):
            passed_over['hidden folders (. or _)'] += 1
            continue
        more, others = _walk(item, (*above, here))
        files += more
        passed_over += others
    return files, passed_over


def _regular(paths: Iterable[Path]) -> tuple[list[Path], Counter[str]]:
    """Those of some paths that are files, and how many pipes, sockets and dead links there are beside them.

    Raises:
        ValueError: One of these is named like a file that we read.
    """
    files: list[Path] = []
    others: Counter[str] = Counter()
    for path in paths:
        if path.is_file():
            files.append(path)
        elif is_readable(path):
            raise ValueError(describe_no_file(path))
        else:
            others['no files (pipes, dead links)'] += 1
    return files, others


def _saved_files(folder: Path, items: list[Path]) -> tuple[list[Path], Counter[str]]:
    """The files of a dataset that was saved to disk; others in its folder may be caches of what was made of it."""
    state = folder / _SAVED[0]
    try:
        names = [entry['filename'] for entry in json.loads(state.read_text('utf-8'))['_data_files']]
        files = [folder / name for name in names if Path(name).name == name]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'{state} does not say which files the dataset has ({error!r}); save it anew') from None
    if len(files) < len(names):
        raise ValueError(f'{state} names files outside of its folder; save the dataset anew')
    for file in files:
        if not file.is_file():
            raise ValueError(describe_no_file(file))
    return files, Counter({'beside a saved dataset': len({item for item in items if item.is_file()} - {*files})})


def _split_of(path: Path, split: str) -> str:
    """The split that a file is of, as the outermost of its folders' names or its own says; '' where none does."""
    for name in path.parts[:-1]:
        if name in (split, *_SPLIT_NAMES):
            return name
    return _name_mark(path.name, split)


def _name_mark(name: str, split: str) -> str:
    """The split that a name begins with, as in `train-00000-of-00002.parquet`."""
    found = re.match(rf'({re.escape(split)}|{"|".join(_SPLIT_NAMES)})[-_.]', name)
    return found[1] if found else ''
