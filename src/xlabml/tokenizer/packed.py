"""Somebody else's tokenizer as bytes that say what they are: its file, and what was settled when it was first read.

A line that names the format, a line of JSON, and then the file as it was. So a checkpoint's tokenizer never depends on
how a later version would guess, and what is damaged is refused.
"""

import hashlib
import json
from typing import Any, NamedTuple

from .special import ROLES, SpecialTokens

MAGIC = b'xlabml tokenizer 1\n'
_MAX_HEADER = 1 << 16


class Packed(NamedTuple):
    """A tokenizer's file and what is known of it.

    Args:
        kind: `sentencepiece` or `huggingface`.
        special: Its special tokens.
        file: The bytes of its file.
    """

    kind: str
    special: SpecialTokens
    file: bytes

    def pack(self) -> bytes:
        """One string of bytes of it all."""
        header = {'kind': self.kind, 'special_tokens': self.special.pieces, 'appended': self.special.appended}
        return MAGIC + _line({**header, 'sha256': _hash(header, self.file)}) + b'\n' + self.file


def unpack(data: bytes, name: str) -> Packed:
    """What `Packed.pack` made.

    Raises:
        ValueError: It is damaged, or of a later version.
    """
    line, newline, file = data[len(MAGIC) :].partition(b'\n')
    try:
        header = json.loads(line) if len(line) <= _MAX_HEADER and newline else None
    except (ValueError, RecursionError):
        header = None
    digest = header.pop('sha256', None) if isinstance(header, dict) else None
    if header is None or not _is_header(header) or digest != _hash(header, file):
        raise ValueError(f'{name} is damaged: it is not as xlabml wrote it; take it from the checkpoint again')
    return Packed(header['kind'], SpecialTokens(header['special_tokens'], header['appended']), file)


def _line(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True).encode()


def _hash(header: dict[str, Any], file: bytes) -> str:
    digest = hashlib.sha256(_line(header))
    digest.update(file)
    return digest.hexdigest()


def _is_header(header: Any) -> bool:
    if not isinstance(header, dict) or header.keys() != {'kind', 'special_tokens', 'appended'}:
        return False
    pieces = header['special_tokens']
    appended = header['appended']
    return (
        isinstance(header['kind'], str)
        and isinstance(pieces, dict)
        and {'sos', 'eos', 'pad'} <= pieces.keys() <= {*ROLES}
        and isinstance(appended, list)
        and all(isinstance(piece, str) and piece for piece in (*pieces.values(), *appended))
        and len({*appended}) == len(appended) <= 64
    )
