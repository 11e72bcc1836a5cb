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
