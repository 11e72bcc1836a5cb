"""Counting the n-grams of any number of texts with bounded memory: order by order, chunk by chunk, merged on disk.

The number of an n-gram is its place among the sorted ones of its order; an n-gram is counted by the number of its first
n - 1 tokens and its last token, as one key of 64 bits. So n-grams are in the order of their tokens, those of one
context lie side by side, and no order is too long for a key.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from xlabml.artifacts.folders import ArrayFile, new_folder
from xlabml.artifacts.manifests import Written, write_manifest
from xlabml.errors import DataError, SettingsError

from .discounts import N_COUNTED, find_discounts
from .folder import COUNTS, FLOATS, FORMAT, KEYS, MAX_ORDER
from .sorting import Runs

CHUNK_TOKENS = 1 << 22
"""Tokens that are held at a time, and about as many n-grams."""

_NONE = np.uint32((1 << 32) - 1)
"""The number of what is no n-gram, since a text begins within it."""

Report = Callable[[str, int, int | None], None]
"""Told what is done, and how many tokens of how many."""


class Documents(NamedTuple):
    """Texts as token ids, without start and end of text.

    Args:
        ids: Those of each text, read once.
        n_vocab: How many tokens the tokenizer has.
        sos: The token before each text.
        eos: The token behind each.
        tokenizer: The hash of the tokenizer.
    """

    ids: Iterable[np.ndarray]
    n_vocab: int
    sos: int
    eos: int
    tokenizer: str


def count_ngrams(
    documents: Documents,
    folder: Path,
    order: int = 5,
    held_out: Sequence[np.ndarray] = (),
    report: Report | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> None:
    """Count n-grams into a new folder, which is there as a whole or not at all.

    Args:
        documents: The texts.
        folder: Where they go; there must be nothing of that name.
        order: The longest n-gram, start of text included.
        held_out: Texts that are not counted, kept beside the counts for fitting gates.
        report: Told how far it is.
        chunk_tokens: Tokens that are held at a time.

    Raises:
        SettingsError: The order is out of range.
        DataError: There is no text, or there are more tokens than 32 bits count.
        OSError: The folder is there already, or cannot be written.
    """
    if not 2 <= order <= MAX_ORDER:
        raise SettingsError(f'order is {order}; give 2 to {MAX_ORDER}')
    with new_folder(folder) as partial:
        write_manifest(partial, _Counter(documents, partial, order, report or _be_silent, chunk_tokens).run(held_out))


class _Counter:
    """The counting of one corpus.

    Scratch files hold, for each token of the corpus, its id and the number of the n-gram that ends at it.
    """

    def __init__(self, documents: Documents, folder: Path, order: int, report: Report, chunk_tokens: int) -> None:
        self.documents = documents
        self.folder = folder
        self.order = order
        self.report = report
        self.chunk_tokens = chunk_tokens
        self.n_tokens = 0
        self.n_documents = 0
        self.files: dict[str, Written] = {}
        self.counts_of_counts: list[list[int]] = []

    def run(self, held_out: Sequence[np.ndarray]) -> dict[str, object]:
        """Write all arrays, and return the manifest."""
        self._write_tokens()
        first_keys = self._write_levels()
        self._write_counts(first_keys)
        for path in self.folder.glob('*.tmp'):
            path.unlink()
        self._write('held_out_ids', COUNTS, [np.concatenate([*held_out, np.zeros(0, COUNTS)])])
        self._write('held_out_ends', KEYS, [np.cumsum([len(text) for text in held_out], dtype=np.int64)])
        return {
            'format': FORMAT,
            'files': self.files,
            'order': self.order,
            'n_vocab': self.documents.n_vocab,
            'sos': self.documents.sos,
            'eos': self.documents.eos,
            'tokenizer': self.documents.tokenizer,
            'n_tokens': self.n_tokens - self.n_documents,
            'n_documents': self.n_documents,
            'counts_of_counts': self.counts_of_counts,
        }

    # The tokens

    def _write_tokens(self) -> None:
        """All texts back to back, each between its start and its end."""
        sos = np.array([self.documents.sos], np.uint32)
        eos = np.array([self.documents.eos], np.uint32)
        texts = (ids for ids in self.documents.ids if len(ids))
        with (self.folder / 'tokens.tmp').open('wb') as tokens, (self.folder / 'starts.tmp').open('wb') as starts:
            while some := list(islice(texts, 256)):
                lengths = [len(ids) + 2 for ids in some]
                starts.write((self.n_tokens + np.cumsum([0, *lengths[:-1]], dtype=np.int64)).tobytes())
                tokens.write(
                    np.concatenate([part for ids in some for part in (sos, ids, eos)]).astype(COUNTS).tobytes()
                )
                self.n_tokens += sum(lengths)
                self.n_documents += len(some)
                self.report('reading', self.n_tokens, None)
        if not self.n_documents:
            raise DataError('there is no text to count n-grams of; name files that have some')
        if self.n_tokens >= int(_NONE):
            raise DataError(
                f'the texts have {self.n_tokens:,} tokens, more than the {int(_NONE):,} that can be counted'
            )

    def _chunks(self, numbers: np.ndarray) -> Iterator['_Chunk']:
        """The corpus in chunks, each with the numbers of the n-grams that end at its tokens and just before."""
        tokens = self._map('tokens', np.uint32)
        starts = self._map('starts', np.int64)
        for begin in range(0, self.n_tokens, self.chunk_tokens):
            end = min(begin + self.chunk_tokens, self.n_tokens)
            is_start = np.zeros(end - begin, bool)
            first, last = np.searchsorted(starts, [begin, end])
            is_start[starts[first:last] - begin] = True
            before = np.concatenate([numbers[begin - 1 : begin] if begin else [_NONE], numbers[begin : end - 1]])
            yield _Chunk(begin, tokens[begin:end], before.astype(np.uint32), is_start)

    # The n-grams of each order

    def _write_levels(self) -> list[tuple[int, int]]:
        """Keys, raw counts and suffixes of each order.

        Returns:
            For each order the numbers of the first n-gram, and behind the last, that begin with the start of a text.
        """
        n_vocab = self.documents.n_vocab
        begins = [(self.documents.sos, self.documents.sos + 1)]
        for n in range(2, self.order + 1):
            numbers = self._map('tokens' if n == 2 else f'numbers_{n - 1}', np.uint32)
            runs = Runs(self.folder, self.chunk_tokens)
            for chunk in self._chunks(numbers):
                runs.add(chunk.keys(n_vocab))
                self.report(f'counting order {n}', chunk.begin // 2, self.n_tokens)
            raw = ArrayFile(self.folder / f'raw_{n}.tmp', COUNTS, sync=False)
            keys_file = ArrayFile(self.folder / f'keys_{n}.bin', KEYS)
            n_keys = 0
            for keys, counts in runs.merged():
                keys_file.append(keys)
                raw.append(counts)
                n_keys += len(keys)
            raw.close()
            self.files[f'keys_{n}'] = keys_file.close()
            keys = self._map(f'keys_{n}', KEYS, 'bin')
            self._number(n, numbers, keys)
            low, high = np.searchsorted(keys, np.array(begins[-1]) * n_vocab)
            begins.append((int(low), int(high)))
        return begins

    def _number(self, n: int, numbers: np.ndarray, keys: Integer[np.ndarray, ' m']) -> None:
        """Write the number of the n-gram that ends at each token; of each n-gram that of its last n - 1 tokens."""
        path = self.folder / f'suffixes_{n}.tmp'
        path.touch()
        suffixes = np.memmap(path, COUNTS, 'r+', shape=(len(keys),)) if len(keys) else np.zeros(0, COUNTS)
        with (self.folder / f'numbers_{n}.tmp').open('wb') as file:
            for chunk in self._chunks(numbers):
                there = np.flatnonzero(chunk.is_inside)
                own = chunk.keys(self.documents.n_vocab)
                order = np.argsort(own)
                sorted_keys = own[order]
                firsts = np.diff(sorted_keys, prepend=-1) > 0
                found = np.searchsorted(keys, sorted_keys[firsts])
                suffixes[found] = numbers[chunk.begin + there[order[firsts]]]
                if n < self.order:
                    made = np.full(len(chunk.tokens), _NONE)
                    made[there[order]] = found[np.cumsum(firsts) - 1]
                    made.tofile(file)
                self.report(f'counting order {n}', (self.n_tokens + chunk.begin) // 2, self.n_tokens)
        del suffixes  # which writes it

    # What probabilities are made of

    def _write_counts(self, begins: Sequence[tuple[int, int]]) -> None:
        """Counts, totals and back-off shares of each order."""
        for n in range(1, self.order + 1):
            keys = None if n == 1 else self._map(f'keys_{n}', KEYS, 'bin')
            counts = self._map(f'raw_{n}', COUNTS) if n == self.order else self._continuations(n, keys, begins[n - 1])
            self._write(f'counts_{n}', COUNTS, self._blocks(counts))
            found = np.zeros(N_COUNTED + 2, np.int64)
            for block in self._blocks(counts):
                found += np.bincount(np.minimum(block, N_COUNTED + 1), minlength=N_COUNTED + 2)
            self.counts_of_counts.append(found[1 : N_COUNTED + 1].tolist())
            if keys is not None:
                self._write_contexts(n, keys, counts)

    def _continuations(self, n: int, keys: np.ndarray | None, begins: tuple[int, int]) -> Integer[np.ndarray, ' m']:
        """How many tokens each n-gram is known to follow; of those that begin with the start of a text, which nothing
        precedes, how often they occur (as in KenLM: Heafield et al. 2013, https://aclanthology.org/P13-2121)."""
        n_counts = self.documents.n_vocab if keys is None else len(keys)
        if not n_counts:
            return np.zeros(0, COUNTS)
        counts = np.memmap(self.folder / f'continuations_{n}.tmp', COUNTS, 'w+', shape=(n_counts,))
        for block in self._blocks(self._map(f'suffixes_{n + 1}', COUNTS)):
            found, n_times = np.unique(block, return_counts=True)
            counts[found] += n_times.astype(COUNTS)
        if keys is not None:
            low, high = begins
            counts[low:high] = self._map(f'raw_{n}', COUNTS)[low:high]
        return counts

    def _write_contexts(self, n: int, keys: Integer[np.ndarray, ' m'], counts: Integer[np.ndarray, ' m']) -> None:
        """Of each context the sum of its counts, and the share of the probability that the order below gets."""
        n_vocab = self.documents.n_vocab
        n_contexts = n_vocab if n == 2 else len(self._map(f'keys_{n - 1}', KEYS, 'bin'))
        discounts = find_discounts(self.counts_of_counts[-1])
        totals_file = ArrayFile(self.folder / f'totals_{n}.bin', COUNTS)
        backoffs_file = ArrayFile(self.folder / f'backoffs_{n}.bin', FLOATS)
        place = 0
        context = 0
        while context < n_contexts:
            end = len(keys)
            next_context = n_contexts
            if place + self.chunk_tokens < len(keys):  # up to the last context that ends within a chunk, at least one
                next_context = max(int(keys[place + self.chunk_tokens]) // n_vocab, int(keys[place]) // n_vocab + 1)
                end = int(np.searchsorted(keys, next_context * n_vocab))
            member = keys[place:end] // n_vocab - context
            some = counts[place:end]
            size = next_context - context
            totals = np.bincount(member, some, size)
            taken = np.bincount(member, discounts[np.minimum(some, 3)], size)
            totals_file.append(totals)
            backoffs_file.append(taken / np.maximum(totals, 1))
            place = end
            context = next_context
        self.files |= {f'totals_{n}': totals_file.close(), f'backoffs_{n}': backoffs_file.close()}

    # Files

    def _blocks(self, values: np.ndarray) -> Iterator[np.ndarray]:
        for begin in range(0, len(values), self.chunk_tokens):
            yield values[begin : begin + self.chunk_tokens]

    def _map(self, name: str, dtype: np.dtype | type, ending: str = 'tmp') -> np.ndarray:
        path = self.folder / f'{name}.{ending}'
        return np.asarray(np.memmap(path, dtype, 'r')) if path.stat().st_size else np.zeros(0, dtype)

    def _write(self, name: str, dtype: np.dtype, parts: Iterable[np.ndarray]) -> None:
        file = ArrayFile(self.folder / f'{name}.bin', dtype)
        for values in parts:
            file.append(values)
        self.files[name] = file.close()


class _Chunk(NamedTuple):
    """A stretch of the corpus.

    Args:
        begin: Its first token's place.
        tokens: Its tokens.
        before: The number of the n-gram, one order below, that ends just before each.
        is_start: Whether a token is the start of a text.
    """

    begin: int
    tokens: Integer[np.ndarray, ' t']
    before: Integer[np.ndarray, ' t']
    is_start: Bool[np.ndarray, ' t']

    @property
    def is_inside(self) -> Bool[np.ndarray, ' t']:
        """Whether an n-gram that lies in one text ends at each token."""
        return (self.before != _NONE) & ~self.is_start

    def keys(self, n_vocab: int) -> Integer[np.ndarray, ' n']:
        """The keys of these n-grams."""
        inside = self.is_inside
        return self.before[inside].astype(np.int64) * n_vocab + self.tokens[inside]


def _be_silent(*_: object) -> None:
    """Report to nobody."""
