"""The serialized form of another library's tokenizer: its file, and the special tokens found when it was first read.

A line with the name of the format, a line of JSON, and the original file. So the tokenizer of a checkpoint does not
depend on how a later version detects special tokens, and a damaged one is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

from .special import ROLES, SpecialTokens

MAGIC = b'xlabml tokenizer 1\n'
_MAX_HEADER = 1 << 16


class Packed(NamedTuple):
    """A tokenizer's file and its special tokens.

    Args:
        kind: `sentencepiece` or `huggingface`.
        special: Its special tokens.
        file: The bytes of its file.
    """

    kind: str
    special: SpecialTokens
    file: bytes

    def pack(self) -> bytes:
        """Serialize it."""
        header = {'kind': self.kind, 'special_tokens': self.special.pieces, 'appended': self.special.appended}
        return MAGIC + _line({**header, 'sha256': _hash(header, self.file)}) + b'\n' + self.file


def unpack(data: bytes, name: str) -> Packed:
    """Restore what `Packed.pack` made.

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
        raise ValueError(f'{name} is damaged: its hash does not match; take it from the checkpoint again')
    return Packed(header['kind'], SpecialTokens(header['special_tokens'], header['appended']), file)


def _line(header: Mapping[str, object]) -> bytes:
    return json.dumps(header, sort_keys=True).encode()


def _hash(header: Mapping[str, object], file: bytes) -> str:
    digest = hashlib.sha256(_line(header))
    digest.update(file)
    return digest.hexdigest()


def _is_header(header: object) -> bool:
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
