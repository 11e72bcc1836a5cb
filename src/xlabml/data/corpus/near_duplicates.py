"""Documents that are nearly those of others: found by MinHash signatures of their n-grams of tokens.

Two documents' signatures agree in about as many places as their sets of n-grams have in common (Jaccard similarity:
n-grams in both over n-grams in either). Documents that agree in a whole band of places are compared; there are as many
bands as it takes to compare a pair at the threshold with a probability of 95 %. Signatures come from the library rensa.
Source: Broder 1997, On the resemblance and containment of documents, https://doi.org/10.1109/SEQUEN.1997.666900.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8, UInt32, UInt64

from xlabml.artifacts import folders, manifests
from xlabml.data.store import Report, TokenStore
from xlabml.plain import PlainDict

from .buckets import sorted_buckets

_FORMAT = 1
_KIND = manifests.Kind(
    _FORMAT,
    {'later': (np.int64,), 'earlier': (np.int64,), 'similarity': (np.float32,)},
    {},
    lambda manifest: dict.fromkeys(('earlier', 'similarity'), manifests.count_values(manifest, 'later')),
)
_CHUNK_TOKENS = 1 << 20
_CHUNK_DOCUMENTS = 1 << 16
_CHUNK_PAIRS = 1 << 15
_RECALL = 0.95  # at the threshold; more above it
_MAX_COMPARED = 16
_SEED = 0


class NearDuplicates:
    """Looks for documents that are nearly those of others (extra `dedup`).

    Args:
        threshold: How alike two documents are to be called near-duplicates: the share of the n-grams in either that
            are in both, above 0 and at most 1.
        ngram_tokens: Tokens of an n-gram; a shorter document is one n-gram.
        n_permutations: Numbers in a document's signature, 4 bytes each on the disk. The similarity is estimated from
            them, with a standard deviation of at most 0.5 / sqrt(n_permutations).
        action: `report`: prepare_data and compute_stats tell of them; `drop`: what an earlier document is nearly equal
            to is in no split; `refuse`: `fit` is refused where train has near-duplicates of another split.
    """

    def __init__(
        self,
        threshold: float = 0.8,
        ngram_tokens: int = 5,
        n_permutations: int = 128,
        action: Literal['report', 'drop', 'refuse'] = 'report',
    ) -> None:
        self.threshold = threshold
        self.ngram_tokens = ngram_tokens
        self.n_permutations = n_permutations
        self.action = action
        if not 0 < threshold <= 1:
            raise ValueError(f'data.near_duplicates.threshold is {threshold}; it is a share, above 0 and at most 1')
        for name in ('ngram_tokens', 'n_permutations'):
            if getattr(self, name) < 1:
                raise ValueError(f'data.near_duplicates.{name} is {getattr(self, name)}; it must be at least 1')
        if action not in ('report', 'drop', 'refuse'):
            raise ValueError(f'data.near_duplicates.action is {action!r}; it is report, drop or refuse')
        if self.bands() is None:
            raise ValueError(
                f'data.near_duplicates.n_permutations is {n_permutations}, too few to find documents that are '
                f'{threshold:g} alike; give it more'
            )

    def bands(self) -> tuple[int, int] | None:
        """How many bands a signature is cut into, and of how many numbers: the longest ones that find a pair at the
        threshold with a probability of 95 %; None where there are none."""
        for size in range(self.n_permutations, 0, -1):
            n = self.n_permutations // size
            if 1 - (1 - self.threshold**size) ** n >= _RECALL:
                return n, size
        return None


class NearPairs(NamedTuple):
    """What was found: pairs of documents, counted over all stores; one may be there twice.

    Args:
        later: The one that comes later.
        earlier: The one that comes earlier.
        similarity: About how alike they are.
        n_documents: The number of documents compared.
        fingerprint: A short name for what this follows from.
    """

    later: Int64[np.ndarray, ' pairs']
    earlier: Int64[np.ndarray, ' pairs']
    similarity: Float32[np.ndarray, ' pairs']
    n_documents: int
    fingerprint: str

    def marks(self) -> UInt8[np.ndarray, ' documents']:
        """1 for each document that an earlier one is nearly equal to."""
        marks = np.zeros(self.n_documents, np.uint8)
        marks[self.later] = 1
        return marks

    def examples(self, where: np.ndarray | slice = slice(None), n: int = 5) -> list[tuple[int, int, float]]:
        """The first few pairs, of some of them: (later, earlier, similarity); each document once."""
        found: dict[int, tuple[int, int, float]] = {}
        for later, earlier, similarity in zip(self.later[where], self.earlier[where], self.similarity[where]):
            found.setdefault(int(later), (int(later), int(earlier), float(similarity)))
            if len(found) == n:
                break
        return sorted(found.values())


def open_near_duplicates(
    stores: Sequence[TokenStore],
    settings: NearDuplicates,
    copies: UInt8[np.ndarray, ' documents'] | None,
    folder: Path,
    report: Report | None = None,
) -> NearPairs:
    """The near-duplicates among the documents of some stores: looked up, or looked for.

    Memory: about 200 MB, and 24 bytes for each pair that is found; the disk holds 4 bytes for each document and
    permutation meanwhile. In a group of documents that agree in a band, each is compared with the first of the group
    and the 16 before it; so what very many documents share is found, but not each of its pairs.

    Args:
        copies: 1 for each document that is left out, an exact copy of an earlier one.
        folder: Where found pairs are kept, each set named by its stores and settings.
        report: Told how far it is.

    Raises:
        ValueError: The package rensa is missing, the disk is full, or what is there is not as it was written.
    """
    identity = _identity(stores, settings, copies is not None)
    folder = folder / folders.short_hash(identity)

    def is_ready() -> bool:
        return (folder / manifests.MANIFEST).exists()

    def build(partial: Path) -> dict[str, object]:
        signatures = _write_signatures(stores, settings, partial / 'signatures', report)
        with folders.ArrayFiles(partial, {name: dtype for name, (dtype,) in _KIND.dtypes.items()}) as files:
            for later, earlier, similarity in _find_pairs(signatures, settings, copies, partial):
                files.append(later=later, earlier=earlier, similarity=similarity)
            written = files.close()
        del signatures
        (partial / 'signatures').unlink()
        return {'format': _FORMAT, 'identity': identity, 'files': written}

    if not is_ready():
        folders.build_folder(folder, build, is_ready)
    return _open(folder, identity, sum(map(len, stores)))


def verify_near_duplicates(
    stores: Sequence[TokenStore], settings: NearDuplicates, without_copies: bool, folder: Path
) -> NearPairs | None:
    """What `open_near_duplicates` has written, compared with its hashes; None where it is not there.

    Raises:
        ValueError: It is not as it was written.
    """
    identity = _identity(stores, settings, without_copies)
    folder = folder / folders.short_hash(identity)
    if not folder.exists():
        return None
    manifests.check_files(folder, manifests.read_manifest(folder, _KIND, identity))
    return _open(folder, identity, sum(map(len, stores)))


def _open(folder: Path, identity: PlainDict, n_documents: int) -> NearPairs:
    manifest = manifests.read_manifest(folder, _KIND, identity)
    later, earlier, similarity = (manifests.map_array(folder, name, manifest) for name in _KIND.dtypes)
    for name, documents in (('later', later), ('earlier', earlier)):
        manifests.check_range(documents, 0, n_documents - 1, folder, name)
    return NearPairs(later, earlier, similarity, n_documents, folder.name)


def _identity(stores: Sequence[TokenStore], settings: NearDuplicates, without_copies: bool) -> PlainDict:
    return {
        'format': _FORMAT,
        'stores': [store.fingerprint for store in stores],
        'without_copies': without_copies,
        **{name: getattr(settings, name) for name in ('threshold', 'ngram_tokens', 'n_permutations')},
    }


def ngram_hashes(
    tokens: np.ndarray, offsets: Int64[np.ndarray, ' ends'], n: int
) -> tuple[UInt64[np.ndarray, ' ngrams'], UInt64[np.ndarray, ' ends']]:
    """A hash of each n-gram of some documents, and where each document's begin and end.

    Args:
        tokens: Their tokens, back to back.
        offsets: Where in them each begins and ends, the first at 0.
        n: Tokens of an n-gram; a document of fewer tokens is one.
    """
    counts = np.maximum(np.diff(offsets) - n + 1, 1)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    document = np.repeat(np.arange(len(counts)), counts)
    starts = np.arange(bounds[-1]) - bounds[document] + offsets[document]
    ends = offsets[document + 1]
    hashes = np.zeros(len(starts), np.uint64)
    for i in range(n):
        at = starts + i
        inside = at < ends
        id = np.where(inside, tokens[np.where(inside, at, 0)].astype(np.uint64) + np.uint64(1), np.uint64(0))
        hashes = (hashes ^ id) * np.uint64(0x9E3779B97F4A7C15)  # an odd constant: no two ids are mixed up
        hashes ^= hashes >> np.uint64(32)
    return hashes, bounds.astype(np.uint64)


def _write_signatures(
    stores: Sequence[TokenStore], settings: NearDuplicates, path: Path, report: Report | None
) -> UInt32[np.ndarray, 'documents permutations']:
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise ValueError(
            f'data.near_duplicates needs the package rensa ({error}): pip install "xlabml[dedup]", or leave it out'
        ) from error
    done = 0
    total = sum(int(store.n_bytes.sum()) for store in stores)
    with path.open('wb') as file:
        for store in stores:
            for start, end in _chunks(store.offsets):
                offsets = store.offsets[start : end + 1]
                hashes, bounds = ngram_hashes(
                    store.tokens[offsets[0] : offsets[-1]], offsets - offsets[0], settings.ngram_tokens
                )
                found = RMinHash.digest_matrix_from_flat_token_hashes(hashes, bounds, settings.n_permutations, _SEED)
                file.write(np.array(found.to_rows(), np.uint32).tobytes())
                done += int(store.n_bytes[start:end].sum())
                if report is not None:
                    report('looking for near-duplicates', done, total)
    return np.memmap(path, np.uint32, 'r').reshape(-1, settings.n_permutations)


def _chunks(offsets: Int64[np.ndarray, ' ends']) -> Iterator[tuple[int, int]]:
    """Documents of about a million tokens at a time, at least one."""
    start = 0
    n = len(offsets) - 1
    while start < n:
        end = int(np.searchsorted(offsets, offsets[start] + _CHUNK_TOKENS, 'right')) - 1
        end = min(max(end, start + 1), start + _CHUNK_DOCUMENTS, n)
        yield start, end
        start = end


def _find_pairs(
    signatures: UInt32[np.ndarray, 'documents permutations'],
    settings: NearDuplicates,
    copies: UInt8[np.ndarray, ' documents'] | None,
    scratch: Path,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs that are alike enough, some at a time: (later, earlier, similarity)."""
    bands = settings.bands()
    assert bands is not None
    n_bands, size = bands
    n = len(signatures)
    for band in range(n_bands):

        def keys(begin: int = band * size) -> Iterator[UInt64[np.ndarray, '_ 2']]:
            for start in range(0, n, _CHUNK_DOCUMENTS):
                some = signatures[start : start + _CHUNK_DOCUMENTS, begin : begin + size].astype(np.uint64)
                key = np.zeros(len(some), np.uint64)
                for column in some.T:
                    key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
                    key ^= key >> np.uint64(29)
                numbers = np.arange(start, start + len(some), dtype=np.uint64)
                records = np.column_stack([key, numbers])
                yield records if copies is None else records[copies[start : start + len(some)] == 0]

        for records in sorted_buckets(keys(), n, 2, scratch):
            for later, earlier in _candidates(records[:, 0], records[:, 1].astype(np.int64)):
                for at in range(0, len(later), _CHUNK_PAIRS):
                    one = later[at : at + _CHUNK_PAIRS]
                    other = earlier[at : at + _CHUNK_PAIRS]
                    alike = (signatures[one] == signatures[other]).mean(axis=1, dtype=np.float32)
                    near = alike >= settings.threshold
                    yield one[near], other[near], alike[near]


def _candidates(
    keys: UInt64[np.ndarray, ' n'], numbers: Int64[np.ndarray, ' n']
) -> Iterator[tuple[Int64[np.ndarray, ' pairs'], Int64[np.ndarray, ' pairs']]]:
    """Pairs of documents with the same key, sorted by it and then by number."""
    is_first = np.ones(len(keys), bool)
    is_first[1:] = keys[1:] != keys[:-1]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
    for step in range(1, _MAX_COMPARED + 1):
        same = keys[step:] == keys[:-step]
        yield numbers[step:][same], numbers[:-step][same]
    far = np.flatnonzero(np.arange(len(keys)) - first > _MAX_COMPARED)
    yield numbers[far], numbers[first[far]]
