"""Pictures of one run, where train and val have two colours, or of several, each of which has one everywhere."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, PercentFormatter

from . import colours
from .numbers import number
from .panels import WIDE, Look, around, band, from_zero, grey, half_window, label, make_stack, of_runs, smooth, style
from .runs import Run, column, columns

_LOOKS = {
    'stable_rank': 'stable rank',
    'mean_ratio': 'largest / mean singular value',
    'top': 'largest singular value',
}
_DASHES = ('-', '--', ':', '-.')

Draw = Callable[[Sequence[Run], Look], Figure | None]


def draw_all(runs: Sequence[Run], look: Look = WIDE) -> dict[str, Figure]:
    """All pictures for which the runs have data, by name."""
    plots: dict[str, Draw] = {
        'loss': draw_loss,
        'learning_rate': draw_learning_rate,
        'speed': draw_speed,
        'step_time': draw_step_time,
        'shares': draw_shares,
        'spectra': draw_spectra,
    }
    with style(look):
        drawn = {name: draw(runs, look) for name, draw in plots.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def draw_loss(runs: Sequence[Run], look: Look) -> Figure | None:
    """Loss and the figures with a unit: training rows, the median of a window, and evaluations."""
    units = {name: unit for run in runs for name, unit in run.units.items() if unit != '%'}
    named = {'loss': '', **dict.fromkeys(run.monitor[0].removeprefix('val_') for run in runs), **units}
    figures = [name for name in named if _has(runs, f'train_{name}') or _has(runs, f'val_{name}')]
    if not figures:
        return None
    is_one = len(runs) == 1
    n_rows = max(len(column(run.training, f'train_{name}')[0]) for run in runs for name in figures)
    train = ('train, 10–90 % of the rows' if is_one else 'band: 10–90 %') if half_window(n_rows) >= 2 else 'train'
    if is_one:
        handles = [
            Line2D([], [], color=colours.TRAIN, label=train),
            Line2D([], [], color=colours.VAL, marker='o', markersize=4, label='val'),
        ]
    else:
        handles = [*of_runs(runs), grey(f'train, {train}' if 'band' in train else train, linewidth=1.0)]
        handles += [grey('val', marker='o', markersize=4, linewidth=0)]
    titles = [_label(name, units.get(name, '')) for name in figures]
    stack = make_stack(look, 'Loss', runs, titles, handles, 2.8)
    for panel, name in zip(stack.panels, figures):
        for i, run in enumerate(runs):
            steps, values = column(run.training, f'train_{name}')
            if values:
                band(panel, steps, values, colours.TRAIN if is_one else colours.of_run(i), linewidth=1.2)
            steps, values = column(run.evaluations, f'val_{name}')
            colour = colours.VAL if is_one else colours.of_run(i)
            panel.plot(steps, values, 'o-', color=colour, markersize=4, linewidth=1.2 if is_one else 0.5, zorder=3)
            if is_one and values:
                at = (steps[-1], values[-1])
                panel.annotate(number(values[-1], 4), at, (0, 6), textcoords='offset points', ha='center', color=colour)
        around(panel, is_ratio=name not in units and 'loss' not in name)
    return stack.figure


def _label(name: str, unit: str) -> str:
    """`loss (nats per token)`, `bits per byte`, `auroc`."""
    words = unit.replace('/', ' per ')
    plain = name.replace('_', ' ')
    return f'{plain} ({words})' if words and words != plain else plain


def draw_learning_rate(runs: Sequence[Run], look: Look) -> Figure | None:
    """The learning rate of each group of parameters, and the gradient's norm with its limit."""
    groups = columns(runs, 'learning_rate/')
    has_norm = _has(runs, 'gradient_norm')
    if not groups and not has_norm:
        return None
    drawn = _distinct_rates(runs, groups)
    shown = [group for group in groups if any(group in of_one for of_one in drawn)]
    dashes = {group: _DASHES[i % len(_DASHES)] for i, group in enumerate(shown)}
    handles = of_runs(runs)
    if len(shown) > 1:
        handles += [grey(group.partition('/')[2], linestyle=dashes[group]) for group in shown]
    if has_norm and _has(runs, 'clip_limit'):
        handles.append(grey('limit of the norm', linestyle=':', linewidth=1))
    names = ['learning rate'] * bool(groups) + ['norm of the gradient before clipping'] * has_norm
    stack = make_stack(look, 'Learning rate and gradient', runs, names, handles)
    for i, (run, of_one) in enumerate(zip(runs, drawn)):
        for group, points in of_one.items():
            stack.panels[0].plot(*points, dashes[group], color=colours.of_run(i))
        if has_norm:
            steps, values = column(run.training, 'gradient_norm')
            if values:
                band(stack.panels[-1], steps, values, colours.of_run(i))
            stack.panels[-1].plot(*column(run.training, 'clip_limit'), ':', color=colours.of_run(i), linewidth=1)
    if groups:
        from_zero(stack.panels[0])
    if has_norm:
        around(stack.panels[-1])
    return stack.figure


def _distinct_rates(runs: Sequence[Run], groups: Sequence[str]) -> list[dict[str, tuple[list[int], list[float]]]]:
    """The rates of each run, by group; groups of one rate are one line."""
    found = []
    for run in runs:
        of_one: dict[str, tuple[list[int], list[float]]] = {}
        for group in groups:
            points = column(run.training, group)
            if points[0] and points not in of_one.values():
                of_one[group] = points
        found.append(of_one)
    return found


