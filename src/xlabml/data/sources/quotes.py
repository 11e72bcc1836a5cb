"""A csv file's bytes on their way to a parser that does not look after its quotes."""

import io
import re
from pathlib import Path
from typing import Literal

Quoting = Literal['doubled', 'escaped', 'none']

_SPARE_BYTES = 64
_MAX_SHOWN = 40


def check_delimiter(delimiter: str) -> None:
    """Raise ValueError unless this can stand between fields."""
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\\\r\n\0':
        hint = '; a tab is "\\t" in double quotes' if delimiter.startswith('\\') else ''
        raise ValueError(
            f'delimiter is {delimiter!r}; it is one ASCII character, and no quote, backslash or line end{hint}'
        )


class CheckedQuotes(io.RawIOBase):
    """A file's bytes on their way to Arrow: lines are counted, and quotes looked after.

    Arrow takes a field that is still open at the file's end for whole, and drops the quotes of one that goes on behind
    its closing quote; so a quote that is meant as a character swallows rows, or is lost.

    Args:
        raw: The bytes, UTF-8.
        path: The file, for errors.
        delimiter: What stands between fields.
        quoting: What quotes are for.
        max_bytes: No quoted field may be longer.
    """

    def __init__(self, raw: io.BufferedIOBase, path: Path, delimiter: str, quoting: Quoting, max_bytes: int) -> None:
        self._raw = raw
        self._path = path
        self._quoted_field, self._well_quoted = _grammar(delimiter, quoting)
        self._is_quoted = quoting != 'none'
        self._max_bytes = max_bytes
        self._rest = b'\n'  # the last byte that is well quoted, and what is still open behind it
        self._lines = _Lines()
        self.error: ValueError | None = None

    def readable(self) -> bool:
        return True

    @property
    def n_lines(self) -> int:
        """How many lines were read, the last one with or without an end."""
        return self._lines.n + (not self._lines.is_at_start)

    def read(self, size: int = -1) -> bytes:
        block = self._next(size)
        self._lines.add(block)
        if self._is_quoted:
            try:
                self._check(block)
            except ValueError as error:
                self.error = error
                raise
        return block

    def _next(self, size: int) -> bytes:
        """The next bytes: none end with \\r, because Arrow drops a \\n at the beginning of those behind it."""
        block = self._raw.read(size - min(_SPARE_BYTES, size // 2))
        while block.endswith(b'\r') and len(block) < size and (more := self._raw.read(1)):
            block += more
        return block

    def finish(self) -> None:
        """Check what Arrow did not ask for, up to the file's end."""
        while self.read(1 << 20):
            pass

    def _check(self, block: bytes) -> None:
        if block and b'"' not in block and len(self._rest) == 1:
            self._rest = block[-1:]
            return
        data = self._rest + (block or b'\n')
        found = self._well_quoted.match(data, 1)
        assert found is not None  # it matches nothing, too
        self._rest = data[found.end() - 1 :]
        left = self._rest[1:]
        if not left.startswith(b'"'):
            return
        closed = self._quoted_field.match(left)
        if closed is None and block and len(left) <= self._max_bytes:
            return
        if closed is not None and closed.end() == len(left):
            return
        ends = _Lines()
        ends.add(left if block else left[:-1])
        start = ascii(left[:_MAX_SHOWN].decode('utf-8', 'replace').splitlines()[0])
        within = f' within {self._max_bytes >> 20} MB' if block else ''
        problem = f'is not closed{within}' if closed is None else 'goes on behind its closing quote'
        line = self._lines.n - ends.n + 1
        raise ValueError(
            f'{self._path}:{line}: the quoted field that begins here, {start} …, {problem}; mend it, fetch the file '
            'again if it was cut short, or set quoting to none if quotes are characters like others'
        )


class _Lines:
    """Counts line ends, \\n, \\r or both together, in bytes that come piece by piece."""

    def __init__(self) -> None:
        self.n = 0
        self._last = b''

    @property
    def is_at_start(self) -> bool:
        """Whether the next byte begins a line."""
        return self._last in (b'', b'\n', b'\r')

    def add(self, data: bytes) -> None:
        if not data:
            return
        self.n += data.count(b'\n')
        if self._last == b'\r' and data[0] == ord('\n'):
            self.n -= 1
        if b'\r' in data:
            self.n += data.count(b'\r') - data.count(b'\r\n')
        self._last = data[-1:]


def _grammar(delimiter: str, quoting: Quoting) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What a quoted field is, and any text whose quoted fields are whole, each with what ends it behind it.

    Blanks may follow a closing quote. A quote inside a field that does not begin with one is a character. No part of
    the pattern goes back, so that it takes a time in proportion to the text.
    """
    end = rb'[%s\r\n]' % re.escape(delimiter.encode())
    blanks = b'' if delimiter == ' ' else b' *+'
    if quoting == 'escaped':
        begin = rb'(?<!\\)%s' % end
        other = rb'[^"\\]++|\\.'
        quoted = rb'"[^"\\]*+(?:(?:\\.|"")[^"\\]*+)*+"' + blanks
        inside = rb'(?:(?<!%s)|(?<=\\.))"' % end
    else:
        begin = end
        other = rb'[^"]++'
        inside = rb'(?<!%s)"' % end
        quoted = rb'"[^"]*+(?:""[^"]*+)*+"' + blanks
    whole = rb'(?:%s|%s|(?<=%s)%s(?=%s))*+' % (other, inside, begin, quoted, end)
    return re.compile(quoted, re.DOTALL), re.compile(whole, re.DOTALL)
