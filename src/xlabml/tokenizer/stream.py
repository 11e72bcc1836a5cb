"""Text as it is made: one token id in, the characters that are whole by now out."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable


class Stream(ABC):
    """Decodes ids one by one and never splits a character; what it returns, joined, is what `decode` returns."""

    @abstractmethod
    def push(self, id: int) -> str:
        """The characters that this id completes; '' while one is still open.

        Raises:
            ValueError: The id is not in the vocabulary.
        """

    @abstractmethod
    def close(self) -> str:
        """What is left: the replacement character where the last character stayed unfinished."""


class StreamDecoder(Stream):
    """Of a tokenizer whose text is the bytes of its tokens, joined.

    Args:
        piece_bytes: From an id to the bytes it stands for.
    """

    def __init__(self, piece_bytes: Callable[[int], bytes]) -> None:
        self._piece_bytes = piece_bytes
        self._decoder = codecs.getincrementaldecoder('utf-8')('replace')

    def push(self, id: int) -> str:
        return self._decoder.decode(self._piece_bytes(id))

    def close(self) -> str:
        return self._decoder.decode(b'', final=True)


class WindowDecoder(Stream):
    """Of a tokenizer whose text depends on where a token stands: the newest tokens are decoded behind an earlier one.

    A token's text may differ at the beginning of a text (no space before it there), and several tokens may spell one
    character. So the window begins with a token whose text is out already, and its text is held back while it ends with
    the replacement character, or with a token that is open.

    Args:
        decode: From ids to their text.
        check: Raises ValueError where an id is not in the vocabulary.
        is_silent: Whether `decode` passes the id over, as if it were not there.
        is_open: Whether a later token may change what this id adds to the text, although it looks whole.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        check: Callable[[int], None],
        is_silent: Callable[[int], bool],
        is_open: Callable[[int], bool] = lambda id: False,
    ) -> None:
        self._decode = decode
        self._check = check
        self._is_silent = is_silent
        self._is_open = is_open
        self._window: list[int] = []
        self._shown = ''  # of the window's text, what is out already
        self._context: list[int] = []  # the newest token that has a text of its own

    def push(self, id: int) -> str:
        self._check(id)
        if self._is_silent(id):
            return ''
        self._window.append(id)
        if self._is_open(id):
            return ''
        text = self._decode(self._window)
        if text.endswith('\ufffd'):
            return ''
        new = text[len(self._shown) :]
        if alone := self._decode([id]):
            self._window = [id]
            self._shown = alone
            self._context = [id]
        elif self._context:
            self._window = [*self._context, id]
            self._shown = self._decode(self._window)
        else:
            self._shown = text
        return new

    def close(self) -> str:
        new = self._decode(self._window)[len(self._shown) :]
        self._window = []
        self._shown = ''
        self._context = []
        return new
