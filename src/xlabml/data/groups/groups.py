"""Groups of whole texts as the tensors that a model reads: flat rows of texts, and what is known of each text."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt64

from xlabml.artifacts.hashes import hash_bytes, short_hash
from xlabml.batches import Batch, Layout, PairTargets, Targets
from xlabml.data.corpus import Corpus
from xlabml.data.order import slot_keys
from xlabml.data.rows import Examples, ranges
from xlabml.errors import SettingsError
from xlabml.tokenizer import Tokenizer

from .index import GroupIndex
from .records import GROUP
from .text_rows import DrawnTexts, TextRows, fill_rows

_MAX_NEGATIVE = 1 << 63


class TextLimits(NamedTuple):
    """How much of a record goes into an example.

    Args:
        roles: The names of the roles, by their numbers.
        max_tokens: For each role, the most tokens of a text, without those around it.
        n_drawn: For each role, how many texts of an example, drawn anew in each pass; None: all.
        max_len: The most slots of a text, with the tokens around it and its prompt.
        row_slots: Slots of a row; None: one row for all texts of a batch.
    """

    roles: tuple[str, ...]
    max_tokens: tuple[int, ...]
    n_drawn: tuple[int | None, ...]
    max_len: int
    row_slots: int | None = None


class Prompts:
    """Texts that are put before those of a role; the task sets them, since they are its network's.

    Attributes:
        texts: By the name of a role.
    """

    def __init__(self) -> None:
        self.texts: Mapping[str, str] = {}


class Groups(Examples):
    """The groups of a split: an example is the texts of a document.

    A text takes the slots sos, those of its prompt, its tokens and eos, and is a segment.

    Args:
        corpus: Holds the tokens.
        index: Of the corpus.
        documents: The documents of the split.
        tokenizer: The one that the stores were made with.
        limits: How much of a record goes into an example.
        prompts: What is put before the texts.
        set_number: The number of the data set.

    Raises:
        ValueError: The tokenizer is another one.
    """

    def __init__(
        self,
        corpus: Corpus,
        index: GroupIndex,
        documents: Int64[np.ndarray, ' groups'],
        tokenizer: Tokenizer,
        limits: TextLimits,
        prompts: Prompts | None = None,
        set_number: int = 0,
    ) -> None:
        if tokenizer.hash != corpus.tokenizer_hash:
            raise ValueError(
                f'the token stores were made with another tokenizer, of {corpus.n_vocab} tokens, than this one of '
                f'{len(tokenizer)}; run prepare_data with it, or take the other'
            )
        self.corpus = corpus
        self.index = index
        self.documents = documents
        self.tokenizer = tokenizer
        self.limits = limits
        self.prompts = Prompts() if prompts is None else prompts
        self.set_number = set_number
        self._starts = np.cumsum([0, *map(len, corpus.by_store(documents))])
        self._ends = tokenizer.special_ids['sos'], tokenizer.special_ids['eos']
        self._pad = tokenizer.special_ids['pad']
        group = corpus.columns(int(documents[0])).get(GROUP, {}) if len(documents) else {}
        self._has_scores = 'scores' in group
        self._d_vector = len(group['vectors'][0]) if 'vectors' in group else 0

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def fingerprint(self) -> str:
        known = [self.index.fingerprint, hash_bytes(self.documents.tobytes()), *map(list, self.limits[:3])]
        return short_hash([*known, self.limits.max_len])

    @property
    def texts_fingerprint(self) -> str:
        """A hash of the whole texts and their labels, however much of them a model reads."""
        stores = [store.fingerprint for store in self.corpus.stores]
        return short_hash([*stores, self.index.fingerprint, hash_bytes(self.documents.tobytes()), *self.limits.roles])

    @property
    def source_starts(self) -> list[int]:
        return self._starts.tolist()

    @property
    def source_counted(self) -> list[int]:
        return np.diff(self._starts).tolist()

    @property
    def classes(self) -> list[str]:
        """The classes of the labels, in the order of their numbers; [] where there are no labels."""
        return self.index.classes

    @property
    def has_scores(self) -> bool:
        """Whether the texts have scores."""
        return self._has_scores

    def counts(self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        """1 for each group."""
        return (numbers >= 0).astype(np.int64)

    def name(self, document: int) -> str:
        return self.corpus.name(document)

    # What batching asks

    def labels(self, numbers: Int64[np.ndarray, ' groups']) -> Int64[np.ndarray, ' groups']:
        """The class of each group; IGNORED where it has none."""
        return self.index.labels[self.documents[numbers]]

    def stores(self, numbers: Int64[np.ndarray, ' groups']) -> Int64[np.ndarray, ' groups']:
        """The source of each group."""
        return np.searchsorted(self._starts, numbers, 'right') - 1

    def hashes(
        self, numbers: Int64[np.ndarray, ' groups']
    ) -> tuple[UInt64[np.ndarray, ' texts'], Int64[np.ndarray, ' groups+1']]:
        """Hashes of the texts of the groups, one after the other, and where those of each begin."""
        texts, n_texts = self._texts(self.documents[numbers])
        return self.index.hashes[texts], np.concatenate([[0], np.cumsum(n_texts)])

    # Batches

    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        """Groups as a batch: their texts as segments, by group, then by role.

        Every row has as many segments, empty ones at its end, so that a row can be read on its own. Slots and segments
        are rounded up to an eighth of a power of two: few shapes come, so that compiled code is not made anew.

        Args:
            numbers: Of the groups; -1 is an empty place, of which nothing comes.
            keys: The key of each group: which of several texts of a role are drawn follows from it.
            n_counted: The number of groups of the whole optimizer step.
            seed: The seed of the step's randomness.
        """
        keys = keys[numbers >= 0]
        numbers = numbers[numbers >= 0]
        example, text = self._draw(numbers, keys)
        role = self.index.roles[text].astype(np.int64)
        prompts = self._prompt_ids()
        n_prompt = np.array([len(ids) for ids in prompts], np.int64)[role]
        n_before = self.index.prompts[text]
        limit = np.minimum(np.array(self.limits.max_tokens)[role] + n_before, self.limits.max_len - 2 - n_prompt)
        n_tokens = np.minimum(self.index.lengths[text], limit)
        lengths = n_tokens + n_prompt + 2

        row, row_slots, n_rows = fill_rows(lengths, self.limits.row_slots)
        rows = TextRows.of(lengths, row, n_rows, row_slots, min(self.limits.max_len, row_slots))
        begins = rows.begins
        ids = np.full(n_rows * row_slots, self._pad, np.int64)
        ids[begins] = self._ends[0]
        ids[begins + lengths - 1] = self._ends[1]
        for number, prompt in enumerate(prompts):
            here = begins[role == number]
            ids[here[:, None] + np.arange(1, len(prompt) + 1)] = prompt
        ids[ranges(begins + 1 + n_prompt, n_tokens)] = self.corpus.tokens_at(ranges(self.index.begins[text], n_tokens))

        skipped = n_prompt + np.minimum(n_before, n_tokens)
        drawn = DrawnTexts(numbers, example, text, np.where(skipped > 0, skipped + 1, 0), rows)
        documents = rows.spread(self.documents[numbers[example]], -1)
        layout = Layout(
            torch.from_numpy(rows.starts), min(self.limits.max_len, row_slots), torch.from_numpy(documents >= 0)
        )
        return Batch(
            torch.from_numpy(ids).view(n_rows, row_slots),
            layout,
            torch.from_numpy(documents),
            torch.from_numpy(rows.spread(example, -1)),
            torch.from_numpy(rows.spread(role, 0)),
            self.make_targets(drawn),
            n_counted,
            seed,
        )

    def make_targets(self, drawn: DrawnTexts) -> Targets:
        """What is known of the texts of a batch."""
        rows = drawn.rows
        return PairTargets(
            torch.from_numpy(rows.spread(self.index.scores[drawn.text], 0)) if self._has_scores else None,
            torch.from_numpy(self.labels(drawn.numbers)) if self.classes else None,
            self._vectors(drawn) if self._d_vector else None,
            torch.from_numpy(rows.spread(self.index.hashes[drawn.text].view(np.int64), 0)),
            self.set_number,
            torch.from_numpy(rows.spread(drawn.n_prompt, 0)),
        )

    def render(self, number: int) -> list[tuple[str, str]]:
        """The texts of a group, each its role and what the model reads of it."""
        if not 0 <= number < len(self):
            raise SettingsError(f'there is no group {number}; groups are 0 to {len(self) - 1}')
        document = self.documents[[number]]
        found = [('group', self.corpus.name(int(document[0])))]
        texts, _ = self._texts(document)
        for text in texts.tolist():
            role = int(self.index.roles[text])
            start = int(self.index.begins[text])
            n_cut = self._cut(np.array([text]))[0]
            end = start + int(self.index.lengths[text]) - int(n_cut)
            ids = self.corpus.tokens_at(np.arange(start, end)).tolist()
            shown = self.tokenizer.decode(ids) + (f' [{n_cut} tokens cut]' if n_cut else '')
            score = f' ({self.index.scores[text]:g})' if self._has_scores and role else ''
            found.append((self.limits.roles[role] + score, shown))
        if self.classes:
            found.append(('label', self.classes[int(self.index.labels[document[0]])]))
        return found

    def texts_by_hash(self) -> dict[int, str]:
        """All texts of the split by their hashes in batches: whole, whatever the model's limits cut."""
        texts, _ = self._texts(self.documents)
        hashes, first = np.unique(self.index.hashes[texts].view(np.int64), return_index=True)
        return {key: self._decode(text) for key, text in zip(hashes.tolist(), texts[first].tolist())}

    def texts_of(self, documents: Int64[np.ndarray, ' e']) -> list[tuple[str, ...]]:
        """The texts of some documents, of each by role: whole, whatever the model's limits cut."""
        texts, n_texts = self._texts(documents)
        found = [self._decode(text) for text in texts.tolist()]
        ends = np.cumsum(n_texts).tolist()
        return [tuple(found[first:end]) for first, end in zip([0, *ends], ends)]

    def _decode(self, text: int) -> str:
        """A text, from its tokens."""
        begin = int(self.index.begins[text])
        slots = np.arange(begin + int(self.index.prompts[text]), begin + int(self.index.lengths[text]))
        return self.tokenizer.decode(self.corpus.tokens_at(slots).tolist())

    def describe(self) -> list[str]:
        """What the groups of each source are like: lengths of their texts, how many are cut, texts a group."""
        lines = []
        for first, end, store in zip(self._starts, self._starts[1:], self.corpus.stores):
            if first == end:
                continue
            documents = self.documents[first:end]
            texts, _ = self._texts(documents)
            roles = self.index.roles[texts]
            lines.append(f'{store.manifest["source"]}: {end - first:,} groups')
            for number, name in enumerate(self.limits.roles):
                some = texts[roles == number]
                if not len(some):
                    continue
                lengths = self.index.lengths[some]
                median, most, longest = np.percentile(lengths, [50, 90, 99]).round().astype(int).tolist()
                cut = self._cut(some) > 0
                lines.append(
                    f'  {name}: {len(some) / (end - first):.3g} a group; tokens: median {median}, 90 % up to {most}, '
                    f'99 % up to {longest}, most {lengths.max()}; {cut.mean():.1%} of the texts are cut'
                )
            if self.classes:
                counts = np.bincount(self.index.labels[documents], minlength=len(self.classes))
                named = sorted(zip(counts.tolist(), self.classes), reverse=True)
                shown = ', '.join(f'{name} {count:,}' for count, name in named[:8])
                lines.append(f'  label: {shown}' + (f' and {len(named) - 8} more' if len(named) > 8 else ''))
        return lines

    def _texts(
        self, documents: Int64[np.ndarray, ' groups']
    ) -> tuple[Int64[np.ndarray, ' texts'], Int64[np.ndarray, ' groups']]:
        """The texts of documents, one after the other, and how many each has."""
        starts = self.index.offsets[documents]
        n_texts = self.index.offsets[documents + 1] - starts
        return ranges(starts, n_texts), n_texts

    def _draw(
        self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']
    ) -> tuple[Int64[np.ndarray, ' t'], Int64[np.ndarray, ' t']]:
        """The texts of some groups, of each its group's index among these."""
        text, n_texts = self._texts(self.documents[numbers])
        example = np.repeat(np.arange(len(numbers)), n_texts)
        if any(n is not None for n in self.limits.n_drawn):
            role = self.index.roles[text]
            order = np.lexsort((slot_keys(keys, n_texts), role, example))
            is_first = np.ones(len(order), np.bool_)
            is_first[1:] = (np.diff(example[order]) != 0) | (np.diff(role[order]) != 0)
            first = np.flatnonzero(is_first)
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order)) - np.repeat(first, np.diff([*first.tolist(), len(order)]))
            most = np.array([_MAX_NEGATIVE - 1 if n is None else n for n in self.limits.n_drawn], np.int64)
            kept = rank < most[role]
            text = text[kept]
            example = example[kept]
        return example, text

    def _cut(self, text: Int64[np.ndarray, ' t']) -> Int64[np.ndarray, ' t']:
        """How many tokens of each text no example has; prompts that a task puts before it aside."""
        most = np.minimum(np.array(self.limits.max_tokens), self.limits.max_len - 2)[self.index.roles[text]]
        return np.maximum(0, self.index.lengths[text] - most - self.index.prompts[text])

    def _prompt_ids(self) -> list[Int64[np.ndarray, ' tokens']]:
        """The tokens of the prompt of each role."""
        texts = [self.prompts.texts.get(role, '') for role in self.limits.roles]
        found = [np.array(self.tokenizer.encode(text) if text else [], np.int64) for text in texts]
        for role, ids in zip(self.limits.roles, found):
            if len(ids) > self.limits.max_len - 3:
                raise SettingsError(
                    f'the prompt of the role {role} has {len(ids)} tokens, which leaves no room for a text in '
                    f'data.max_len, {self.limits.max_len}; shorten it, or make data.max_len larger'
                )
        return found

    def _vectors(self, drawn: DrawnTexts) -> torch.Tensor:
        """The teacher's vectors of some texts, for each segment."""
        known: dict[int, list[list[float]]] = {}
        values = []
        for i, number in zip(drawn.example.tolist(), drawn.text.tolist()):
            document = int(self.documents[drawn.numbers[i]])
            if i not in known:
                known[i] = self.corpus.columns(document)[GROUP]['vectors']
            values.append(known[i][number - int(self.index.offsets[document])])
            if len(values[-1]) != self._d_vector:
                raise SettingsError(
                    f'a vector of group {self.corpus.name(document)} has {len(values[-1])} numbers, those of the first '
                    f'group {self._d_vector}; vectors of a teacher have one width'
                )
        vectors = np.array(values, np.float32).reshape(-1, self._d_vector)
        return torch.from_numpy(drawn.rows.spread(vectors, 0))
