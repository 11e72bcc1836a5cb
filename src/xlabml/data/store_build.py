"""A store from its parts: tokenized side by side, then put one after the other, so that the result is the same for any
number of processes."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from xlabml.tokenizer import Tokenizer

from . import folders
from .recorded import hash_file, stat_files
from .sources import Part, Source
from .store_parts import COUNTS, FORMAT, array_types, batches, encode_part, merge_invalid, piece_texts, read_part

Report = Callable[[str, int, int | None], None]
"""Told now and then how far a preparation is: (what is done, bytes of text so far, bytes in all or None)."""

_STATE = 'begun.json'
_COPIED_VALUES = 1 << 20
_SAMPLE_DOCUMENTS = 100
_POLL_SECONDS = 0.2


def build_store(
    source: Source,
    tokenizer: Tokenizer,
    columns: Sequence[str],
    identity: dict[str, Any],
    folder: Path,
    n_processes: int | None,
    report: Report,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Fill a folder with a store's files, going on from the whole parts that are there, and return its manifest.

    Raises:
        ValueError: The source is broken, changed meanwhile, or has no valid document; or the disk has too little room.
        ChildProcessError: A process that tokenizes was killed.
    """
    parts, stats = source.parts(columns), stat_files(source.files())
    begun = {'identity': identity, 'files': stats, 'parts': [list(part) for part in parts]}
    _start_over_unless_same(folder, begun)
    n_processes = n_processes or len(os.sched_getaffinity(0) if sys.platform == 'linux' else range(os.cpu_count() or 1))
    n_there = sum(read_part(_part_folder(folder, i)) is not None for i in range(len(parts)))
    say(_check_room(source, parts, tokenizer, columns, folder, n_there))
    total = sum(part.n_bytes or 0 for part in parts) if all(part.n_bytes for part in parts) else None
    job = _Job(source, tokenizer, list(columns), folder)

    def tell(n_bytes: int) -> None:
        report(f'tokenizing {source}', n_bytes if total is None else min(n_bytes, total), total)

    if n_processes > 1 and len(parts) - n_there > 1:
        _encode_in_processes(job, parts, n_processes, tell)
    else:
        _encode_here(job, parts, n_processes, tell)
    manifest = _merge(source, tokenizer, folder, len(parts))
    hashes = [hash_file(path) for path, *_ in stats]
    if stat_files(source.files()) != stats:
        raise ValueError(f'{source} was written to while it was read; start again once it is whole')
    (folder / _STATE).unlink()
    folders.remove(folder / 'parts')
    return {
        'format': FORMAT,
        'identity': identity,
        'source': str(source),
        'source_files': [[*file, content] for file, content in zip(stats, hashes)],
        'columns': list(columns),
        'n_vocab': len(tokenizer),
        **manifest,
    }


def _part_folder(folder: Path, index: int) -> Path:
    return folder / 'parts' / f'{index:05d}'


def _start_over_unless_same(folder: Path, begun: dict[str, Any]) -> None:
    """Clear away what is in the folder, unless it is of the same texts, cut into the same parts."""
    state, text = folder / _STATE, json.dumps(begun, sort_keys=True)
    if not state.is_file() or state.read_text('utf-8') != text:
        folders.remove(folder)
        (folder / 'parts').mkdir(parents=True)
        state.write_text(text, 'utf-8')


# How much room it takes


def _check_room(
    source: Source, parts: list[Part], tokenizer: Tokenizer, columns: Sequence[str], folder: Path, n_there: int
) -> str:
    """What is going to happen, for people.

    Raises:
        ValueError: There is less room on the disk than it will take.
    """
    n_bytes = sum(part.n_bytes or 0 for part in parts)
    free = shutil.disk_usage(folder).free
    done = f', {n_there} of {len(parts)} parts are there already' if n_there else ''
    is_known = bool(parts) and all(part.n_bytes for part in parts)
    ratio = _disk_ratio(source, parts[0], tokenizer, columns) if is_known else 0.0
    if not ratio:
        return f'tokenizing {source}{done}: nobody knows how much text it has; {_size(free)} of disk are free'
    needed = int(2 * ratio * n_bytes)  # the parts, and then the whole
    left = max(0, needed - sum(file.stat().st_size for file in folder.rglob('*.bin')))
    if left > free:
        raise ValueError(
            f'{source} has about {_size(n_bytes)} of text, and tokenizing it takes about {_size(left)} of disk, half '
            f'of it for good, but only {_size(free)} are free at {folder.parent}; free some space, or set '
            'XLABML_CACHE to a folder on a larger disk'
        )
    return (
        f'tokenizing {source}{done}: about {_size(n_bytes)} of text; takes about {_size(left)} of disk at '
        f'{folder.parent} (half of it for good), {_size(free)} are free'
    )


