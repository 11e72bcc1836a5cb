"""What is known of the texts of a corpus of groups, as mapped arrays: made once for its stores, in one pass."""

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int8, Int64, UInt64

from xlabml.artifacts import folders, manifests
from xlabml.batches import IGNORED
from xlabml.data.corpus import Corpus
from xlabml.data.order import scramble
from xlabml.data.store import TokenStore
from xlabml.errors import DataError

from .records import GROUP, INSTRUCTION

_FORMAT = 1
_CHUNK_DOCUMENTS = 4096
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_DTYPES = {
    'offsets': np.int64,
    'begins': np.int64,
    'lengths': np.int64,
    'prompts': np.int64,
    'roles': np.int8,
    'hashes': np.uint64,
    'scores': np.float32,
    'labels': np.int64,
}


class GroupIndex:
    """The texts of all documents of a corpus, numbered one after the other.

    Arrays, all mapped: `offsets` (document i has the texts offsets[i] to offsets[i + 1] - 1), and of each text `begins`
    (its first token, counted over all stores), `lengths` (its tokens, those of its instruction included), `prompts`
    (those of its instruction), `roles`, `hashes` (of its tokens without the instruction), `scores` (0 where there is no
    teacher); of each document `labels`, an index into `classes`.

    Args:
        folder: Where it is.
        manifest: What is in it.
    """

    offsets: Int64[np.ndarray, ' documents+1']
    begins: Int64[np.ndarray, ' texts']
    lengths: Int64[np.ndarray, ' texts']
    prompts: Int64[np.ndarray, ' texts']
    roles: Int8[np.ndarray, ' texts']
    hashes: UInt64[np.ndarray, ' texts']
    scores: Float32[np.ndarray, ' texts']
    labels: Int64[np.ndarray, ' documents']

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.classes: list[str] = manifest['classes']
        self.fingerprint = folders.short_hash([manifest['files'][name]['sha256'] for name in sorted(_DTYPES)])
        for name in _DTYPES:
            setattr(self, name, manifests.map_array(folder, name, manifest))

    def __reduce__(self) -> tuple[Any, ...]:
        return open_index, (self.folder,)


def make_index(corpus: Corpus, folder: Path) -> GroupIndex:
    """Open the index of a corpus; make it where it is not there.

    Args:
        folder: Where such things are kept, each named by what it follows from.

    Raises:
        DataError: A store keeps no roles, some documents have labels and others none, or the disk is full.
    """
    identity = _identity(corpus)
    folder = folder / _name(identity)

    def is_ready() -> bool:
        return (folder / manifests.MANIFEST).exists()

    def build(partial: Path) -> dict[str, Any]:
        classes = _find_classes(corpus)
        numbers = {name: number for number, name in enumerate(classes)}
        with folders.ArrayFiles(partial, _DTYPES) as files:
            files.append(offsets=np.zeros(1, np.int64))
            n_texts = 0
            first_token = 0
            for store in corpus.stores:
                for start in range(0, len(store), _CHUNK_DOCUMENTS):
                    found = _read(store, start, min(start + _CHUNK_DOCUMENTS, len(store)), numbers)
                    n_here = len(found['roles'])
                    found['offsets'] = found['offsets'] + n_texts
                    found['begins'] = found['begins'] + first_token
                    files.append(**found)
                    n_texts += n_here
                first_token += len(store.tokens)
            written = files.close()
        return {'format': _FORMAT, 'identity': identity, 'files': written, 'classes': classes}

    if not is_ready():
        folders.build_folder(folder, build, is_ready)
    return open_index(folder, identity)


def verify_index(corpus: Corpus, folder: Path) -> GroupIndex | None:
    """What `make_index` has written, read in full and compared with its hashes; None where it is not there.

    Raises:
        DataError: It is not as it was written.
    """
    identity = _identity(corpus)
    folder = folder / _name(identity)
    if not folder.exists():
        return None
    manifest = manifests.read_manifest(folder, _KIND, identity)
    manifests.check_files(folder, manifest)
    index = GroupIndex(folder, manifest)
    manifests.check_ends(index.offsets, len(index.roles), folder, 'offsets', in_full=True)
    manifests.check_range(index.begins, 0, corpus.n_tokens, folder, 'begins')
    manifests.check_range(index.lengths, 0, corpus.n_tokens, folder, 'lengths')
    manifests.check_range(index.labels, IGNORED, len(index.classes) - 1, folder, 'labels')
    return index


def describe_verified(corpus: Corpus, folder: Path) -> list[str] | None:
    """A line for people on an index that `verify_index` finds as it was written; None where there is none."""
    index = verify_index(corpus, folder)
    if index is None:
        return None
    return [f'groups: {index.folder} is as it was written ({len(index.roles):,} texts)']


def _identity(corpus: Corpus) -> dict[str, Any]:
    return {'format': _FORMAT, 'stores': [store.fingerprint for store in corpus.stores]}


