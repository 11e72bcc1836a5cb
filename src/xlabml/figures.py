"""Format figures for people."""

from collections.abc import Mapping


def describe_figures(figures: Mapping[str, float], units: Mapping[str, str]) -> str:
    """One line of figures, those with a unit first: `1.4904 nats/token`, `accuracy 28.70%`, `auroc 0.9312`."""
    parts: list[str] = []
    for name in [*(name for name in units if name in figures), *(name for name in figures if name not in units)]:
        value = figures[name]
        unit = units.get(name, '')
        parts.append(f'{name} {value:.2%}' if unit == '%' else f'{value:.4f} {unit}' if unit else f'{name} {value:.4f}')
    return ', '.join(parts)


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
        parts = []
        for column, value in values.items():
            if column.endswith(('_low', '_high')) and column.rpartition('_')[0] in values:
                continue
            ends = [values.get(f'{column}_{end}') for end in ('low', 'high')]
            interval = '' if None in ends else f' ({ends[0]:.4f} to {ends[1]:.4f})'
            parts.append(f'{column} {value:.4f}{interval}')
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
