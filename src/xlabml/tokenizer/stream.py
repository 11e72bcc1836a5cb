"""Text as it is made: one token id in, the characters that are whole by now out."""

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Decodes ids one by one and never splits a UTF-8 character; what it gives, joined, is what `decode` gives.

    Args:
        piece_bytes: From an id to the bytes it stands for.
    """

    def __init__(self, piece_bytes: Callable[[int], bytes]) -> None:
        self._piece_bytes = piece_bytes
        self._decoder = codecs.getincrementaldecoder('utf-8')('replace')

    def push(self, id: int) -> str:
        """The characters that this id completes; '' while one is still open."""
        return self._decoder.decode(self._piece_bytes(id))

    def close(self) -> str:
        """What is left: the replacement character where the last character stayed unfinished."""
        return self._decoder.decode(b'', final=True)
