"""The bytes of a SentencePiece model: a protocol buffer, from which a field can be removed without a schema."""

from collections.abc import Iterator

_VARINT = 0
_FIXED64 = 1
_BYTES = 2
_FIXED32 = 5


def without_field(message: bytes, *path: int) -> bytes:
    """A message without a field; all other bytes are unchanged.

    Source: https://protobuf.dev/programming-guides/encoding.

    Args:
        path: Field numbers: of the enclosing messages, from the outermost, and of the field.
    """
    number, *inner = path
    kept = []
    for found, start, value, end in fields(message):
        if found != number:
            kept.append(message[start:end])
        elif inner:
            changed = without_field(message[value:end], *inner)
            kept += [_varint(number << 3 | _BYTES), _varint(len(changed)), changed]
    return b''.join(kept)


def fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the value and end of each field."""
    end = 0
    while end < len(message):
        start = end
        tag, value = _read_varint(message, start)
        kind = tag & 7
        if kind == _VARINT:
            _, end = _read_varint(message, value)
        elif kind == _BYTES:
            size, value = _read_varint(message, value)
            end = value + size
        else:
            end = value + {_FIXED64: 8, _FIXED32: 4}[kind]
        yield tag >> 3, start, value, end


def _read_varint(message: bytes, start: int) -> tuple[int, int]:
    """A varint (7 bits per byte, lowest first), and its end."""
    number = shift = 0
    while True:
        byte = message[start]
        start += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, start


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])
