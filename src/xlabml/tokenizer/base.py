"""What every tokenizer offers: strings <-> token ids, special tokens by name, the bytes of each token."""

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

from .probes import find_losses
from .stream import Stream

if TYPE_CHECKING:
    from .round_trips import RoundTrips

MAX_BYTES = 1 << 26
"""No tokenizer's file is larger; the largest public ones have some 40 MB."""

MAX_VOCAB = 1 << 22
"""No tokenizer has more ids; the largest public ones have a quarter of a million."""


class Tokenizer(ABC):
    """Turns strings into token ids and back. Made by `load`, `from_bytes` or `train_tokenizer`.

    Attributes:
        data: All that it is made of, as one string of bytes: `from_bytes` makes it again. A checkpoint holds them.
        hash: SHA-256 of these, in hex.
        kind: What made it: `own` (`train_tokenizer`), `sentencepiece` or `huggingface`.
        is_lossless: Whether `decode(encode(text)) == text` for every string, and the bytes of a text are those of its
            tokens. Of others the share of documents that do not come back is counted as a store is built.
        special_ids: From the name of a special token to its id: sos (put before a text), eos (behind it) and pad,
            which may be one and the same; unk, mask, cls and sep where there are such.
        appended: Special tokens that were put behind the vocabulary of the file.
    """

    kind: ClassVar[str]
    is_lossless: ClassVar[bool] = False
    data: bytes
    hash: str
    special_ids: Mapping[str, int]
    appended: Sequence[str] = ()
    _name: str
    _written: frozenset[int] = frozenset()  # special tokens that the file would make of a text that spells their names

    def _set_data(self, data: bytes, name: str) -> None:
        self.data = data
        self.hash = hashlib.sha256(data).hexdigest()
        self._name = name

    @staticmethod
    def load(
        path: str | Path, special_tokens: Mapping[str, str] | None = None, append_special_tokens: bool = False
    ) -> 'Tokenizer':
        """Read a tokenizer's file; its content, not its name, tells of which kind it is.

        Args:
            path: A SentencePiece model, the `tokenizer.json` of Hugging Face's library, or a folder that holds one of
                them, with a `special_tokens_map.json` or `tokenizer_config.json` beside it perhaps; or what a
                checkpoint held.
            special_tokens: Which of its tokens is sos, eos, pad, unk, mask, cls or sep, where that is not as found.
            append_special_tokens: Whether those that it lacks are put behind its vocabulary, and five spare ones.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is no tokenizer that xlabml can use, or which token ends a text cannot be known; the message
                says why.
        """
        from .reading import read_tokenizer

        return read_tokenizer(Path(path), special_tokens or {}, append_special_tokens)

    @staticmethod
    def from_bytes(data: bytes, name: str = 'tokenizer') -> 'Tokenizer':
        """A tokenizer from its bytes, as `data` gives them or a file holds them.

        Args:
            name: What error messages call it.

        Raises:
            ValueError: As in `load`.
        """
        from .reading import make_tokenizer

        return make_tokenizer(data, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer.from_bytes, (self.data, self._name)

    # Ids and pieces

    @abstractmethod
    def __len__(self) -> int:
        """How many ids there are, the appended ones included."""

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
        """A token as its file writes it: U+2581 is a space there, `<0x0A>` a byte, `##` goes on with a word …

        Raises:
            ValueError: The id is not in the vocabulary.
        """
        self._check_id(id)
        return self._piece(int(id))

    @abstractmethod
    def _piece(self, id: int) -> str: ...

    @property
    def sos_token(self) -> str:
        """The piece that is put before a text."""
        return self._piece(self.special_ids['sos'])

    @property
    def eos_token(self) -> str:
        """The piece that ends a text; it may be the one before it, too."""
        return self._piece(self.special_ids['eos'])

    @property
    def pad_token(self) -> str:
        """The piece that fills rows up, where nothing reads it: the end of text, if it has none for that."""
        return self._piece(self.special_ids['pad'])

    @property
    def unk_token(self) -> str | None:
        """The piece that stands for what the tokenizer does not know; None where there is none."""
        return self._piece(self.special_ids['unk']) if 'unk' in self.special_ids else None

    @property
    @abstractmethod
    def reserved_ids(self) -> list[int]:
        """The ids that stand for no text: special tokens, the unknown one, numbers without a token. Rising."""

    @property
    @abstractmethod
    def piece_bytes(self) -> list[bytes]:
        """For each id the raw UTF-8 bytes that it stands for within a text; b'' for the reserved ones."""

    @cached_property
    def piece_sizes(self) -> Any:
        """For each id how many bytes it stands for: the lengths of `piece_bytes`, as an array."""
        import numpy as np

        return np.array([len(piece) for piece in self.piece_bytes], np.int64)

    @abstractmethod
    def is_byte(self, id: int) -> bool:
        """Whether the token is one byte of a character that the tokenizer does not know."""

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

        Nor is one made of what a text says: where it spells the name of one, and the tokenizer has no other way to
        write that, the text is as unknown.

        Args:
            n_threads: Threads that share out several texts; None: one a core.

        Raises:
            ValueError: A text holds a lone surrogate, which is no character and has no UTF-8.
        """
        encoded = self._encode_any([text] if isinstance(text, str) else text, n_threads)
        if self._written:
            encoded = [ids if self._written.isdisjoint(ids) else self._unwritten(ids) for ids in encoded]
        return encoded[0] if isinstance(text, str) else encoded

    def encode_flat(self, texts: list[str], n_threads: int | None = None) -> tuple[Any, Any]:
        """The ids of several texts, back to back, and how many each has: what `encode` returns, as two arrays.

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
        """The ids of texts, special tokens that a text spells included.

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
        """The text of ids, or the texts of several lists of them; special tokens say nothing.

        Ids that no text encodes to may give bytes that are no UTF-8: those become U+FFFD.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        items: list[Any] = list(ids)
        if items and isinstance(items[0], Iterable):
            return [self._decode(item) for item in items]
        return self._decode(items)

    @abstractmethod
    def _decode(self, ids: Iterable[int]) -> str: ...

    def _text(self, ids: list[int]) -> str:
        """The text of ids that are of a text, and so are all there."""
        return self._decode(ids)

    @abstractmethod
    def stream(self) -> Stream:
        """A decoder for ids that come one by one."""

    # What is lost

    @cached_property
    def round_trips(self) -> 'RoundTrips':
        """Finds which texts decode, from their ids, to what they were."""
        from .round_trips import RoundTrips

        return RoundTrips(self.piece_bytes, self.piece_sizes, self._lead, self._alphabet, self._text)

    @cached_property
    def _lead(self) -> bytes | None:
        """What the bytes of the tokens of a text begin with and decoding takes away; None where that is not so."""
        ids = self.encode('a')
        lead, a, rest = b''.join(map(self.piece_bytes.__getitem__, ids)).partition(b'a')
        return lead if a and not rest and self.decode(ids) == 'a' else None

    @property
    def _alphabet(self) -> frozenset[str] | None:
        """All characters that a text can decode to; None where they are not known, or are all there are."""
        return None

    @cached_property
    def losses(self) -> list[str]:
        """What does not come back as it was, found by trying: a line each, for people. Empty: nothing was found."""
        return [] if self.is_lossless else find_losses(self)


def _flatten(encoded: list[list[int]]) -> tuple[Any, Any]:
    """Lists of ids as one array, and how many each has."""
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
            'it is half of a character and has no UTF-8: remove it, or mend what decoded the text'
        ) from None
