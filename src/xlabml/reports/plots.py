"""Plots of one run or of several, overlaid: each run has the same colour everywhere."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from . import colours
from .panels import band, from_zero, grey, heights, legend, make_panels, short, smooth
from .runs import Run, column, columns


def draw_all(runs: Sequence[Run]) -> dict[str, Figure]:
    """All plots for which the runs have data, by name."""
    plots: dict[str, Callable[[Sequence[Run]], Figure | None]] = {
        'loss': draw_loss,
        'learning_rate': draw_learning_rate,
        'speed': draw_speed,
        'step_time': draw_step_time,
        'shares': draw_shares,
        'spectra': draw_spectra,
    }
    drawn = {name: draw(runs) for name, draw in plots.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def draw_loss(runs: Sequence[Run]) -> Figure | None:
    """Loss and the figures with a unit: the median of the training rows in a window, their 10-90 % quantiles, and
    evaluations."""
    units = {name: unit for run in runs for name, unit in run.units.items() if unit != '%'}
    named = {'loss': '', **dict.fromkeys(run.monitor[0].removeprefix('val_') for run in runs), **units}
    figures = [name for name in named if _has(runs, f'train_{name}') or _has(runs, f'val_{name}')]
    if not figures:
        return None
    figure, panels = make_panels(len(figures), 1, 9.0, 3.6)
    for panel, name in zip(panels, figures):
        ends = []
        for i, run in enumerate(runs):
            steps, values = column(run.training, f'train_{name}')
            if values:
                ends.append(band(panel, steps, values, colours.of_run(i)))
            steps, values = column(run.evaluations, f'val_{name}')
            panel.plot(
                steps, values, 'o-', color=colours.of_run(i), markeredgecolor='white', markersize=5, linewidth=0.8
            )
            ends += [max(values[len(values) // 10 :])] if values else []
        low = min(heights(panel))
        high = max(ends)
        panel.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
        panel.set_ylabel(_label(name, units.get(name, '')))
    panels[-1].set_xlabel('step')
    styles = [
        grey('train: median, 10–90 %'),
        grey('validation', marker='o', markersize=5, linewidth=0.8),
    ]
    legend(panels[0], runs, styles)
    return figure


def _label(name: str, unit: str) -> str:
    """`loss (nats per token)`, `bits per byte`, `auroc`."""
    words = unit.replace('/', ' per ')
    plain = name.replace('_', ' ')
    return f'{plain} ({words})' if words and words != plain else plain


def draw_learning_rate(runs: Sequence[Run]) -> Figure | None:
    """The learning rate of each group of parameters, and the gradient's norm with its limit."""
    groups = columns(runs, 'learning_rate/')
    has_norm = _has(runs, 'gradient_norm')
    if not groups and not has_norm:
        return None
    figure, panels = make_panels(bool(groups) + has_norm, 1, 9.0, 3.0)
    dashes = ('-', '--', ':', '-.')
    styles = []
    if groups:
        shown: list[str] = []
        for i, run in enumerate(runs):
            drawn: list[tuple[list[int], list[float]]] = []
            for group in groups:
                points = column(run.training, group)
                if points[0] and points not in drawn:  # groups of one rate are one line
                    drawn.append(points)
                    shown.append(group)
                    panels[0].plot(*points, dashes[groups.index(group) % 4], color=colours.of_run(i))
        panels[0].set_ylabel('learning rate')
        from_zero(panels[0])
        named = [group for group in groups if group in shown]
        if len(named) > 1:
            styles = [grey(g.partition('/')[2], linestyle=dashes[groups.index(g) % 4]) for g in named]
    if has_norm:
        for i, run in enumerate(runs):
            steps, values = column(run.training, 'gradient_norm')
            if values:
                band(panels[-1], steps, values, colours.of_run(i))
            panels[-1].plot(*column(run.training, 'clip_limit'), ':', color=colours.of_run(i), linewidth=1)
        panels[-1].set_yscale('log')
        panels[-1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[-1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        panels[-1].yaxis.set_minor_formatter(NullFormatter())
        panels[-1].set_ylabel('norm of the gradient\nbefore clipping')
        if _has(runs, 'clip_limit'):
            styles.append(grey('limit of the norm', linestyle=':'))
    panels[-1].set_xlabel('step')
    legend(panels[0], runs, styles)
    return figure


def draw_speed(runs: Sequence[Run]) -> Figure | None:
    """Useful tokens per second, MFU, and memory."""
    named = {
        'tokens_per_second': ('tokens per second', FuncFormatter(lambda value, _: f'{value:,.0f}')),
        'mfu_ratio': ('MFU', PercentFormatter(1)),
        'memory/now_mib': ('memory (MiB)', FuncFormatter(lambda value, _: f'{value:,.0f}')),
    }
    shown = [name for name in named if _has(runs, name)]
    if not shown:
        return None
    figure, panels = make_panels(len(shown), 1, 9.0, 2.3)
    for panel, name in zip(panels, shown):
        for i, run in enumerate(runs):
            steps, values = column(run.training, name)
            if values:
                band(panel, steps, values, colours.of_run(i))
            if name.startswith('memory'):
                panel.plot(*column(run.training, 'memory/peak_mib'), '--', color=colours.of_run(i), linewidth=1)
        panel.set_ylabel(named[name][0])
        panel.yaxis.set_major_formatter(named[name][1])
        from_zero(panel)
    panels[-1].set_xlabel('step')
    dashed = grey('memory: most so far', linestyle='--', linewidth=1)
    legend(panels[0], runs, [dashed] if 'memory/now_mib' in shown else [])
    return figure


def draw_step_time(runs: Sequence[Run]) -> Figure | None:
    """Time of the parts of the timed steps, one panel per run."""
    timed = [(i, run) for i, run in enumerate(runs) if column(run.training, 'time/step_seconds')[0]]
    if not timed:
        return None
    figure, panels = make_panels(len(timed), 1, 9.0, 2.6 if len(timed) > 1 else 3.6)
    for panel, (i, run) in zip(panels, timed):
        steps, total = column(run.training, 'time/step_seconds')
        parts = {name: column(run.training, f'time/{name}_seconds') for name in colours.PARTS}
        layers = [[1000 * s for s in smooth(values)[1]] for _, values in parts.values()]
        places = [steps[j] for j in smooth(total)[0]]
        panel.stackplot(places, layers, colors=list(colours.PARTS.values()), labels=list(colours.PARTS), linewidth=0)
        panel.set_ylim(0, 1.15 * float(np.sum(layers, axis=0).max()))
        panel.set_ylabel('ms per step')
        if len(runs) > 1:
            panel.set_title(run.name, color=colours.of_run(i), fontsize=10, loc='left')
    panels[-1].set_xlabel('step')
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=len(labels), frameon=False)
    return figure


def draw_shares(runs: Sequence[Run]) -> Figure | None:
    """Share of each source in the training tokens, one panel per run."""
    sources = columns(runs, 'share/')
    mixed = [(i, run) for i, run in enumerate(runs) if any(column(run.training, name)[0] for name in sources)]
    if not mixed:
        return None
    figure, panels = make_panels(len(mixed), 1, 9.0, 2.6 if len(mixed) > 1 else 3.2)
    names = _ends([name.partition('/')[2] for name in sources])
    for panel, (i, run) in zip(panels, mixed):
        rows = [row for row in run.training if any(name in row for name in sources)]
        steps = [row['step'] for row in rows]
        layers = [[100 * (row.get(name) or 0.0) for row in rows] for name in sources]
        places = smooth(layers[0])[0]
        smoothed = [smooth(layer, np.mean)[1] for layer in layers]
        tints = list(colormaps['viridis'](np.linspace(0.15, 0.85, len(sources))))
        panel.stackplot([steps[j] for j in places], smoothed, colors=tints, labels=names, linewidth=0, alpha=0.85)
        panel.set_ylim(0, 100)
        panel.yaxis.set_major_formatter(PercentFormatter())
        panel.set_ylabel('share of the tokens')
        if len(runs) > 1:
            panel.set_title(run.name, color=colours.of_run(i), fontsize=10, loc='left')
    panels[-1].set_xlabel('step')
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=min(4, len(labels)), frameon=False)
    return figure