def _disk_ratio(source: Source, part: Part, tokenizer: Tokenizer, columns: Sequence[str]) -> float:
    """Bytes in the store for one of text, from the first documents; 0 where there are none."""
    for documents, raw in batches(islice(source.read(part, columns), _SAMPLE_DOCUMENTS), {'n_rows': 0}, {}):
        texts = [text for texts in piece_texts(documents, source, part) for text in texts]
        n_tokens = sum(map(len, tokenizer.encode(texts)))
        types = {name: np.dtype(dtype).itemsize for name, dtype in array_types(tokenizer, True).items()}
        fixed = types['offsets'] + types['n_bytes'] + types['rows'] + 2 * types['hashes']
        kept = sum(types['column_offsets'] + len(repr(document.columns)) for document in documents) if columns else 0
        if source.in_pieces:
            kept += len(texts) * types['piece_ends'] + len(documents) * types['piece_offsets']
        return (n_tokens * types['tokens'] + len(documents) * fixed + kept) / sum(map(len, raw))
    return 0.0


_size = folders.show_bytes


# The parts


class _Job:
    """What all parts share."""

    def __init__(self, source: Source, tokenizer: Tokenizer, columns: list[str], folder: Path) -> None:
        self.source, self.tokenizer, self.columns, self.folder = source, tokenizer, columns, folder

    def encode(self, index: int, part: Part, advance: Callable[[int], None], n_threads: int) -> None:
        folder = _part_folder(self.folder, index)
        if read_part(folder) is None:
            encode_part(self.source, part, self.tokenizer, self.columns, folder, advance, n_threads)
        else:
            advance(part.n_bytes or 0)


def _encode_here(job: _Job, parts: list[Part], n_threads: int, tell: Callable[[int], None]) -> None:
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        tell(done)

    for index, part in enumerate(parts):
        job.encode(index, part, advance, n_threads)


def _encode_in_processes(job: _Job, parts: list[Part], n_processes: int, tell: Callable[[int], None]) -> None:
    n_workers = min(n_processes, len(parts))
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else None)
    done, stop = context.Value('q', 0), context.Event()
    start = (job, max(1, n_processes // n_workers), done, stop, os.getpid())
    with ProcessPoolExecutor(n_workers, context, _start_worker, start) as pool:
        futures = [pool.submit(_encode_in_worker, index, part) for index, part in enumerate(parts)]
        try:
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
                tell(done.value)
                for future in finished:
                    future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f'a process that was tokenizing {job.source} was killed (for want of memory, perhaps); the same '
                'command goes on from the last whole part, with a smaller data.n_processes if need be'
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


class _Stopped(Exception):  # noqa: N818
    """Another part failed, or the user had enough."""


_worker: tuple[_Job, int, Any, Any]


def _start_worker(job: _Job, n_threads: int, done: Any, stop: Any, parent: int) -> None:
    global _worker
    _worker = job, n_threads, done, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and says so
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone: an orphan would keep its lock, and its files."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _encode_in_worker(index: int, part: Part) -> None:
    job, n_threads, done, stop = _worker

    def advance(n_bytes: int) -> None:
        if stop.is_set():
            raise _Stopped
        with done.get_lock():
            done.value += n_bytes

    job.encode(index, part, advance, n_threads)


# The whole


def _merge(source: Source, tokenizer: Tokenizer, folder: Path, n_parts: int) -> dict[str, Any]:
    """Put the parts one after the other, and return what the manifest says of them."""
    sums = dict.fromkeys(COUNTS, 0)
    invalid: dict[str, dict[str, Any]] = {}
    types, begin = array_types(tokenizer, source.in_pieces), np.zeros(1, np.int64)
    with folders.ArrayFiles(folder, types) as files:
        files.append(**{name: begin for name in ('offsets', 'column_offsets', 'piece_offsets') if name in types})
        for index in range(n_parts):
            part = _part_folder(folder, index)
            manifest = folders.read_manifest(part, FORMAT)
            shifts = {
                **dict.fromkeys(('offsets', 'piece_ends'), sums['n_tokens']),
                'column_offsets': sums['n_column_bytes'],
                'piece_offsets': sums['n_pieces'],
                'rows': sums['n_rows'],
            }
            for name in manifest['files']:
                values = folders.map_array(part, name, manifest)
                for start in range(0, len(values), _COPIED_VALUES):
                    some = values[start : start + _COPIED_VALUES]
                    files.append(**{name: some + shifts[name] if name in shifts else some})
            merge_invalid(invalid, manifest['invalid'], sums['n_rows'])
            sums = {name: value + manifest[name] for name, value in sums.items()}
        written = files.close()
    if not sums['n_documents']:
        counts = ', '.join(f'{item["count"]} {reason}' for reason, item in invalid.items()) or 'it has no rows'
        raise ValueError(f'{source} has no document with text ({counts}); check its path and column')
    del sums['n_column_bytes']
    return {'files': written, **sums, 'invalid': invalid}
