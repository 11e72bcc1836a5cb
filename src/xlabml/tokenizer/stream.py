"""Incremental decoding: one token id in, the characters that are complete out."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable


class Stream(ABC):
    """Decodes ids one by one and never splits a character; the concatenated results equal `decode`."""

    @abstractmethod
    def push(self, id: int) -> str:
        """The characters that this id completes; '' while a character is incomplete.

        Raises:
            ValueError: The id is not in the vocabulary.
        """

    @abstractmethod
    def close(self) -> str:
        """The rest: the replacement character if the last character is incomplete."""


class StreamDecoder(Stream):
    """For tokenizers whose text is the concatenation of the bytes of its tokens.

    Args:
        piece_bytes: The bytes that an id stands for.
    """

    def __init__(self, piece_bytes: Callable[[int], bytes]) -> None:
        self._piece_bytes = piece_bytes
        self._decoder = codecs.getincrementaldecoder('utf-8')('replace')

    def push(self, id: int) -> str:
        return self._decoder.decode(self._piece_bytes(id))

    def close(self) -> str:
        return self._decoder.decode(b'', final=True)


class WindowDecoder(Stream):
    """For tokenizers whose tokens decode depending on their context: a window of the newest tokens is decoded.

    A token's text can differ at the beginning of a text (without a space before it), and several tokens can spell one
    character. So the window begins with a token whose text was already returned, and new text is held back while it
    ends with the replacement character, or with a token that is open.

    Args:
        decode: From ids to their text.
        check: Raises ValueError where an id is not in the vocabulary.
        is_silent: Whether `decode` skips the id.
        is_open: Whether a later token can still change the text of this id, although it seems complete.
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
        self._shown = ''  # the part of the window's text that was returned
        self._context: list[int] = []  # the newest token with text

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