def draw_speed(runs: Sequence[Run], look: Look) -> Figure | None:
    """Useful tokens per second, MFU, and memory."""
    named = {
        'tokens_per_second': 'tokens per second',
        'mfu_ratio': "MFU (share of the device's peak)",
        'memory/now_mib': 'memory (MiB)',
    }
    shown = [name for name in named if _has(runs, name)]
    if not shown:
        return None
    handles = of_runs(runs)
    if 'memory/now_mib' in shown:
        handles.append(grey('memory: most so far', linestyle='--', linewidth=1))
    stack = make_stack(look, 'Speed and memory', runs, [named[name] for name in shown], handles, 1.8)
    for panel, name in zip(stack.panels, shown):
        for i, run in enumerate(runs):
            steps, values = column(run.training, name)
            if values:
                band(panel, steps, values, colours.of_run(i))
            if name.startswith('memory'):
                panel.plot(*column(run.training, 'memory/peak_mib'), '--', color=colours.of_run(i), linewidth=1)
        if name == 'mfu_ratio':
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{number(100 * value)}%'))
        from_zero(panel)
    return stack.figure


def draw_step_time(runs: Sequence[Run], look: Look) -> Figure | None:
    """Time of the parts of the timed steps, one panel per run."""
    timed = [run for run in runs if column(run.training, 'time/step_seconds')[0]]
    if not timed:
        return None
    handles = [Patch(color=colour, label=name) for name, colour in colours.PARTS.items()]
    stack = make_stack(look, 'Time of a step', runs, _of_each(timed, 'milliseconds'), handles, 2.0)
    for panel, run in zip(stack.panels, timed):
        steps, total = column(run.training, 'time/step_seconds')
        parts = {name: column(run.training, f'time/{name}_seconds') for name in colours.PARTS}
        layers = [[1000 * s for s in smooth(values)[1]] for _, values in parts.values()]
        places = [steps[j] for j in smooth(total)[0]]
        panel.stackplot(places, layers, colors=list(colours.PARTS.values()), linewidth=0)
        panel.set_ylim(0, 1.15 * float(np.sum(layers, axis=0).max()))
    return stack.figure


def draw_shares(runs: Sequence[Run], look: Look) -> Figure | None:
    """Share of each source in the training tokens, one panel per run."""
    sources = columns(runs, 'share/')
    mixed = [run for run in runs if any(column(run.training, name)[0] for name in sources)]
    if not mixed:
        return None
    names = _ends([name.partition('/')[2] for name in sources])
    tints = [to_hex(tint) for tint in colormaps['viridis'](np.linspace(0.15, 0.85, len(sources)))]
    handles = [Patch(color=tint, label=label(name)) for name, tint in zip(names, tints)]
    titles = _of_each(mixed, 'share of the tokens')
    stack = make_stack(look, 'Sources', runs, titles, handles, 2.0)
    for panel, run in zip(stack.panels, mixed):
        rows = [row for row in run.training if any(name in row for name in sources)]
        steps = [row['step'] for row in rows]
        layers = [[100 * (row.get(name) or 0.0) for row in rows] for name in sources]
        places = smooth(layers[0])[0]
        smoothed = [smooth(layer, np.mean)[1] for layer in layers]
        panel.stackplot([steps[j] for j in places], smoothed, colors=tints, linewidth=0, alpha=0.85)
        panel.set_ylim(0, 100)
        panel.yaxis.set_major_formatter(PercentFormatter())
    return stack.figure


def draw_spectra(runs: Sequence[Run], look: Look) -> Figure | None:
    """Spectra of all kinds of matrices, a panel for each figure of them."""
    kinds = _kinds(runs)
    return _draw_spectra(runs, look, kinds, list(_LOOKS)) if kinds else None


def draw_spectrum_choices(runs: Sequence[Run], look: Look = WIDE) -> dict[str, Figure]:
    """Parts of the spectra to choose from: of one run a figure of all kinds of matrices, of several a kind."""
    kinds = _kinds(runs)
    with style(look):
        if len(runs) == 1:
            return {title: _draw_spectra(runs, look, kinds, [name]) for name, title in _LOOKS.items() if kinds}
        return {kind.replace('_', ' '): _draw_spectra(runs, look, [kind], list(_LOOKS)) for kind in kinds}


def _draw_spectra(runs: Sequence[Run], look: Look, kinds: Sequence[str], names: Sequence[str]) -> Figure:
    """A panel for each figure; the colours tell kinds of matrices of one run apart, and of several the runs."""
    is_one = len(runs) == 1
    of_kinds = [Line2D([], [], color=colours.of_run(i), label=kind.replace('_', ' ')) for i, kind in enumerate(kinds)]
    titles = [_LOOKS[name] for name in names]
    height = 3.0 if len(names) == 1 else 1.8
    stack = make_stack(look, 'Spectra of the weights', runs, titles, of_kinds if is_one else of_runs(runs), height)
    for panel, name in zip(stack.panels, names):
        for place, kind in enumerate(kinds):
            for i, run in enumerate(runs):
                colour = colours.of_run(place if is_one else i)
                panel.plot(*column(run.training, f'spectra/{kind}/{name}'), '.-', color=colour, linewidth=1.2)
        from_zero(panel)
    return stack.figure


def _kinds(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name.split('/')[1] for name in columns(runs, 'spectra/')))


def _of_each(runs: Sequence[Run], what: str) -> list[str]:
    """The titles of panels of which each run has one."""
    return [what] if len(runs) == 1 else [f'{run.name}: {what}' for run in runs]


def _has(runs: Sequence[Run], name: str) -> bool:
    return any(column([*run.training, *run.evaluations], name)[0] for run in runs)


def _ends(paths: list[str]) -> list[str]:
    """The shortest ends of names that are distinct."""
    short = [path.rstrip('/').rpartition('/')[2] for path in paths]
    return short if len(set(short)) == len(short) else paths