def draw_spectra(runs: Sequence[Run]) -> Figure | None:
    """Spectra of each kind of matrix: one panel per kind and figure."""
    looks = {
        'stable_rank': 'stable rank',
        'mean_ratio': 'largest / mean\nsingular value',
        'top': 'largest\nsingular value',
    }
    names = columns(runs, 'spectra/')
    kinds = list(dict.fromkeys(name.split('/')[1] for name in names))
    if not kinds:
        return None
    figure, panels = make_panels(len(looks), len(kinds), 2.4 * len(kinds), 2.0)
    for row, (look, label) in enumerate(looks.items()):
        for place, kind in enumerate(kinds):
            panel = panels[row * len(kinds) + place]
            for i, run in enumerate(runs):
                panel.plot(*column(run.training, f'spectra/{kind}/{look}'), '.-', color=colours.of_run(i), markersize=4)
            from_zero(panel)
            panel.locator_params(axis='x', nbins=3)
            panel.xaxis.set_major_formatter(FuncFormatter(short))
            if row == 0:
                panel.set_title(kind.replace('_', ' '), fontsize=10)
            if row == len(looks) - 1:
                panel.set_xlabel('step')
            if place == 0:
                panel.set_ylabel(label)
    if len(runs) > 1:
        handles = [Line2D([], [], color=colours.of_run(i), label=run.name) for i, run in enumerate(runs)]
        figure.legend(handles=handles, loc='outside upper center', ncols=min(6, len(handles)), frameon=False)
    return figure


def _has(runs: Sequence[Run], name: str) -> bool:
    return any(column([*run.training, *run.evaluations], name)[0] for run in runs)


def _ends(paths: list[str]) -> list[str]:
    """The shortest ends of names that are distinct."""
    short = [path.rstrip('/').rpartition('/')[2] for path in paths]
    return short if len(set(short)) == len(short) else paths
