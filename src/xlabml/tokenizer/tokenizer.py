"""A SentencePiece byte-pair model that gives back every string, byte for byte.

SentencePiece writes a space as U+2581, so a text that contains U+2581 would come back with spaces. Instead of escaping
it, such a text is cut there, and the character itself goes as its three byte pieces: what a piece stands for then never
depends on where it stands, and the bytes of a text are the bytes of its pieces.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, overload

import sentencepiece

from .stream import StreamDecoder

RESERVED_PIECES = (
    '<unk>',
    '<sos>',
    '<eos>',
    '<pad>',
    '<mask>',
    '<cls>',
    '<sep>',
    *(f'<reserved_{i}>' for i in range(5)),
)
"""The pieces 0, 1, 2 … that no text encodes to; the 256 bytes come after them."""

SPACE_MARK = '\u2581'
_PROBES = ('a', ' a', '  a  b ', '\ufb01', '\uff21', 'e\u0301', '\u00e9', '\u00a0', 'A\tb\r\n', '\ufeff', '')


class Tokenizer:
    """Turns strings into token ids and back; `decode(encode(text)) == text` for every string.

    Made by `load`, `from_bytes` or `train_tokenizer`.

    Args:
        data: The bytes of a SentencePiece model.
        name: What error messages call it.

    Raises:
        ValueError: The bytes are no such model, or one with other special tokens, another normaliser, a dummy prefix
            or no byte fallback.
    """

    unk_token, sos_token, eos_token, pad_token = RESERVED_PIECES[:4]

    def __init__(self, data: bytes, name: str = 'tokenizer') -> None:
        self.data, self.hash, self._name = data, hashlib.sha256(data).hexdigest(), name
        try:
            if not data:
                raise RuntimeError('it is empty')
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=data)
            n_pieces = len(self._processor)
            self._check_pieces(n_pieces)
            self._bytes_of = {id: self._bytes(id) for id in range(n_pieces)}
            first_byte = len(RESERVED_PIECES)
            self._mark_ids = [first_byte + byte for byte in SPACE_MARK.encode()]
            self._check_behaviour()
        except (RuntimeError, UnicodeError, IndexError) as error:
            raise ValueError(
                f'{name} is no SentencePiece model, or one cut short or damaged ({_first_line(error)}); copy it again, '
                'or train it anew'
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> 'Tokenizer':
        """Read a model file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not a model that xlabml can use; the message says why.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'there is no tokenizer at {path}; check the path, or train one there')
        return cls(path.read_bytes(), f'tokenizer {path}')

    @classmethod
    def from_bytes(cls, data: bytes) -> 'Tokenizer':
        """A tokenizer from the bytes of its model file, as `data` gives them."""
        return cls(data)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data, self._name)

    # Ids and pieces

    def __len__(self) -> int:
        return len(self._bytes_of)

    def __getitem__(self, piece: str) -> int:
        """The id of a piece.

        Raises:
            ValueError: There is no such piece.
        """
        id = self._processor.piece_to_id(piece)
        if self._processor.id_to_piece(id) != piece:
            raise ValueError(
                f'{self._name} has no piece {piece!r}; its special tokens are {", ".join(RESERVED_PIECES)}'
            )
        return id

    def piece(self, id: int) -> str:
        """A token as SentencePiece writes it: U+2581 is a space, `<0x0A>` a byte."""
        self._piece_bytes(id)
        return self._processor.id_to_piece(int(id))

    @property
    def reserved_ids(self) -> list[int]:
        """The ids that no text encodes to."""
        return list(range(len(RESERVED_PIECES)))

    @property
    def piece_bytes(self) -> list[bytes]:
        """For each id the raw UTF-8 bytes that it stands for; b'' for the reserved ones."""
        return list(self._bytes_of.values())

    def is_byte(self, id: int) -> bool:
        """Whether the token is one byte of a character that the tokenizer does not know."""
        return 0 <= id - len(RESERVED_PIECES) < 256

    def is_learned(self, id: int) -> bool:
        """Whether the token was found in a corpus: neither reserved nor a byte."""
        return len(RESERVED_PIECES) + 256 <= id < len(self)

    def is_char(self, id: int) -> bool:
        """Whether the token was learned and is a single character."""
        return self.is_learned(id) and len(self.piece(id)) == 1

    # Texts and ids

    @overload
    def encode(self, text: str, n_threads: int | None = None) -> list[int]: ...
    @overload
    def encode(self, text: list[str], n_threads: int | None = None) -> list[list[int]]: ...
    def encode(self, text: str | list[str], n_threads: int | None = None) -> list[int] | list[list[int]]:
        """The ids of a text, or of several.

        Args:
            n_threads: Threads that share out several texts; None: one a core.

        Raises:
            ValueError: A text holds a lone surrogate, which is no character and has no UTF-8.
        """
        return self._encode([text], 1)[0] if isinstance(text, str) else self._encode(text, n_threads)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, as `piece` writes them."""
        return [self._processor.id_to_piece(id) for id in self.encode(text)]

    @overload
    def decode(self, ids: Iterable[int]) -> str: ...
    @overload
    def decode(self, ids: Iterable[Iterable[int]]) -> list[str]: ...
    def decode(self, ids: Iterable[int] | Iterable[Iterable[int]]) -> str | list[str]:
        """The text of ids, or the texts of several lists of them; reserved ids say nothing.

        Ids that no text encodes to may give bytes that are no UTF-8: those become U+FFFD.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        items: list[Any] = list(ids)
        if items and isinstance(items[0], Iterable):
            return [self._decode(item) for item in items]
        return self._decode(items)

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        return StreamDecoder(self._piece_bytes)

    def _encode(self, texts: list[str], n_threads: int | None) -> list[list[int]]:
        parts = [text.split(SPACE_MARK) for text in texts]
        if len(parts) == sum(map(len, parts)):
            return self._encode_plain(texts, n_threads)
        encoded = iter(self._encode_plain([part for text in parts for part in text], n_threads))
        result = []
        for text in parts:
            ids = list(next(encoded))
            for _ in text[1:]:
                ids += self._mark_ids
                ids += next(encoded)
            result.append(ids)
        return result

    def _encode_plain(self, texts: list[str], n_threads: int | None) -> list[list[int]]:
        try:
            return self._processor.encode(texts, num_threads=1 if len(texts) == 1 else n_threads or -1)
        except (RuntimeError, TypeError, UnicodeError):
            for number, text in enumerate(texts):
                refuse_surrogates(text, f'text {number}' if len(texts) > 1 else 'the text')
            raise

    # A join over a table of bytes is 1.5 times faster than SentencePiece's own batch decode in two threads.
    def _decode(self, ids: Iterable[int]) -> str:
        try:
            return b''.join(map(self._bytes_of.__getitem__, ids)).decode(errors='replace')
        except KeyError as error:
            raise ValueError(f'{self._name} has no id {error.args[0]}; ids are 0 to {len(self) - 1}') from None

    def _piece_bytes(self, id: int) -> bytes:
        if id not in self._bytes_of:
            raise ValueError(f'{self._name} has no id {id}; ids are 0 to {len(self) - 1}')
        return self._bytes_of[id]

    def _bytes(self, id: int) -> bytes:
        if id < len(RESERVED_PIECES):
            return b''
        if self.is_byte(id):
            return bytes([id - len(RESERVED_PIECES)])
        return self._processor.id_to_piece(id).replace(SPACE_MARK, ' ').encode()

    # What makes a model ours, asked of the model itself

    def _check_pieces(self, n_pieces: int) -> None:
        remedy = 'train one with train_tokenizer'
        for id, piece in enumerate(RESERVED_PIECES):
            there = self._processor.id_to_piece(id) if id < n_pieces else 'nothing'
            if there != piece:
                raise ValueError(f'{self._name} has {there!r} as token {id}, where {piece!r} must be; {remedy}')
            kind = self._processor.is_unknown(id) if id == 0 else self._processor.is_control(id)
            if not kind:
                raise ValueError(f'{self._name} lets texts contain its special token {piece!r}; {remedy}')
        for byte in range(256):
            id = len(RESERVED_PIECES) + byte
            if id >= n_pieces or self._processor.id_to_piece(id) != f'<0x{byte:02X}>':
                raise ValueError(f'{self._name} has no byte fallback: token {id} is not byte {byte}; {remedy}')
        for id in range(len(RESERVED_PIECES) + 256, n_pieces):
            if self._processor.is_control(id) or self._processor.is_unknown(id) or self._processor.is_byte(id):
                raise ValueError(
                    f'{self._name} has a special token {self._processor.id_to_piece(id)!r} of its own at {id}; {remedy}'
                )

    def _check_behaviour(self) -> None:
        for text in (*_PROBES, *RESERVED_PIECES):
            ids = self.encode(text)
            if b''.join(map(self._piece_bytes, ids)) != text.encode() or any(id in self.reserved_ids for id in ids):
                raise ValueError(
                    f'{self._name} turns {text!r} into {self.decode(ids)!r}: it normalises texts or puts a prefix '
                    'before them, so that they do not come back as they were; train one with train_tokenizer'
                )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def refuse_surrogates(text: str, name: str) -> None:
    """Raise ValueError if a text cannot be written as UTF-8, saying where."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f'{name} holds a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}; '
            'it is half of a character and has no UTF-8: remove it, or mend what decoded the text'
        ) from None
