"""The base class of tokenizers: strings <-> token ids, special tokens by name, the bytes of each token."""

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast, overload

from .probes import find_losses
from .stream import Stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .round_trips import RoundTrips

    Ints = NDArray[np.int64]
else:
    Ints = object  # numpy is imported on first use

MAX_BYTES = 1 << 26
"""Limit on a tokenizer's file; the largest public ones have about 40 MB."""

MAX_VOCAB = 1 << 22
"""Limit on the number of ids; the largest public tokenizers have about 250,000."""


class Tokenizer(ABC):
    """Converts strings to token ids and back. Made by `load`, `from_bytes` or `train_tokenizer`.

    Attributes:
        data: The whole tokenizer, serialized: `from_bytes` restores it, and a checkpoint holds it.
        hash: SHA-256 of `data`, in hex.
        kind: Its origin: `own` (`train_tokenizer`), `sentencepiece` or `huggingface`.
        is_lossless: Whether `decode(encode(text)) == text` for every string, and the bytes of a text are those of its
            tokens. For other tokenizers, building a store counts the documents that change in a round trip.
        special_ids: Ids of the special tokens by role: sos (before a text), eos (after it) and pad, which may be the
            same token; unk, mask, cls and sep where they exist.
        appended: Special tokens that were appended to the vocabulary of the file.
    """

    kind: ClassVar[str]
    is_lossless: ClassVar[bool] = False
    data: bytes
    hash: str
    special_ids: Mapping[str, int]
    appended: Sequence[str] = ()
    _name: str
    _written: frozenset[int] = frozenset()  # special tokens that the library encodes where a text spells their names

    def _set_data(self, data: bytes, name: str) -> None:
        self.data = data
        self.hash = hashlib.sha256(data).hexdigest()
        self._name = name

    @staticmethod
    def load(
        path: str | Path, special_tokens: Mapping[str, str] | None = None, append_special_tokens: bool = False
    ) -> 'Tokenizer':
        """Read a tokenizer's file; its kind is detected from its content, not its name.

        Args:
            path: A SentencePiece model, the `tokenizer.json` of Hugging Face's library, or a folder with one of them
                and perhaps a `special_tokens_map.json` or `tokenizer_config.json`; or the `data` of a tokenizer.
            special_tokens: The token of a role (sos, eos, pad, unk, mask, cls, sep), where detection is wrong.
            append_special_tokens: Whether missing special tokens, and five spare ones, are appended to its vocabulary.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: xlabml cannot use the tokenizer, or its end-of-text token is unknown; the message says why.
        """
        from .reading import read_tokenizer

        return read_tokenizer(Path(path), special_tokens or {}, append_special_tokens)

    @staticmethod
    def from_bytes(data: bytes, name: str = 'tokenizer') -> 'Tokenizer':
        """A tokenizer from its `data`, or from the bytes of a file.

        Args:
            name: Its name in error messages.

        Raises:
            ValueError: As in `load`.
        """
        from .reading import make_tokenizer

        return make_tokenizer(data, name)

    def __reduce__(self) -> tuple[object, ...]:
        return Tokenizer.from_bytes, (self.data, self._name)

    # Ids and pieces

    @abstractmethod
    def __len__(self) -> int:
        """The number of ids, appended ones included."""

    def __getitem__(self, piece: str) -> int:
        """The id of a piece.

        Raises:
            ValueError: There is no such piece.
        """
        id = self._find(piece)
        if id is None:
            names = dict.fromkeys(map(self.piece, self.special_ids.values()))
            raise ValueError(f'{self._name} has no piece {piece!r}; its special tokens are {", ".join(names)}')
        return id

    @abstractmethod
    def _find(self, piece: str) -> int | None:
        """The id of a piece, if there is one."""

    def piece(self, id: int) -> str:
        """A token as its file writes it: U+2581 is a space there, `<0x0A>` a byte, `##` continues a word …

        Raises:
            ValueError: The id is not in the vocabulary.
        """
        self._check_id(id)
        return self._piece(int(id))

    @abstractmethod
    def _piece(self, id: int) -> str: ...

    @property
    def sos_token(self) -> str:
        """The piece before a text."""
        return self._piece(self.special_ids['sos'])

    @property
    def eos_token(self) -> str:
        """The piece after a text; it may equal `sos_token`."""
        return self._piece(self.special_ids['eos'])

    @property
    def pad_token(self) -> str:
        """The piece that pads rows, which is never attended to; the end of text if there is no other."""
        return self._piece(self.special_ids['pad'])

    @property
    def unk_token(self) -> str | None:
        """The piece for unknown characters; None where there is none."""
        return self._piece(self.special_ids['unk']) if 'unk' in self.special_ids else None

    @property
    @abstractmethod
    def reserved_ids(self) -> list[int]:
        """The ids that stand for no text, ascending: special tokens, the unknown one, ids without a token."""

    @property
    @abstractmethod
    def piece_bytes(self) -> list[bytes]:
        """For each id the UTF-8 bytes that it stands for inside a text; b'' for reserved ids."""

    @cached_property
    def piece_sizes(self) -> Ints:
        """For each id the number of bytes that it stands for: the lengths of `piece_bytes`."""
        import numpy as np

        return np.array([len(piece) for piece in self.piece_bytes], np.int64)

    @abstractmethod
    def is_byte(self, id: int) -> bool:
        """Whether the token is a byte of an unknown character."""

    def is_learned(self, id: int) -> bool:
        """Whether the token stands for text: neither reserved nor a byte."""
        return 0 <= id < len(self) and id not in self._reserved and not self.is_byte(id)

    def is_char(self, id: int) -> bool:
        """Whether the token was learned and is a single character."""
        return self.is_learned(id) and len(self.piece_bytes[id].decode(errors='replace')) == 1

    @cached_property
    def _reserved(self) -> frozenset[int]:
        return frozenset(self.reserved_ids)

    def _check_id(self, id: int) -> None:
        if not 0 <= id < len(self):
            raise ValueError(f'{self._name} has no id {id}; ids are 0 to {len(self) - 1}')

    # Texts and ids

    @overload
    def encode(self, text: str, n_threads: int | None = None) -> list[int]: ...
    @overload
    def encode(self, text: list[str], n_threads: int | None = None) -> list[list[int]]: ...
    def encode(self, text: str | list[str], n_threads: int | None = None) -> list[int] | list[list[int]]:
        """The ids of a text, or of several; no special token is added.

        A text that spells the name of a special token never encodes to it: if the tokenizer cannot encode the name as
        ordinary text, it becomes the unknown token.

        Args:
            n_threads: Threads for several texts; None: one per core.

        Raises:
            ValueError: A text holds a lone surrogate, which has no UTF-8.
        """
        encoded = self._encode_any([text] if isinstance(text, str) else text, n_threads)
        if self._written:
            encoded = [ids if self._written.isdisjoint(ids) else self._unwritten(ids) for ids in encoded]
        return encoded[0] if isinstance(text, str) else encoded

    def encode_flat(self, texts: list[str], n_threads: int | None = None) -> tuple[Ints, Ints]:
        """`encode` as two arrays: the concatenated ids of several texts, and the number of ids of each.

        Raises:
            ValueError: As in `encode`.
        """
        import numpy as np

        encoded = self._encode_any(texts, n_threads)
        flat, lengths = _flatten(encoded)
        if self._written and np.isin(flat, list(self._written)).any():
            return _flatten([self._unwritten(ids) for ids in encoded])
        return flat, lengths

    def _encode_any(self, texts: list[str], n_threads: int | None) -> list[list[int]]:
        """The ids of texts, including special tokens that a text spells.

        Raises:
            ValueError: As in `encode`.
        """
        try:
            return self._encode(texts, 1 if len(texts) == 1 else n_threads)
        except (RuntimeError, TypeError, UnicodeError):
            for number, item in enumerate(texts):
                refuse_surrogates(item, f'text {number}' if len(texts) > 1 else 'the text')
            raise

    def _unwritten(self, ids: list[int]) -> list[int]:
        unk = self.special_ids.get('unk')
        instead = [] if unk is None or unk in self._written else [unk]
        return [item for id in ids for item in (instead if id in self._written else [id])]

    @abstractmethod
    def _encode(self, texts: list[str], n_threads: int | None) -> list[list[int]]: ...

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, as `piece` writes them."""
        return [self._piece(id) for id in self.encode(text)]

    @overload
    def decode(self, ids: Iterable[int]) -> str: ...
    @overload
    def decode(self, ids: Iterable[Iterable[int]]) -> list[str]: ...
    def decode(self, ids: Iterable[int] | Iterable[Iterable[int]]) -> str | list[str]:
        """The text of ids, or the texts of several lists of ids; special tokens decode to nothing.

        Ids that no text encodes to may be invalid UTF-8, which decodes to U+FFFD.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        items = list(ids)
        if items and isinstance(items[0], Iterable):
            return [self._decode(item) for item in cast('list[Iterable[int]]', items)]
        return self._decode(cast('list[int]', items))

    @abstractmethod
    def _decode(self, ids: Iterable[int]) -> str: ...

    def _text(self, ids: list[int]) -> str:
        """The text of the ids of a whole text."""
        return self._decode(ids)

    @abstractmethod
    def stream(self) -> Stream:
        """An incremental decoder."""

    # Losses of a round trip

    @cached_property
    def round_trips(self) -> 'RoundTrips':
        """Tests which texts `decode(encode(text))` returns unchanged."""
        from .round_trips import RoundTrips

        return RoundTrips(self.piece_bytes, self.piece_sizes, self._lead, self._alphabet, self._text)

    @cached_property
    def _lead(self) -> bytes | None:
        """The prefix of the bytes of a text's tokens that decoding removes; None where decoding does more than that."""
        ids = self.encode('a')
        lead, a, rest = b''.join(map(self.piece_bytes.__getitem__, ids)).partition(b'a')
        return lead if a and not rest and self.decode(ids) == 'a' else None

    @property
    def _alphabet(self) -> frozenset[str] | None:
        """All characters that decoding can return; None where they are unknown, or all of Unicode."""
        return None

    @cached_property
    def losses(self) -> list[str]:
        """Kinds of text that change in a round trip, found by trying: one line each, for people."""
        return [] if self.is_lossless else find_losses(self)


def _flatten(encoded: list[list[int]]) -> tuple[Ints, Ints]:
    """Concatenate lists of ids; the ids, and the number of ids of each list."""
    import numpy as np

    flat = array('q')
    for ids in encoded:
        flat.fromlist(ids)  # takes 0.4 of the time of np.fromiter
    return np.frombuffer(flat, np.int64), np.fromiter(map(len, encoded), np.int64, len(encoded))


def refuse_surrogates(text: str, name: str) -> None:
    """Raise ValueError if a text cannot be written as UTF-8, saying where."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f'{name} holds a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}; '
            'it is half of a character and has no UTF-8: remove it, or fix what decoded the text'
        ) from None
