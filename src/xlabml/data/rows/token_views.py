"""The token sequence of a document, between corpus and plan: what its slots read, and which target each has."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from xlabml.data.corpus import Corpus
from xlabml.tokenizer import Tokenizer

from .plan_rows import RowPieces, ranges


class TokenView(ABC):
    """A document's token sequence as slots: each has an input, and a target or none.

    Args:
        corpus: Holds the tokens.
        tokenizer: The one that the stores were made with.

    Raises:
        ValueError: It is another one.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        if tokenizer.hash != corpus.tokenizer_hash:
            raise ValueError(
                f'the token stores were made with another tokenizer, of {corpus.n_vocab} tokens, than this one of '
                f'{len(tokenizer)}; run prepare_data with it, or take the other'
            )
        self.corpus = corpus

    counts_all: ClassVar[bool] = True
    """Whether every target counts that the plan counts; else `counts` says how many do."""

    def settings(self) -> dict[str, Any]:
        """Plain values that the lengths follow from; {} where a document of T tokens has T + 1 slots."""
        return {}

    @abstractmethod
    def lengths(self, documents: Int64[np.ndarray, ' documents'], row_length: int) -> Int64[np.ndarray, ' documents']:
        """How many slots each document takes.

        Args:
            row_length: Slots of a row, for a view that shortens documents.
        """

    def counts(self, pieces: RowPieces, keys: UInt64[np.ndarray, ' pieces']) -> Int64[np.ndarray, ' pieces']:
        """How many targets each piece has, without reading a token; asked where not all count.

        Args:
            keys: Of each piece, as `read` has them.
        """
        raise NotImplementedError

    @abstractmethod
    def read(
        self,
        documents: Int64[np.ndarray, ' pieces'],
        begins: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
        keys: UInt64[np.ndarray, ' pieces'],
    ) -> tuple[Int64[np.ndarray, ' slots'], Int64[np.ndarray, ' slots'], Int64[np.ndarray, ' slots']]:
        """Pieces of documents, back to back.

        Args:
            documents: The document of each piece.
            begins: Its first slot there.
            lengths: Its slots.
            keys: What it draws follows from these: `slot_keys(keys, lengths)` is a key for each slot.

        Returns:
            For each slot its input, its target (IGNORED: none) and the bytes of raw text of the target.

        Raises:
            ValueError: A store or a plan holds what xlabml does not write.
        """

    def require(self, are_right: Bool[np.ndarray, ' _']) -> None:
        """Raise ValueError unless all of these are true: of what a store or a plan holds."""
        if not are_right.all():
            where = ', '.join(str(store.folder) for store in self.corpus.stores)
            raise ValueError(
                f'the rows of the texts in {where} are not as xlabml writes them; xlab validate_data names the folder '
                'to delete'
            )


class NextTokenView(TokenView):
    """A document of T tokens as T + 1 slots: inputs are sos and its tokens, targets its tokens and eos.

    A later piece of a document begins with the target before it, not with sos.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        super().__init__(corpus, tokenizer)
        self._sos = tokenizer.special_ids['sos']
        self._eos = tokenizer.special_ids['eos']
        self._piece_bytes = np.array([len(piece) for piece in tokenizer.piece_bytes], np.int64)

    def lengths(self, documents: Int64[np.ndarray, ' documents'], row_length: int) -> Int64[np.ndarray, ' documents']:
        return self.corpus.token_spans(documents)[1] + 1

    def read(
        self,
        documents: Int64[np.ndarray, ' pieces'],
        begins: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
        keys: UInt64[np.ndarray, ' pieces'],
    ) -> tuple[Int64[np.ndarray, ' slots'], Int64[np.ndarray, ' slots'], Int64[np.ndarray, ' slots']]:
        inputs, targets, is_end = self._read(documents, begins, lengths)
        return inputs, targets, self._bytes_of(targets, is_end, documents, lengths)

    def _read(
        self,
        documents: Int64[np.ndarray, ' pieces'],
        begins: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
    ) -> tuple[Int64[np.ndarray, ' slots'], Int64[np.ndarray, ' slots'], Bool[np.ndarray, ' slots']]:
        """Input and target of each slot, and whether the target is an end of text."""
        self.require((documents >= 0) & (documents < len(self.corpus)) & (begins >= 0))
        starts, n_tokens = self.corpus.token_spans(documents)
        self.require((starts >= 0) & (begins + lengths <= n_tokens + 1))
        ends = starts + n_tokens
        self.require(ends <= self.corpus.n_tokens)
        places = ranges(starts + begins, lengths)
        place_ends = np.repeat(ends, lengths)
        targets = self.corpus.tokens_at(np.minimum(places, place_ends - 1))
        is_end = places == place_ends
        targets[is_end] = self._eos
        inputs = np.empty_like(targets)
        inputs[1:] = targets[:-1]
        before = self.corpus.tokens_at(starts + np.maximum(begins - 1, 0))
        inputs[np.cumsum(lengths) - lengths] = np.where(begins == 0, self._sos, before)
        n_vocab = len(self._piece_bytes)
        self.require(np.array([inputs.max(initial=0) < n_vocab, targets.max(initial=0) < n_vocab]))
        return inputs, targets, is_end

    def _bytes_of(
        self,
        targets: Int64[np.ndarray, ' slots'],
        is_end: Bool[np.ndarray, ' slots'],
        documents: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
    ) -> Int64[np.ndarray, ' slots']:
        """The raw bytes of each target: those of its token; and of the end of text, where the tokenizer may lose text,
        the bytes that the document's tokens do not account for. Over a document the sum is its raw bytes."""
        n_bytes = self._piece_bytes[targets]
        rest = self.corpus.end_bytes(documents)
        if rest is not None:
            n_bytes[is_end] = np.repeat(rest, lengths)[is_end]
        return n_bytes
