"""A `tokenizer.json` of Hugging Face's library `tokenizers` (extra `hf`).

The file is data for that library: no class is looked up, no template is filled in and no code is executed. Truncation,
padding, the special tokens around a text and BPE's dropout are disabled: the same text always has the same ids.
"""

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from .base import MAX_VOCAB
from .foreign import ForeignTokenizer
from .packed import unpack
from .special import SpecialTokens, find_special_tokens
from .stream import Stream, StreamDecoder, WindowDecoder

if TYPE_CHECKING:
    import tokenizers

_MAX_DEPTH = 32
_GROUP_TEXTS = 256
"""Texts per call of the library, which keeps every token as a string: with 1,000 texts a call takes 3 % longer."""
_PLAIN_DECODERS = {'WordPiece', 'BPEDecoder', 'Metaspace'}
"""Decoders that return only characters of the pieces, spaces and apostrophes (`do not` becomes `don't`)."""
_BYTE_PIECES = {f'<0x{byte:02X}>': byte for byte in range(256)}


class HuggingFaceTokenizer(ForeignTokenizer):
    """A `tokenizer.json`.

    Args:
        file: Its bytes.
        name: Its name in error messages.
        special: Its special tokens.
        opened: The result of `open_file`, where it was called already.

    Raises:
        ValueError: It is not a tokenizer.json, is damaged or too large, or lacks a special token; or the library is not
            installed.
    """

    kind = 'huggingface'

    def __init__(self, file: bytes, name: str, special: SpecialTokens, opened: 'Opened | None' = None) -> None:
        content, self._library, self._added = opened or open_file(file, name)
        self._ids = self._library.get_vocab(with_added_tokens=True)
        self._pieces = {id: piece for piece, id in self._ids.items()}
        self._set_file(file, name, special, max(self._pieces) + 1)
        decoders = find_types(content.get('decoder'))
        self._is_byte_level = decoders == ['ByteLevel']
        self._is_plain = {*decoders} <= _PLAIN_DECODERS
        self._falls_back = 'ByteFallback' in decoders
        self._written = self._reserved - {self.special_ids.get('unk')}

    @classmethod
    def read(
        cls, file: bytes, name: str, named: Mapping[str, str], append: bool, configured: Mapping[str, str]
    ) -> 'HuggingFaceTokenizer':
        opened = open_file(file, name)
        content, library, added = opened
        unk = content['model'].get('unk_token')
        if unk is None and isinstance(content['model'].get('unk_id'), int):
            unk = library.id_to_token(content['model']['unk_id'])
        found = {'unk': unk, **configured} if isinstance(unk, str) else configured
        candidates = [token.content for token in added.values() if token.special]

        def has_piece(piece: str) -> bool:
            return library.token_to_id(piece) is not None

        special = find_special_tokens(named, found, candidates, append, has_piece, name)
        return cls(file, name, special, opened)

    def _find_in_file(self, piece: str) -> int | None:
        return self._ids.get(piece)

    def _piece_of_file(self, id: int) -> str:
        return self._pieces.get(id, '')

    @cached_property
    def reserved_ids(self) -> list[int]:
        special = {id for id, token in self._added.items() if token.special}
        without = {id for id in range(len(self)) if id not in self._pieces}
        return sorted(special | without | {*self.special_ids.values()})

    @cached_property
    def piece_bytes(self) -> list[bytes]:
        known = self._bytes_of_level() if self._is_byte_level else self._bytes_within()
        return [b'' if id in self._reserved else known[id] for id in range(len(self))]

    def _bytes_of_level(self) -> dict[int, bytes]:
        """The bytes of each token of a byte-level decoder."""
        table = _byte_level()

        def spell(piece: str) -> bytes:
            known = [table.get(char, -1) for char in piece]
            return piece.encode() if -1 in known else bytes(known)

        return {id: spell(piece) for id, piece in self._pieces.items()}

    def _bytes_within(self) -> dict[int, bytes]:
        """The bytes that each token adds inside a text, by the library's decoding."""
        before = next(
            (id for id, piece in self._pieces.items() if piece.isalpha() and self._decode([id]).isalpha()), None
        )
        lead = [] if before is None else [before]
        start = len(self._decode(lead))
        ids = list(self._pieces)
        texts = self._library.decode_batch([[*lead, id] for id in ids], skip_special_tokens=True)
        found = {id: text[start:].encode() for id, text in zip(ids, texts)}
        if self._falls_back:
            found |= {self._ids[piece]: bytes([b]) for piece, b in _BYTE_PIECES.items() if piece in self._ids}
        return found

    def is_byte(self, id: int) -> bool:
        if self._is_byte_level:
            return id in self._pieces and len(self.piece_bytes[id]) == 1 and self.piece_bytes[id][0] > 127
        return self._falls_back and self._pieces.get(id) in _BYTE_PIECES

    def _encode(self, texts: list[str], n_threads: int | None) -> list[list[int]]:
        n = min(len(texts), n_threads or os.cpu_count() or 1)
        if n < 2:
            return self._encode_here(texts)
        size = -(-len(texts) // n)
        with ThreadPoolExecutor(n) as pool:
            parts = pool.map(self._encode_here, [texts[i : i + size] for i in range(0, len(texts), size)])
            return [ids for part in parts for ids in part]

    def _encode_here(self, texts: list[str]) -> list[list[int]]:
        encode = self._library.encode_batch_fast
        groups = (texts[i : i + _GROUP_TEXTS] for i in range(0, len(texts), _GROUP_TEXTS))
        try:
            return [found.ids for group in groups for found in encode(group, add_special_tokens=False)]
        except BaseException as error:
            if type(error).__name__ != 'PanicException':
                raise
            raise ValueError(f'{self._name} cannot encode a text: the library tokenizers fails ({error})') from error

    def encode_framed(self, text: str) -> list[int]:
        """The ids of a text with the special tokens that the file itself puts around it, which `encode` leaves out."""
        ids: list[int] = self._library.encode(text, add_special_tokens=True).ids
        return ids

    @property
    def file(self) -> bytes:
        """The file, as it was."""
        return unpack(self.data, self._name).file

    def _decode(self, ids: Iterable[int]) -> str:
        known = self._speaking(ids)
        if self._is_byte_level:
            return b''.join(map(self.piece_bytes.__getitem__, known)).decode(errors='replace')
        return self._text(known)

    def _text(self, ids: list[int]) -> str:
        return self._library.decode(ids, skip_special_tokens=True)

    @cached_property
    def _alphabet(self) -> frozenset[str] | None:
        return frozenset(''.join([" '", *self._ids])) if self._is_plain else None

    def stream(self) -> Stream:
        if self._is_byte_level:
            return StreamDecoder(self._checked_bytes)
        return WindowDecoder(self._decode, self._check_id, self._is_silent, self._is_open)

    def _checked_bytes(self, id: int) -> bytes:
        self._check_id(id)
        return self.piece_bytes[id]

    def _is_silent(self, id: int) -> bool:
        return id in self._written or id not in self._pieces or (id in self._added and self._added[id].special)

    def _is_open(self, id: int) -> bool:
        # Where one byte is wrong, the library replaces the whole run of bytes.
        return self._falls_back and self._pieces[id] in _BYTE_PIECES


class Opened(NamedTuple):
    """A file that was opened.

    Args:
        content: Its JSON.
        library: The library's tokenizer.
        added: The tokens that were added to the model's vocabulary, by id.
    """

    content: dict[str, Any]
    library: 'tokenizers.Tokenizer'
    added: 'dict[int, tokenizers.AddedToken]'


def open_file(file: bytes, name: str) -> Opened:
    """Open the bytes of a `tokenizer.json`, after checking that they are safe to parse.

    Raises:
        ValueError: They are not a tokenizer.json, or nested too deeply; or the library is not installed.
    """
    try:
        content = json.loads(file.decode('utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{name} is no JSON, or cut short ({str(error)[:200]}); copy it again') from error
    if _depth(content) > _MAX_DEPTH:
        raise ValueError(f'{name} is nested more than {_MAX_DEPTH} deep, as no tokenizer.json is')
    if not isinstance(content, dict) or not isinstance(content.get('model'), dict):
        raise ValueError(
            f'{name} is no tokenizer.json: it has no model; give the file of that name, which '
            'PreTrainedTokenizerFast.save_pretrained writes'
        )
    # The library's own threads do not survive a fork, so we use threads outside of it.
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            f'{name} is one of Hugging Face\'s, which need the library tokenizers: pip install "xlabml[hf]"'
        ) from error
    try:
        library = tokenizers.Tokenizer.from_str(file.decode('utf-8-sig'))
        _configure(library)
    except BaseException as error:  # a panic of the library is not an Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise ValueError(
            f'{name} is no tokenizer.json that the library tokenizers can use: {str(error)[:300]}'
        ) from error
    return Opened(content, library, library.get_added_tokens_decoder())


def _configure(library: 'tokenizers.Tokenizer') -> None:
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True  # the name of a special token in a text is ordinary text
    if getattr(library.model, 'dropout', None) is not None:
        library.model.dropout = None
    ids = library.get_vocab(with_added_tokens=True).values()
    if not ids or max(ids) >= MAX_VOCAB:
        raise ValueError(f'it has {max(ids, default=-1) + 1:,} ids')
    library.decode(library.encode('a b', add_special_tokens=False).ids)


def find_types(decoder: object) -> list[str]:
    """The types of the decoders in a `tokenizer.json`, sequences flattened."""
    if not isinstance(decoder, dict):
        return []
    if decoder.get('type') == 'Sequence' and isinstance(decoder.get('decoders'), list):
        return [name for inner in decoder['decoders'] for name in find_types(inner)]
    return [str(decoder.get('type'))]


def _depth(value: object) -> int:
    deepest = 0
    level = [value]
    while level and deepest <= _MAX_DEPTH:
        deepest += 1
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
    return deepest


def _byte_level() -> dict[str, int]:
    """The byte that each character stands for in byte-level tokenizers: the inverse of GPT-2's `bytes_to_unicode`."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
