"""Any SentencePiece model, byte-pair or unigram: ids and decoded texts equal the library's."""

from collections.abc import Mapping
from functools import cached_property

import sentencepiece

from .base import MAX_VOCAB, Ints
from .foreign import ForeignTokenizer
from .model_file import fields
from .special import SpecialTokens, find_special_tokens
from .stream import WindowDecoder

SPACE_MARK = '\u2581'
# fields of sentencepiece_model.proto
_TRAINER = 2
_NORMALIZER = 3
_DENORMALIZER = 5
_CHARSMAP = 2


def open_model(data: bytes) -> sentencepiece.SentencePieceProcessor:
    """The library's processor for the bytes of a model.

    Raises:
        RuntimeError: They are not a model, or are truncated.
    """
    if not data:
        raise RuntimeError('it is empty')
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    if not 0 < len(processor) <= MAX_VOCAB:
        raise RuntimeError(f'it has {len(processor):,} pieces')
    return processor


def encode_flat(
    processor: sentencepiece.SentencePieceProcessor, texts: list[str], n_threads: int | None
) -> tuple[Ints, Ints] | None:
    """`Tokenizer.encode_flat` by the library's arrays, which take a fifth less time than its lists.

    Returns:
        None where this version of the library has no arrays, or refuses a text.
    """
    import numpy as np

    encode = getattr(processor, 'EncodeAsNumpy', None)
    if encode is None or not texts:
        return None
    try:
        arrays = encode(texts, num_threads=1 if len(texts) == 1 else n_threads or -1)
    except (RuntimeError, TypeError, UnicodeError):
        return None
    return np.concatenate(arrays), np.fromiter(map(len, arrays), np.int64, len(arrays))


class SentencePieceTokenizer(ForeignTokenizer):
    """A SentencePiece model that `train_tokenizer` did not make.

    Args:
        file: The bytes of the model.
        name: Its name in error messages.
        special: Its special tokens.

    Raises:
        ValueError: It is not a SentencePiece model, or lacks a special token.
    """

    kind = 'sentencepiece'

    def __init__(self, file: bytes, name: str, special: SpecialTokens) -> None:
        self._processor = open_model(file)
        self._is_denormalized = _is_denormalized(file)
        if not {_TRAINER, _NORMALIZER} <= {number for number, *_ in fields(file)}:
            raise RuntimeError('it has no normalizer specification')
        self._set_file(file, name, special, len(self._processor))
        self._roles = frozenset(self.special_ids.values())
        self._written = frozenset(id for id in self._roles if not self._is_never_written(id))

    @classmethod
    def read(
        cls, file: bytes, name: str, named: Mapping[str, str], append: bool, configured: Mapping[str, str]
    ) -> 'SentencePieceTokenizer':
        processor = open_model(file)
        ids = {
            'unk': processor.unk_id(),
            'sos': processor.bos_id(),
            'eos': processor.eos_id(),
            'pad': processor.pad_id(),
        }
        found = {role: processor.id_to_piece(id) for role, id in ids.items() if id >= 0}
        controls = [processor.id_to_piece(id) for id in range(len(processor)) if processor.is_control(id)]

        def has_piece(piece: str) -> bool:
            return processor.id_to_piece(processor.piece_to_id(piece)) == piece

        special = find_special_tokens(named, {**configured, **found}, controls, append, has_piece, name)
        return cls(file, name, special)

    def _find_in_file(self, piece: str) -> int | None:
        id = self._processor.piece_to_id(piece)
        return id if self._processor.id_to_piece(id) == piece else None

    def _piece_of_file(self, id: int) -> str:
        return self._processor.id_to_piece(id)

    @cached_property
    def reserved_ids(self) -> list[int]:
        return [id for id in range(len(self)) if id in self._roles or self._is_never_written(id)]

    def _is_never_written(self, id: int) -> bool:
        model = self._processor
        return id >= self._n_file or model.is_control(id) or model.is_unknown(id) or model.is_unused(id)

    @cached_property
    def piece_bytes(self) -> list[bytes]:
        return [self._bytes(id) for id in range(len(self))]

    def _bytes(self, id: int) -> bytes:
        if id in self._reserved:
            return b''
        if self.is_byte(id):
            return bytes([int(self._piece(id)[1:-1], 16)])
        return self._piece(id).replace(SPACE_MARK, ' ').encode()

    def is_byte(self, id: int) -> bool:
        return 0 <= id < self._n_file and self._processor.is_byte(id)

    def _encode(self, texts: list[str], n_threads: int | None) -> list[list[int]]:
        return self._processor.encode(texts, num_threads=1 if len(texts) == 1 else n_threads or -1)

    def encode_flat(self, texts: list[str], n_threads: int | None = None) -> tuple[Ints, Ints]:
        found = None if self._written else encode_flat(self._processor, texts, n_threads)
        return super().encode_flat(texts, n_threads) if found is None else found

    def _text(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    @cached_property
    def _alphabet(self) -> frozenset[str] | None:
        ids = range(self._n_file)
        if self._is_denormalized or any(map(self.is_byte, ids)):
            return None
        unknown = self._text([self._processor.unk_id()] * 2)  # there are no byte pieces, so some text is unknown
        return frozenset(' ' + unknown + ''.join(map(self._piece_of_file, ids)))

    def _is_silent(self, id: int) -> bool:
        return id >= self._n_file or id in self._written

    def stream(self) -> WindowDecoder:
        return WindowDecoder(self._processor.decode, self._check_id, self._is_silent)


def _is_denormalized(file: bytes) -> bool:
    """Whether a model has a denormalizer, which rewrites decoded texts by its own table."""
    return any(
        inner == _CHARSMAP and end > start
        for number, _, begin, stop in fields(file)
        if number == _DENORMALIZER
        for inner, _, start, end in fields(file[begin:stop])
    )
