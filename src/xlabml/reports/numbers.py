"""Numbers as people write them: 1,030 ms, 35 s, 1 h 05 min."""

import math


def number(value: float, digits: int = 3) -> str:
    """A number to a few significant digits, whole where it is large: 0.0012, 4.17, 1,030."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return '0'
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if places > 9:
        return f'{value:.{digits - 1}e}'
    text = f'{value:,.{places}f}'
    return text.rstrip('0').rstrip('.') if '.' in text else text


def milliseconds(seconds: float) -> str:
    """A short time: 0.21 ms, 1,030 ms."""
    return f'{number(1000 * seconds)} ms'


def duration(seconds: float) -> str:
    """A long time: 35 s, 5 min 07 s, 1 h 05 min, 3 d 04 h."""
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02} s'
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f'{minutes // 60} h {minutes % 60:02} min'
    hours = round(seconds / 3600)
    return f'{hours // 24:,} d {hours % 24:02} h'
