"""A lossless SentencePiece byte-pair model: it restores every string, byte for byte.

SentencePiece writes a space as U+2581, so a text that contains U+2581 would decode to spaces. Such a text is cut there,
and the character is encoded as its three byte pieces. So the bytes of a piece do not depend on its context, and the
bytes of a text are the bytes of its pieces.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import sentencepiece

from .base import Ints, Tokenizer, refuse_surrogates
from .sentencepieces import SPACE_MARK, encode_flat, open_model
from .stream import StreamDecoder

__all__ = ['RESERVED_PIECES', 'OwnTokenizer', 'Tokenizer', 'is_own', 'refuse_surrogates']

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
"""The pieces of ids 0, 1, 2 …, which no text encodes to; the 256 bytes follow."""

_PROBES = ('a', ' a', '  a  b ', '\ufb01', '\uff21', 'e\u0301', '\u00e9', '\u00a0', 'A\tb\r\n', '\ufeff', '')


class OwnTokenizer(Tokenizer):
    """A tokenizer of `train_tokenizer`; `decode(encode(text)) == text` for every string.

    Args:
        data: The bytes of a SentencePiece model.
        name: Its name in error messages.

    Raises:
        ValueError: The bytes are not a SentencePiece model, or it has other special tokens, another normalizer, a dummy
            prefix or no byte fallback.
    """

    kind = 'own'
    is_lossless = True
    special_ids: Mapping[str, int] = MappingProxyType({piece[1:-1]: id for id, piece in enumerate(RESERVED_PIECES[:7])})

    def __init__(self, data: bytes, name: str = 'tokenizer') -> None:
        self._set_data(data, name)
        self._processor = open_model(data)
        n_pieces = len(self._processor)
        self._check_pieces(n_pieces)
        self._bytes_of = {id: self._bytes(id) for id in range(n_pieces)}
        first_byte = len(RESERVED_PIECES)
        self._mark_ids = [first_byte + byte for byte in SPACE_MARK.encode()]
        self._check_behaviour()

    # Ids and pieces

    def __len__(self) -> int:
        return len(self._bytes_of)

    def _find(self, piece: str) -> int | None:
        id = self._processor.piece_to_id(piece)
        return id if self._processor.id_to_piece(id) == piece else None

    def _piece(self, id: int) -> str:
        return self._processor.id_to_piece(id)

    @property
    def reserved_ids(self) -> list[int]:
        return list(range(len(RESERVED_PIECES)))

    @property
    def piece_bytes(self) -> list[bytes]:
        return list(self._bytes_of.values())

    def is_byte(self, id: int) -> bool:
        return 0 <= id - len(RESERVED_PIECES) < 256

    def is_learned(self, id: int) -> bool:
        return len(RESERVED_PIECES) + 256 <= id < len(self)

    def is_char(self, id: int) -> bool:
        return self.is_learned(id) and len(self._piece(id)) == 1

    # Texts and ids

    def stream(self) -> StreamDecoder:
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
        return self._processor.encode(texts, num_threads=1 if len(texts) == 1 else n_threads or -1)

    def encode_flat(self, texts: list[str], n_threads: int | None = None) -> tuple[Ints, Ints]:
        is_plain = not any(SPACE_MARK in text for text in texts)
        found = encode_flat(self._processor, texts, n_threads) if is_plain else None
        return super().encode_flat(texts, n_threads) if found is None else found

    # A join over a table of bytes is 1.5 times faster than SentencePiece's own batch decode in two threads.
    def _decode(self, ids: Iterable[int]) -> str:
        try:
            return b''.join(map(self._bytes_of.__getitem__, ids)).decode(errors='replace')
        except KeyError as error:
            raise ValueError(f'{self._name} has no id {error.args[0]}; ids are 0 to {len(self) - 1}') from None

    def _piece_bytes(self, id: int) -> bytes:
        self._check_id(id)
        return self._bytes_of[id]

    def _bytes(self, id: int) -> bytes:
        if id < len(RESERVED_PIECES):
            return b''
        if self.is_byte(id):
            return bytes([id - len(RESERVED_PIECES)])
        return self._processor.id_to_piece(id).replace(SPACE_MARK, ' ').encode()

    # Checks that a model is one of ours

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
                    f'{self._name} turns {text!r} into {self.decode(ids)!r}: it normalizes texts or adds a prefix, so '
                    'that decoding does not restore them; train one with train_tokenizer'
                )


def is_own(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether most of a model's first pieces are those of `train_tokenizer`'s models.

    Such a model is then checked: a damaged model of ours is not taken for one of another library.
    """
    there = [processor.id_to_piece(id) for id in range(min(len(processor), len(RESERVED_PIECES)))]
    return sum(map(str.__eq__, there, RESERVED_PIECES)) > len(RESERVED_PIECES) // 2
