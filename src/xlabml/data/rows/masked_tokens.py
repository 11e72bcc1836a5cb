"""Rows of whole texts in which some tokens are masked: what a masked language model learns from."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from xlabml.batches import IGNORED
from xlabml.data.corpus import Corpus
from xlabml.data.order import scramble, slot_keys, uniform
from xlabml.errors import SettingsError
from xlabml.tokenizer import Tokenizer

from .formats import Reading
from .masking import Masking, TokenMasking, Words
from .next_tokens import RowFormat
from .plan_rows import RowPieces, ranges
from .token_views import TokenView

EVAL_MASK_RATIO = 0.15
"""The share of tokens that an evaluation masks, whatever training masks: so that figures can be compared."""

_REPLACED = np.uint64(0xD1B54A32D192ED03)  # separates what replaces a token from whether it is masked
_RANDOM = np.uint64(0x8CB92BA72F3D8DD7)  # and the random token from that


class MaskedView(TokenView):
    """A document of T tokens as T + 2 slots, sos, its tokens and eos; the targets are the masked tokens.

    Source: BERT, Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1, task 1 (80 % of the masked tokens
    become the mask token, 10 % a random one, 10 % stay).

    Args:
        corpus: Holds the tokens.
        tokenizer: The one that the stores were made with.
        form: Which share of the tokens is masked, how, and what replaces them.
        mask_ratio: The share of tokens that are masked.
        masking: Which tokens these are.

    Raises:
        ValueError: The tokenizer has no mask token, or is not the one of the stores.
    """

    counts_all = False

    def __init__(
        self, corpus: Corpus, tokenizer: Tokenizer, form: 'MaskedTokens', mask_ratio: float, masking: Masking
    ) -> None:
        super().__init__(corpus, tokenizer)
        if 'mask' not in tokenizer.special_ids:
            raise SettingsError(
                f'data.examples is {type(form).__name__}, but the tokenizer has no mask token; name one in '
                'data.special_tokens.mask, or set data.append_special_tokens to true'
            )
        self.form = form
        self.mask_ratio = mask_ratio
        self.masking = masking
        self._words = Words(tokenizer.piece_bytes) if masking.needs_words else None
        self._sos = tokenizer.special_ids['sos']
        self._eos = tokenizer.special_ids['eos']
        self._mask = tokenizer.special_ids['mask']
        self._piece_bytes = np.array([len(piece) for piece in tokenizer.piece_bytes], np.int64)
        self._learned = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.reserved_ids)

    def settings(self) -> dict[str, str]:
        return {'slots': 'sos, tokens, eos'}

    def lengths(self, documents: Int64[np.ndarray, ' documents'], row_length: int) -> Int64[np.ndarray, ' documents']:
        return self.corpus.token_spans(documents)[1] + 2

    def counts(self, pieces: RowPieces, keys: UInt64[np.ndarray, ' pieces']) -> Int64[np.ndarray, ' pieces']:
        starts, n_tokens = self.corpus.token_spans(pieces.documents)
        place, is_token = _places(pieces.begins, pieces.lengths, n_tokens)
        ids = None
        if self._words is not None:
            ids = self.corpus.tokens_at((np.repeat(starts, pieces.lengths) + place - 1)[is_token])
        is_masked = self._draw(slot_keys(keys, pieces.lengths), is_token, pieces.begins, pieces.lengths, ids)
        is_counted = place >= np.repeat(pieces.begins + pieces.first_counted, pieces.lengths)
        before = np.concatenate([[0], np.cumsum(self._at_targets(is_masked, False) & is_counted)])
        ends = np.cumsum(pieces.lengths)
        return before[ends] - before[ends - pieces.lengths]

    def read(
        self,
        documents: Int64[np.ndarray, ' pieces'],
        begins: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
        keys: UInt64[np.ndarray, ' pieces'],
    ) -> tuple[Int64[np.ndarray, ' slots'], Int64[np.ndarray, ' slots'], Int64[np.ndarray, ' slots']]:
        self.require((documents >= 0) & (documents < len(self.corpus)) & (begins >= 0))
        starts, n_tokens = self.corpus.token_spans(documents)
        self.require((starts >= 0) & (begins + lengths <= n_tokens + 2) & (starts + n_tokens <= self.corpus.n_tokens))
        place, is_token = _places(begins, lengths, n_tokens)
        ids = np.where(place == 0, self._sos, self._eos)
        ids[is_token] = self.corpus.tokens_at((np.repeat(starts, lengths) + place - 1)[is_token])
        self.require(ids < len(self._piece_bytes))

        draws = slot_keys(keys, lengths)
        is_masked = self._draw(draws, is_token, begins, lengths, ids[is_token])
        targets = self._at_targets(np.where(is_masked, ids, IGNORED), IGNORED)
        n_bytes = self._at_targets(np.where(is_masked, self._piece_bytes[ids], 0), 0)
        choice = uniform(scramble(draws ^ _REPLACED))
        random_ids = self._learned[(scramble(draws ^ _RANDOM) % np.uint64(len(self._learned))).astype(np.int64)]
        mask_token_ratio = self.form.mask_token_ratio
        becomes_mask = is_masked & (choice < mask_token_ratio)
        becomes_random = is_masked & ~becomes_mask & (choice < mask_token_ratio + self.form.random_token_ratio)
        inputs = np.where(becomes_mask, self._mask, np.where(becomes_random, random_ids, ids))
        return inputs, targets, n_bytes

    def _draw(
        self,
        draws: UInt64[np.ndarray, ' slots'],
        is_token: Bool[np.ndarray, ' slots'],
        begins: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
        ids: Int64[np.ndarray, ' tokens'] | None,
    ) -> Bool[np.ndarray, ' slots']:
        """Whether the token in each slot is masked; ids are those of the tokens, where words matter."""
        ends = np.cumsum(lengths)
        before = np.concatenate([[0], np.cumsum(is_token)])
        n_tokens = before[ends] - before[ends - lengths]
        word_starts = None if self._words is None or ids is None else self._words.starts(ids, n_tokens)
        is_masked = np.zeros(len(draws), bool)
        is_masked[is_token] = self.masking.draw(self.mask_ratio, draws[is_token], n_tokens, word_starts)
        if self.form.is_shifted:
            is_masked[(ends - lengths)[lengths > 0]] = False  # no slot of the piece predicts its first one
        return is_masked

    def _at_targets(self, values: np.ndarray, nothing: int | bool) -> np.ndarray:
        """Values of masked slots, moved to the slots that predict these: their own, or the ones before them."""
        return np.append(values[1:], values.dtype.type(nothing)) if self.form.is_shifted else values


class MaskedTokens(RowFormat):
    """Rows of whole texts in which some tokens are masked, to be predicted from both sides.

    What is masked follows from a row's place in the order and the slot, so that it is the same for any number of ranks,
    workers and micro-batches; in an evaluation from the row, so that every evaluation masks the same 15 %, token by
    token, whatever training masks: figures can be compared.
    Source of the default share: Wettig et al. 2023, https://arxiv.org/abs/2202.08005.

    Args:
        mask_ratio: The share of tokens that are masked in training.
        mask_token_ratio: The share of the masked tokens that become the mask token.
        random_token_ratio: The share of the masked tokens that become a random token; the rest stays as it is.
        masking: Which tokens are masked in training: single ones, whole words, or spans.
    """

    is_causal = False
    is_shifted: ClassVar[bool] = False
    """Whether a masked token is predicted by the slot before it, else by its own."""

    def __init__(
        self,
        mask_ratio: float = 0.3,
        mask_token_ratio: float = 0.8,
        random_token_ratio: float = 0.1,
        masking: Callable[[], Masking] = TokenMasking,
    ) -> None:
        if not 0 < mask_ratio <= 1:
            raise ValueError(f'data.examples.mask_ratio is {mask_ratio}; give a share above 0, up to 1')
        for name, ratio in (('mask_token_ratio', mask_token_ratio), ('random_token_ratio', random_token_ratio)):
            if not 0 <= ratio <= 1:
                raise ValueError(f'data.examples.{name} is {ratio}; give a share from 0 to 1')
        if mask_token_ratio + random_token_ratio > 1:
            raise ValueError(
                f'data.examples.mask_token_ratio, {mask_token_ratio}, and random_token_ratio, {random_token_ratio}, '
                'are shares of the masked tokens and sum to more than 1; make them smaller'
            )
        self.mask_ratio = mask_ratio
        self.mask_token_ratio = mask_token_ratio
        self.random_token_ratio = random_token_ratio
        self.masking = masking()

    def settings(self) -> dict[str, object]:
        masking = {'masking': {'class': type(self.masking).__name__, **vars(self.masking)}}
        plain = {name: value for name, value in super().settings().items() if name != 'masking'}
        return plain if type(self.masking) is TokenMasking else {**plain, **masking}

    def view(self, corpus: Corpus, stage: str, pass_index: int, reading: Reading) -> MaskedView:
        if stage == 'train':
            return MaskedView(corpus, reading.tokenizer, self, self.mask_ratio, self.masking)
        return MaskedView(corpus, reading.tokenizer, self, EVAL_MASK_RATIO, TokenMasking())


class MaskedNextTokens(MaskedTokens):
    """Masked tokens that the slot before each predicts: it makes an encoder of a trained decoder.

    A decoder's hidden states say what comes next; read so, they need not be learned anew once the trunk attends to both
    sides. Start from a language model by --init_from, with `model.trunk.causal: false`.
    Source: LLM2Vec, BehnamGhader et al. 2024, https://arxiv.org/abs/2404.05961, section 2.2.
    """

    is_shifted = True


def _places(
    begins: Int64[np.ndarray, ' pieces'], lengths: Int64[np.ndarray, ' pieces'], n_tokens: Int64[np.ndarray, ' pieces']
) -> tuple[Int64[np.ndarray, ' slots'], Bool[np.ndarray, ' slots']]:
    """The place of each slot in its document's sequence (0 is sos), and whether a token of the text stands there."""
    place = ranges(begins, lengths)
    return place, (place > 0) & (place <= np.repeat(n_tokens, lengths))
