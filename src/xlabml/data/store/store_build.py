"""A store from its parts: tokenized side by side, then put one after the other, so that the result is the same whoever
tokenized them."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from xlabml.artifacts import folders, manifests
from xlabml.data.sources import Part, Source, hash_file, stat_files
from xlabml.errors import DataError
from xlabml.tokenizer import Tokenizer

from .store_parts import (
    CHANGED,
    COUNTS,
    FORMAT,
    PART,
    Job,
    LeftOut,
    array_types,
    batches,
    counts_of,
    merge_invalid,
    piece_texts,
)

Engine = Callable[[Job, Callable[[int], None]], None]
"""Has every part of a job tokenized into its folder; tells now and then how many bytes of text are done."""

Report = Callable[[str, int, int | None], None]
"""Told now and then how far a preparation is: (what is done, bytes of text so far, bytes in all or None)."""

_STATE = 'begun.json'
_COPIED_VALUES = 1 << 20
_SAMPLE_DOCUMENTS = 100


def build_store(
    source: Source,
    tokenizer: Tokenizer,
    columns: Sequence[str],
    identity: dict[str, object],
    folder: Path,
    engine: Engine,
    report: Report,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Fill a folder with a store's files, resuming from the whole parts that are there, and return its manifest.

    Raises:
        ValueError: The source is broken, changed meanwhile, or has no valid document; or the disk has too little room.
        ChildProcessError: What was tokenizing was killed, or a part is not as it was written; there is a way on.
        ConnectionError: A remote file cannot be had; there is a way on.
    """
    job = plan_job(source, tokenizer, columns, identity, folder)
    parts = job.parts
    stats = job.begun['files']
    _start_over_unless_same(folder, job.begun)
    _ = tokenizer.piece_sizes if tokenizer.is_lossless else tokenizer.round_trips  # once, before processes are forked
    say(_check_room(source, parts, tokenizer, columns, folder, len(parts) - len(job.missing())))
    total = sum(part.n_bytes or 0 for part in parts) if all(part.n_bytes for part in parts) else None

    def tell(n_bytes: int) -> None:
        report(f'tokenizing {source}', n_bytes if total is None else min(n_bytes, total), total)

    engine(job, tell)
    with ThreadPoolExecutor(1) as beside:
        hashes = beside.submit(lambda: [hash_file(path) for path, *_ in stats])
        manifest = _merge(job)
    if stat_files(source.files()) != stats:
        raise ValueError(f'{source} was written to while it was read; start again once it is whole')
    (folder / _STATE).unlink()
    folders.remove(folder / 'parts')
    return {
        'format': FORMAT,
        'identity': identity,
        'source': str(source),
        'source_files': [[*file, content] for file, content in zip(stats, hashes.result())],
        'columns': list(columns),
        'n_vocab': len(tokenizer),
        **manifest,
    }


def plan_job(
    source: Source, tokenizer: Tokenizer, columns: Sequence[str], identity: dict[str, object], folder: Path
) -> Job:
    """What has to be done for a store.

    Raises:
        ValueError: The source is absent or broken.
    """
    parts = source.parts(columns)
    stats = stat_files(source.files())
    begun = {'identity': identity, 'files': stats, 'parts': [list(part) for part in parts]}
    return Job(source, tokenizer, list(columns), folder, parts, begun)


def _start_over_unless_same(folder: Path, begun: dict[str, object]) -> None:
    """Clear away what is in the folder, unless it is of the same texts, cut into the same parts."""
    state = folder / _STATE
    text = json.dumps(begun, sort_keys=True)
    if not state.is_file() or state.read_bytes() != text.encode():
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
        return f'tokenizing {source}{done}: how much text it has is unknown; {_size(free)} of disk are free'
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
        texts, _ = piece_texts(documents, source, part)
        n_tokens = sum(map(len, tokenizer.encode(texts, 1)))  # no threads before processes are forked
        types = {name: np.dtype(dtype).itemsize for name, dtype in array_types(tokenizer, True).items()}
        fixed = types['offsets'] + types['n_bytes'] + types['rows'] + 2 * types['hashes']
        kept = sum(types['column_offsets'] + len(repr(document.columns)) for document in documents) if columns else 0
        if source.in_pieces:
            kept += len(texts) * types['piece_ends'] + len(documents) * types['piece_offsets']
        return (n_tokens * types['tokens'] + len(documents) * fixed + kept) / sum(map(len, raw))
    return 0.0


_size = folders.show_bytes


# The whole


def _merge(job: Job) -> dict[str, object]:
    """Put the parts one after the other, and return what the manifest says of them."""
    sums = dict.fromkeys((*COUNTS, *(() if job.tokenizer.is_lossless else (CHANGED,))), 0)
    invalid: dict[str, LeftOut] = {}
    read: Counter[str] = Counter()
    types = array_types(job.tokenizer, job.source.in_pieces)
    begin = np.zeros(1, np.int64)
    with folders.ArrayFiles(job.folder, types) as files:
        files.append(**{name: begin for name in ('offsets', 'column_offsets', 'piece_offsets') if name in types})
        for index in range(len(job.parts)):
            part = job.part_folder(index)
            manifest = manifests.read_manifest(part, PART)
            shifts = {
                **dict.fromkeys(('offsets', 'piece_ends'), sums['n_tokens']),
                'column_offsets': sums['n_column_bytes'],
                'piece_offsets': sums['n_pieces'],
                'rows': sums['n_rows'],
            }
            for name in manifest['files']:
                values = manifests.map_array(part, name, manifest)
                content = hashlib.sha256()
                for start in range(0, len(values), _COPIED_VALUES):
                    some = values[start : start + _COPIED_VALUES]
                    content.update(some.data)
                    files.append(**{name: some + shifts[name] if name in shifts else some})
                if content.hexdigest() != manifest['files'][name]['sha256']:
                    folders.remove(part)
                    raise ChildProcessError(
                        f'part {index} of {job.source} is not as it was written (the machine went down meanwhile, '
                        'perhaps); the same command tokenizes it again'
                    )
            merge_invalid(invalid, manifest['invalid'], sums['n_rows'])
            read.update(counts_of(manifest))
            sums = {name: value + manifest[name] for name, value in sums.items()}
        written = files.close()
    if not sums['n_documents']:
        counts = ', '.join(f'{item["count"]} {reason}' for reason, item in invalid.items()) or 'it has no rows'
        raise DataError(f'{job.source} has no document with text ({counts}); check its path and column')
    del sums['n_column_bytes']
    return {'files': written, **sums, 'invalid': invalid, 'read': dict(read)}