def _name(identity: dict[str, Any]) -> str:
    return f'groups-{folders.short_hash(identity)}'


def open_index(folder: Path, identity: dict[str, Any] | None = None) -> GroupIndex:
    """Open an index that is there."""
    return GroupIndex(folder, manifests.read_manifest(folder, _KIND, identity))


def _sizes(manifest: dict[str, Any]) -> dict[str, int]:
    n_texts = manifests.count_values(manifest, 'roles')
    of_texts = dict.fromkeys(('begins', 'lengths', 'prompts', 'hashes', 'scores'), n_texts)
    return {**of_texts, 'offsets': manifests.count_values(manifest, 'labels') + 1}


_KIND = manifests.Kind(
    _FORMAT, {name: (dtype,) for name, dtype in _DTYPES.items()}, {'classes': [str], 'identity': dict}, _sizes
)


def _find_classes(corpus: Corpus) -> list[str]:
    """The classes of all documents."""
    found: set[str | int] = set()
    for store in corpus.stores:
        for group in _groups(store, 0, len(store)):
            if 'label' in group:
                found.add(group['label'])
    return number_classes(found)


def number_classes(found: Set[str | int]) -> list[str]:
    """The classes of labels, in the order of their numbers: whole numbers by size, then names by the alphabet.

    Of numbers that run from 0 on, or nearly so, each is its own index: 1 stays 1 where no record has 0.

    Raises:
        DataError: A label is a number and a text.
    """
    numbers = sorted(value for value in found if isinstance(value, int))
    names = sorted(value for value in found if isinstance(value, str))
    if {str(value) for value in numbers} & {*names}:
        raise DataError('a label is a number in some records and a text in others; write it in one way')
    if numbers and numbers[0] >= 0 and numbers[-1] <= 2 * len(numbers):
        numbers = list(range(numbers[-1] + 1))  # numbers from 0 stay what they are, also where one is missing
    return [*map(str, numbers), *names]


def _groups(store: TokenStore, start: int, end: int) -> Iterator[dict[str, Any]]:
    for document in range(start, end):
        group = store.columns(document).get(GROUP)
        if not isinstance(group, dict):
            raise manifests.wrong_values(store.folder, 'columns', f'no roles of document {document}')
        yield group


def _read(store: TokenStore, start: int, end: int, classes: dict[str, int]) -> dict[str, np.ndarray]:
    """The arrays of some documents, offsets and tokens counted from their first and their store's."""
    groups = list(_groups(store, start, end))
    spans = [store.pieces(document) + store.offsets[document] for document in range(start, end)]
    n_pieces = [len(group['roles']) for group in groups]
    if n_pieces != list(map(len, spans)):
        raise manifests.wrong_values(store.folder, 'columns', 'not a role for each piece')
    roles = np.concatenate([np.array(group['roles'], np.int8) for group in groups])
    pieces = np.concatenate(spans)
    is_text = roles != INSTRUCTION
    follows = np.concatenate([[False], ~is_text[:-1]])  # an instruction
    before = np.concatenate([[0], pieces[:-1, 1] - pieces[:-1, 0]])
    prompts = np.where(follows, before, 0)
    of_document = np.repeat(np.arange(len(groups)), n_pieces)
    n_texts = np.bincount(of_document[is_text], minlength=len(groups))
    scores = [group.get('scores', [0.0] * n) for group, n in zip(groups, n_texts.tolist())]
    return {
        'offsets': np.cumsum(n_texts),
        'begins': (pieces[:, 0] - prompts)[is_text],
        'lengths': (pieces[:, 1] - pieces[:, 0] + prompts)[is_text],
        'prompts': prompts[is_text],
        'roles': roles[is_text],
        'hashes': _hash_texts(store, pieces[is_text]),
        'scores': np.concatenate([np.array(some, np.float32) for some in scores]),
        'labels': np.array([classes[str(g['label'])] if 'label' in g else IGNORED for g in groups], np.int64),
    }


def _hash_texts(store: TokenStore, spans: Int64[np.ndarray, 'texts 2']) -> UInt64[np.ndarray, ' texts']:
    """64 bits of each text: the sum over its tokens of a random number for each token and place."""
    first = int(spans[0, 0]) if len(spans) else 0
    last = int(spans[-1, 1]) if len(spans) else 0
    tokens = store.tokens[first:last].astype(np.uint64)
    lengths = spans[:, 1] - spans[:, 0]
    starts = spans[:, 0] - first
    place = np.zeros(len(tokens), np.uint64)
    is_new = np.repeat(starts, lengths)
    inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place[is_new + inside] = inside.astype(np.uint64)
    with np.errstate(over='ignore'):
        mixed = scramble(scramble(tokens + np.uint64(1)) + place * _GOLDEN)
        before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        return scramble(before[starts + lengths] - before[starts] + lengths.astype(np.uint64) * _GOLDEN)
