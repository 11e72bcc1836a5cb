"""Format figures for people."""

from collections.abc import Mapping


def describe_figures(figures: Mapping[str, float], units: Mapping[str, str], width: int | None = None) -> str:
    """One line of figures, those with a unit first: `1.4904 nats/token`, `accuracy 28.70%`, `auroc 0.9312`.

    Args:
        figures: Values by name; `x_low` and `x_high` are the interval of x, and stand behind it. Those of tables are
            left out.
        units: Units by name; `%` shows a ratio as a percentage.
        width: The longest line, in characters, without intervals: figures that do not fit are counted, the first is
            always there. None: all are shown.
    """
    parts: list[str] = []
    for name in [*(name for name in units if name in figures), *(name for name in figures if name not in units)]:
        if not is_of_table(name) and not _is_end(name, figures):
            parts.append(_describe(name, figures, units.get(name, ''), width is None))
    n = len(parts)
    while width is not None and n > 1 and len(_line(parts, n)) > width:
        n -= 1
    return _line(parts, n)


def _line(parts: list[str], n: int) -> str:
    return ', '.join(parts[:n]) + (f', and {len(parts) - n} more' if n < len(parts) else '')


def _describe(name: str, figures: Mapping[str, float], unit: str, has_interval: bool = True) -> str:
    form = '{:.2%}' if unit == '%' else '{:.4f}'
    ends = [figures.get(f'{name}_{end}') for end in ('low', 'high')]
    interval = '' if None in ends or not has_interval else f' ({form} to {form})'.format(*ends)
    value = form.format(figures[name])
    return f'{value} {unit}{interval}' if unit not in ('', '%') else f'{name} {value}{interval}'


def _is_end(name: str, figures: Mapping[str, float]) -> bool:
    """Whether a figure is an end of the interval of another one."""
    of, _, end = name.rpartition('_')
    return end in ('low', 'high') and of in figures


def is_of_table(name: str) -> bool:
    """Whether a figure is of a table, named `column/row`: too many for a line."""
    return '/' in name


def describe_tables(figures: Mapping[str, float]) -> dict[str, str]:
    """The figures of tables as a line for each row, by its name; `column_low` and `column_high` are an interval."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        if is_of_table(name):
            column, _, row = name.partition('/')
            rows.setdefault(row, {})[column] = value
    found = {}
    for row, values in rows.items():
        parts = [_describe(column, values, '') for column in values if not _is_end(column, values)]
        found[row] = ', '.join(parts)
    return found


def describe_seconds(seconds: float) -> str:
    """A duration in its two largest units: `42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    units = ((86400, 'd'), (3600, 'h'), (60, 'min'), (1, 's'))
    first = next((i for i, (size, _) in enumerate(units) if whole >= size), len(units) - 1)
    parts = []
    for size, name in units[first : first + 2]:
        n, whole = divmod(whole, size)
        parts.append(f'{n} {name}')
    return ' '.join(part for part in parts if not part.startswith('0 ') or len(parts) == 1)
