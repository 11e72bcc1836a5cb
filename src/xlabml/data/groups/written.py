"""Texts that are at hand, not in a store: each is an example of its own, to be embedded for an evaluation."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64, UInt64

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import ANCHOR, Batch, Layout, PairTargets
from xlabml.data.rows import Examples
from xlabml.errors import SettingsError
from xlabml.tokenizer import Tokenizer

from .text_rows import TextRows, fill_rows


class WrittenTexts(Examples):
    """Texts as examples, in their order; a batch has a segment for each, and its `documents` are their numbers.

    A text takes the slots sos, those of its prompt, its first tokens that fit, and eos.

    Args:
        texts: The texts.
        prompts: What is put before each; '': nothing.
        tokenizer: Makes tokens of them.
        max_len: The most slots of a text.
        row_slots: Slots of a row; None: one row for all texts of a batch.

    Raises:
        SettingsError: A prompt leaves no room for a text.
    """

    def __init__(
        self,
        texts: Sequence[str],
        prompts: Sequence[str],
        tokenizer: Tokenizer,
        max_len: int,
        row_slots: int | None = None,
    ) -> None:
        self.texts = texts
        self.prompts = prompts
        self.tokenizer = tokenizer
        self.max_len = max_len
        self.row_slots = row_slots
        self._prompt_ids = {prompt: tokenizer.encode(prompt) if prompt else [] for prompt in dict.fromkeys(prompts)}
        for prompt, ids in self._prompt_ids.items():
            if len(ids) + 3 > max_len:
                raise SettingsError(
                    f'the prompt {prompt!r} has {len(ids)} tokens, which leaves no room for a text in data.max_len, '
                    f'{max_len}; shorten it, or make data.max_len larger'
                )

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def fingerprint(self) -> str:
        return short_hash([list(self.texts), list(self.prompts), self.tokenizer.hash, self.max_len])

    @property
    def source_starts(self) -> list[int]:
        return [0, len(self.texts)]

    @property
    def source_counted(self) -> list[int]:
        return [len(self.texts)]

    def counts(self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        """1 for each text."""
        return (numbers >= 0).astype(np.int64)

    def batch(
        self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e'], n_counted: float, seed: int = 0
    ) -> Batch:
        numbers = numbers[numbers >= 0]
        prompts = [self._prompt_ids[self.prompts[i]] for i in numbers.tolist()]
        encoded = self.tokenizer.encode([self.texts[i] for i in numbers.tolist()]) if len(numbers) else []
        ends = self.tokenizer.special_ids
        framed = [
            [ends['sos'], *prompt, *ids[: self.max_len - 2 - len(prompt)], ends['eos']]
            for prompt, ids in zip(prompts, encoded)
        ]
        lengths = np.array([len(ids) for ids in framed], np.int64)
        row, row_slots, n_rows = fill_rows(lengths, self.row_slots)
        rows = TextRows.of(lengths, row, n_rows, row_slots, min(self.max_len, row_slots))
        flat = np.full(n_rows * row_slots, ends['pad'], np.int64)
        for begin, ids in zip(rows.begins.tolist(), framed):
            flat[begin : begin + len(ids)] = ids
        documents = rows.spread(numbers, -1)
        example = torch.from_numpy(rows.spread(np.arange(len(numbers)), -1))
        n_prompt = np.array([len(prompt) + 1 if prompt else 0 for prompt in prompts], np.int64)
        return Batch(
            torch.from_numpy(flat).view(n_rows, row_slots),
            Layout(torch.from_numpy(rows.starts), min(self.max_len, row_slots), torch.from_numpy(documents >= 0)),
            torch.from_numpy(documents),
            example,
            torch.full_like(example, ANCHOR),
            PairTargets(
                score=None,
                label=None,
                vector=None,
                text_hash=example.clone(),  # all differ
                set=0,
                n_prompt=torch.from_numpy(rows.spread(n_prompt, 0)),
            ),
            n_counted,
            seed,
        )

    def name(self, document: int) -> str:
        return f'text {document}'

    def render(self, number: int) -> list[tuple[str, str]]:
        """The text."""
        if not 0 <= number < len(self):
            raise SettingsError(f'there is no text {number}; texts are 0 to {len(self) - 1}')
        return [('text', self.prompts[number] + self.texts[number])]
