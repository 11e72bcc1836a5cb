"""One part of a source as a part of its store: a function that needs no other part, and runs wherever the part can be
read."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Int64

from xlabml.artifacts import folders, manifests
from xlabml.data.sources import REASONS, Document, Part, Source, Span, kind_of, split_text, tally, utf8
from xlabml.tokenizer import Tokenizer

from .hashes import document_hash, hash_words

FORMAT = 2
COUNTS = ('n_rows', 'n_documents', 'n_tokens', 'n_bytes', 'n_column_bytes', 'n_pieces')
CHANGED = 'n_changed'
"""The count, where the tokenizer may lose text, of documents that do not come back as they were."""
NO_TOKENS = 'no token'
"""Why a document is left out that the tokenizer makes nothing of."""
_ENDS = {'offsets', 'column_offsets', 'piece_offsets'}
_BATCH_BYTES = 1 << 20  # of texts: every call of a library costs it as much as some kilobytes
_MAX_NAMED_ROWS = 10
_FIXED_TYPES: dict[str, type[np.generic]] = {
    **dict.fromkeys(('offsets', 'n_bytes', 'rows', 'column_offsets'), np.int64),
    'hashes': np.uint64,
    'columns': np.uint8,
}
_PIECE_TYPES: dict[str, type[np.generic]] = dict.fromkeys(('piece_ends', 'piece_offsets'), np.int64)
_LOSSY_TYPES: dict[str, type[np.generic]] = {'end_bytes': np.int64}


class LeftOut(TypedDict):
    """Documents that are left out for one reason: their number, and the rows of the first."""

    count: int
    rows: list[int]


def array_types(tokenizer: Tokenizer, in_pieces: bool) -> dict[str, type[np.generic]]:
    """The arrays of a store, and of a part of it.

    With two more where documents have pieces: `piece_ends`, counted in tokens, and `piece_offsets`, how many pieces end
    with each document. With one more where the tokenizer may lose text: `end_bytes`, how many of a document's raw bytes
    its tokens do not stand for, so that its end of text does (below 0 where they say more than there was).
    """
    return {
        'tokens': np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32,
        **_FIXED_TYPES,
        **(_PIECE_TYPES if in_pieces else {}),
        **({} if tokenizer.is_lossless else _LOSSY_TYPES),
    }


def array_sizes(manifest: dict[str, Any], n_begins: int) -> dict[str, int]:
    """How many numbers each array of a store, or of a part of it, has by its manifest's counts; but `columns` and
    `piece_ends`, which offsets end in.

    Args:
        n_begins: Offsets before the end of the first document: 1 in a store, 0 in a part.
    """
    n = manifest['n_documents']
    sizes = {'tokens': manifest['n_tokens'], 'offsets': n + n_begins, 'n_bytes': n, 'rows': n, 'hashes': 2 * n}
    sizes['column_offsets'] = n_begins + (
        n if manifest.get('columns', manifests.count_values(manifest, 'columns')) else 0
    )
    if {'piece_ends', 'piece_offsets'} & {*manifest['files']}:
        sizes['piece_offsets'] = n + n_begins
    if 'end_bytes' in manifest['files']:
        sizes['end_bytes'] = n
    return sizes


def store_kind(values: dict[str, object], n_begins: int) -> manifests.Kind:
    """What the manifest of a store, or of a part of it, has to say; with more values than counts and what was left
    out."""
    counts = dict.fromkeys(('n_rows', 'n_documents', 'n_tokens', 'n_bytes'), int)
    reason = {'count': int, 'rows': [int]}
    return manifests.Kind(
        FORMAT,
        {name: (dtype,) for name, dtype in (_FIXED_TYPES | _PIECE_TYPES | _LOSSY_TYPES).items()}
        | {'tokens': (np.uint16, np.uint32)},
        {**counts, 'invalid': {frozenset((*REASONS, NO_TOKENS)): reason}, **values},
        lambda manifest: array_sizes(manifest, n_begins),
        frozenset(_PIECE_TYPES | _LOSSY_TYPES),
    )


PART = store_kind(dict.fromkeys(COUNTS, int), n_begins=0)
"""A part of a store."""


@dataclass(frozen=True)
class Job:
    """A source to be tokenized, part by part.

    Args:
        source: The source.
        tokenizer: The tokenizer.
        columns: What to keep beside the texts.
        folder: Where the parts go, each into a folder of its own.
        parts: All of them.
        begun: Plain values that the parts' content follows from.
    """

    source: Source
    tokenizer: Tokenizer
    columns: list[str]
    folder: Path
    parts: list[Part]
    begun: dict[str, Any]

    def part_folder(self, index: int) -> Path:
        """Where a part is, or shall be."""
        return self.folder / 'parts' / f'{index:05d}'

    def missing(self) -> list[int]:
        """The parts that are not there, or not whole."""
        return [index for index in range(len(self.parts)) if read_part(self.part_folder(index)) is None]

    def encode(self, index: int, advance: Callable[[int], None], n_threads: int) -> None:
        """Tokenize a part, unless it is there."""
        part = self.parts[index]
        folder = self.part_folder(index)
        if read_part(folder) is None:
            encode_part(self.source, part, self.tokenizer, self.columns, folder, advance, n_threads)
        else:
            advance(part.n_bytes or 0)


def encode_part(
    source: Source,
    part: Part,
    tokenizer: Tokenizer,
    columns: Sequence[str],
    folder: Path,
    advance: Callable[[int], None] | None = None,
    n_threads: int | None = None,
) -> dict[str, object]:
    """Tokenize a part of a source into a folder of its own, atomically; what is there already is kept.

    The folder's arrays are those of a store, but offsets are ends alone, and rows and offsets count from the part's
    begin.

    Args:
        columns: What to keep beside the texts.
        folder: Where it shall be.
        advance: Told how many bytes of text were done since it was last told.
        n_threads: Threads that tokenize; None: one a core.

    Returns:
        Its manifest: counts, and what was left out and why.

    Raises:
        ValueError: The part is broken, or a column holds what JSON cannot.
    """
    manifest = read_part(folder)
    if manifest is not None:
        return manifest
    with folders.replacing_folder(folder) as partial:
        manifest = _encode(source, part, tokenizer, columns, partial, advance, n_threads)
        manifests.write_manifest(partial, manifest)
    return manifest


def finish_part(folder: Path, source: Source, tokenizer: Tokenizer, files: Sequence[Sequence]) -> None:
    """Make a part that is whole into a store of its own, in place.

    Args:
        files: (path, bytes, time) of each local file of the source, as it was when reading began.
    """
    manifest = manifests.read_manifest(folder, PART)
    for name in _ENDS & {*manifest['files']}:
        ends = np.array(manifests.map_array(folder, name, manifest))
        with folders.ArrayFiles(folder, {name: np.int64}) as arrays:
            arrays.append(**{name: np.concatenate([np.zeros(1, np.int64), ends])})
            manifest['files'] |= arrays.close()
    identity = {'format': FORMAT, 'source': source.fingerprint(), 'tokenizer': tokenizer.hash, 'columns': []}
    about = {'identity': identity, 'source': str(source), 'source_files': list(files), 'columns': []}
    manifests.write_manifest(folder, {**manifest, **about, 'n_vocab': len(tokenizer)})


def read_part(folder: Path) -> dict[str, object] | None:
    """The manifest of a part that is whole; None where it is not."""
    try:
        return manifests.read_manifest(folder, PART)
    except (FileNotFoundError, ValueError):
        return None


def _encode(
    source: Source,
    part: Part,
    tokenizer: Tokenizer,
    columns: Sequence[str],
    folder: Path,
    advance: Callable[[int], None] | None,
    n_threads: int | None,
) -> dict[str, object]:
    dtypes = array_types(tokenizer, source.in_pieces)
    counts = dict.fromkeys((*COUNTS, *(() if tokenizer.is_lossless else (CHANGED,))), 0)
    invalid: dict[str, LeftOut] = {}
    arrays = folders.ArrayFiles(folder, dtypes, sync=False)  # compared with their hashes as they are merged
    with arrays as files, tally.counting() as read:
        for documents, raw in batches(source.read(part, columns), counts, invalid):
            texts, n_pieces = piece_texts(documents, source, part)
            ids, lengths = tokenizer.encode_flat(texts, n_threads)
            if not tokenizer.is_lossless:
                has_tokens = np.add.reduceat(lengths, np.cumsum(n_pieces) - n_pieces) > 0
                if not has_tokens.all():
                    is_kept = np.repeat(has_tokens, n_pieces)
                    texts = list(compress(texts, is_kept))
                    lengths = lengths[is_kept]
                    n_pieces = n_pieces[has_tokens]
                    for document in compress(documents, ~has_tokens):
                        _add_invalid(invalid, NO_TOKENS, 1, [document.row])
                    documents = list(compress(documents, has_tokens))
                    raw = list(compress(raw, has_tokens))
                if not documents:
                    continue
                is_back = tokenizer.round_trips.come_back(texts, ids, lengths, None if source.in_pieces else raw)
                starts = np.cumsum(n_pieces) - n_pieces
                counts[CHANGED] += int((~np.logical_and.reduceat(is_back, starts)).sum())
            piece_ends = np.cumsum(lengths)
            n_pieces = np.cumsum(n_pieces)
            ends = piece_ends[n_pieces - 1]
            sizes = np.fromiter(map(len, raw), np.int64, len(raw))
            said = np.diff(np.cumsum(tokenizer.piece_sizes[ids])[ends - 1], prepend=0)
            if tokenizer.is_lossless:
                assert np.array_equal(said, sizes), f'tokens of {source} do not spell its texts'
            else:
                files.append(end_bytes=sizes - said)
            files.append(
                tokens=ids,
                offsets=counts['n_tokens'] + ends,
                n_bytes=sizes,
                hashes=hash_words(b''.join(map(document_hash, documents, raw))),
                rows=np.fromiter((document.row for document in documents), np.int64, len(documents)),
            )
            if source.in_pieces:
                piece_offsets = counts['n_pieces'] + n_pieces
                files.append(piece_ends=counts['n_tokens'] + piece_ends, piece_offsets=piece_offsets)
                counts['n_pieces'] += len(lengths)
            if columns:
                values = [_column_json(document, source, part) for document in documents]
                sums = np.cumsum([len(value) for value in values])
                files.append(columns=b''.join(values), column_offsets=counts['n_column_bytes'] + sums)
                counts['n_column_bytes'] += int(sums[-1])
            counts['n_tokens'] += len(ids)
            counts['n_bytes'] += int(sizes.sum())
            counts['n_documents'] += len(raw)
            if advance is not None:
                advance(int(sizes.sum()))
        written = files.close()
    return {'format': FORMAT, 'files': written, **counts, 'invalid': invalid, 'read': asdict(read)}


def batches(
    documents: Iterator[Document], counts: dict[str, int], invalid: dict[str, LeftOut]
) -> Iterator[tuple[list[Document], list[bytes]]]:
    """Valid documents and their raw bytes, some at a time.

    Args:
        counts: Its n_rows counts them all.
        invalid: The others are counted here by reason, the first rows named.
    """
    valid: list[Document] = []
    raw: list[bytes] = []
    size = 0
    for document in documents:
        counts['n_rows'] += 1
        data = utf8(document.text)
        if isinstance(data, str):
            _add_invalid(invalid, data, 1, [document.row])
            continue
        valid.append(document)
        raw.append(data)
        size += len(data)
        if size >= _BATCH_BYTES:
            yield valid, raw
            valid = []
            raw = []
            size = 0
    if valid:
        yield valid, raw


def piece_texts(
    documents: Sequence[Document], source: Source, part: Part
) -> tuple[list[str], Int64[np.ndarray, ' documents']]:
    """The texts of the documents' pieces, one after the other, and how many each document has: one, all its text,
    where the source has none.

    Raises:
        ValueError: A document's cuts are not inside its text, or do not rise; or its source does not say that it cuts.
    """
    if source.in_pieces:
        pieces = [
            split_text(document, _name(document, source, part), source.has_empty_pieces) for document in documents
        ]
        return list(chain.from_iterable(pieces)), np.fromiter(map(len, pieces), np.int64, len(pieces))
    for document in documents:
        if document.cuts:
            raise ValueError(
                f'{_name(document, source, part)}: it has cuts, but {type(source).__name__}.in_pieces is False'
            )
    return [str(document.text) for document in documents], np.ones(len(documents), np.int64)


def counts_of(manifest: Mapping[str, object]) -> dict[str, int]:
    """How many files and lines were read, as a manifest says; {} where it does not, as those of earlier versions."""
    found: Any = manifest.get('read')
    return found if manifests.find_misfit(found, {'files': int, 'lines': int}) is None else {}


def merge_invalid(invalid: dict[str, LeftOut], other: dict[str, LeftOut], first_row: int) -> None:
    """Add what a later part, whose rows begin at first_row, left out."""
    for reason, found in other.items():
        _add_invalid(invalid, reason, found['count'], [first_row + row for row in found['rows']])


def _add_invalid(invalid: dict[str, LeftOut], reason: str, count: int, rows: list[int]) -> None:
    seen = invalid.setdefault(reason, {'count': 0, 'rows': []})
    seen['count'] += count
    seen['rows'] += rows[: _MAX_NAMED_ROWS - len(seen['rows'])]


def _column_json(document: Document, source: Source, part: Part) -> bytes:
    try:
        return json.dumps(document.columns, ensure_ascii=False, sort_keys=True).encode('utf-8', 'surrogatepass')
    except TypeError as error:
        raise ValueError(
            f'{_name(document, source, part)}: one of {", ".join(document.columns)} holds what JSON cannot: {error}; '
            'make it text or numbers'
        ) from None


def _name(document: Document, source: Source, part: Part) -> str:
    """A document's place for people: its row in the source, or from where a part begins."""
    first = part.where[0] if part.where else None
    if isinstance(first, Span):
        if len(part.where) == 1 and not first.start:
            return f'{first.path}, row {document.row}'
        unit = 'row group' if kind_of(Path(first.path)) == '.parquet' else 'byte'
        return f'{source}, row {document.row} from {first.path}, {unit} {first.start} on'
    return f'{source}, row {document.row}' + (f' of its part {", ".join(map(str, part.where))}' if part.where else '')
