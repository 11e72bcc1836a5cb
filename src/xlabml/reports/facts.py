"""A description of a run in words and numbers."""

import itertools
import statistics
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from xlabml.figures import describe_figures, describe_tables

from .numbers import duration, milliseconds, number
from .runs import Row, Run, column, columns

_LAST_ROWS = 10
"""Number of rows of which speeds are medians."""


def facts(run: Run) -> dict[str, str]:
    """All facts of a run, in the order of the report."""
    start = run.start
    found = {'folder': str(run.folder), 'state': state(run)}
    found |= _what(run, start)
    found |= _results(run)
    found |= _speed(run, start)
    for i, note in enumerate(run.notes):
        found[f'note {i + 1}'] = note
    return found


def text(runs: Sequence[Run]) -> str:
    """The facts of runs, as lines."""
    blocks = []
    for run in runs:
        said = facts(run)
        width = max(map(len, said)) + 2
        blocks.append('\n'.join([run.name, *(f'  {name:{width}}{value}' for name, value in said.items())]))
    return '\n\n'.join(blocks) + '\n'


def state(run: Run) -> str:
    """The progress of a run, and whether it has ended."""
    step = max((row['step'] for row in run.training), default=0)
    event = run.events[-1] if run.events else {}
    limit = next((e.get('max_steps') for e in reversed(run.events) if e.get('event') == 'start'), None)
    so_far = f'{step:,} steps' + (f' of {limit:,}' if isinstance(limit, int) and limit > 0 else '')
    if not run.training:
        so_far = 'no row of training yet'
    ends = {
        'finished': f'finished, {so_far}',
        'stopped': f'stopped before its end, {so_far}',
        'error': f'ended by an error at step {event.get("step", 0):,} ({event.get("error")}), {so_far}',
        'start': f'{so_far}; it has no end: it is running, or was killed',
    }
    return ends.get(str(event.get('event')), so_far)


def _what(run: Run, start: Row) -> dict[str, str]:
    # The settings may be of another program.
    groups = (run.settings.get(name) for name in ('model', 'data', 'trainer'))
    model, data, trainer = (group if isinstance(group, dict) else {} for group in groups)
    found = {}
    arguments = _arguments(model)
    trunk = _arguments(arguments.get('trunk'))
    sizes = [f'{name} {trunk[name]}' for name in ('d_model', 'n_layers', 'n_heads') if name in trunk]
    task = start.get('task') or str(model.get('class_path', '')).rpartition('.')[2]
    if task:
        found['model'] = ', '.join([task, *sizes])
    if 'parameters' in start:
        trained = start.get('trained_parameters', start['parameters'])
        found['parameters'] = f'{start["parameters"]:,}' + (
            f' ({trained:,} trained)' if trained != start['parameters'] else ''
        )
    for name in ('optimizer', 'schedule'):
        if isinstance(part := arguments.get(name), dict):
            found[name] = str(part.get('class_path', '')).rpartition('.')[2] + _rates(part)
    if 'sources' in data:
        sources = data['sources'] or ['the embedded corpus']
        found['data'] = '; '.join(_source(source) for source in (sources if isinstance(sources, list) else [sources]))
    forms = {'max_len': '{:,} tokens', 'batch_tokens': '{:,} a step', 'n_vocab': 'vocabulary {:,}'}
    if rows := [form.format(data[name]) for name, form in forms.items() if isinstance(data.get(name), int)]:
        found['rows'] = ', '.join(rows)
    if 'precision' in start:
        n_threads = start.get('threads')
        threads = f', {n_threads} thread{"s" * (n_threads > 1)}' if n_threads else ''
        found['precision'] = start['precision']
        found['devices'] = f'{start.get("devices", 1)} × {start.get("device")}{threads}'
    elif 'precision' in trainer:
        found['precision'] = str(trainer['precision'])
    if 'seed_everything' in run.settings:
        found['seed'] = str(run.settings['seed_everything'])
    return found


def _results(run: Run) -> dict[str, str]:
    found = {}
    if run.training:
        found['train, last row'] = _figures(run, run.training[-1], 'train_')
    if run.evaluations:
        found['val, last'] = _figures(run, run.evaluations[-1], 'val_')
        found |= _tables(run.evaluations[-1], 'val_')
        name, is_less = run.monitor
        scored = [row for row in run.evaluations if isinstance(row.get(name), int | float)]
        if scored:
            best = min(scored, key=lambda row: row[name] if is_less else -row[name])
            found['val, best'] = _figures(run, best, 'val_')
    else:
        found['val, last'] = 'no evaluation yet'
    for row in run.others:
        split = row.get('split', 'test')
        found[f'{split}, by xlab {row.get("command")}'] = _figures(run, row, f'{split}_')
        found |= _tables(row, f'{split}_')
    return found


def _speed(run: Run, start: Row) -> dict[str, str]:
    found: dict[str, str] = {}
    rows = run.training
    if not rows:
        return found
    if tokens := column(rows, 'tokens')[1]:
        found['tokens'] = f'{tokens[-1]:,.0f}'
    if rates := _last(rows, 'tokens_per_second'):
        found['tokens/s'] = f'{statistics.median(rates):,.0f} (median of the last {len(rates)} rows)'
    if ratios := _last(rows, 'mfu_ratio'):
        how = f', peak {start["peak_tflops"]:.4g} TFLOP/s, {start["peak_is"]}' if 'peak_tflops' in start else ''
        speed = statistics.median(_last(rows, 'tflops_per_second'))
        found['MFU'] = f'{statistics.median(ratios):.1%} ({speed:.4g} TFLOP/s per device{how})'
    parts = [name for name in columns([run], 'time/') if name.endswith('_seconds') and 'step' not in name]
    medians = {name[5:-8]: statistics.median(_last(rows, name)) for name in parts if _last(rows, name)}
    if medians:
        shown = ', '.join(f'{name} {number(1000 * value)}' for name, value in medians.items())
        found['step time'] = f'{milliseconds(statistics.median(_last(rows, "time/step_seconds")))}: {shown}'
    if waits := _last(rows, 'time/waiting_ratio'):
        found['waiting for data'] = f'{statistics.median(waits):.2%} of the time'
    if peak := column(rows, 'memory/peak_mib')[1]:
        found['memory, peak'] = f'{max(peak):,.0f} MiB'
    if (seconds := _elapsed(run)) is not None:
        found['time'] = duration(seconds)
    skipped = column(rows, 'skipped_steps')[1]
    if skipped:
        found['skipped steps'] = f'{skipped[-1]:,.0f}'
    if clipped := column(rows, 'clipped_ratio')[1]:
        found['clipped'] = f'{statistics.fmean(clipped):.1%} of the steps'
    starts = [event['step'] for event in run.events if event.get('event') == 'start']
    if len(starts) > 1:
        found['resumed from'] = 'step ' + ', '.join(f'{step:,}' for step in starts[1:])
    errors = [event for event in run.events[:-1] if event.get('event') == 'error']
    for event in errors:
        found[f'error at step {event.get("step", 0):,}'] = str(event.get('error'))
    return found


def _figures(run: Run, row: Row, prefix: str) -> str:
    """The figures of a row with this prefix, and its step."""
    return (describe_figures(_numbers(row, prefix), run.units) or 'nothing finite') + f' at step {row["step"]:,}'


def _tables(row: Row, prefix: str) -> dict[str, str]:
    """The rows of the tables of an evaluation."""
    return {f'{prefix[:-1]}: {name}': line for name, line in describe_tables(_numbers(row, prefix)).items()}


def _numbers(row: Row, prefix: str) -> dict[str, float]:
    values = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _last(rows: Sequence[Row], name: str) -> list[float]:
    return column(rows, name)[1][-_LAST_ROWS:]


def _elapsed(run: Run) -> float | None:
    """The time from each start to the last line before the next, summed; without pauses before a resume."""
    lines = [*run.events, *run.training, *run.evaluations]
    timed = [line for line in lines if 'time' in line]
    moments = sorted((datetime.fromisoformat(line['time']), line.get('event') == 'start') for line in timed)
    gaps = [(after - before, is_start) for (before, _), (after, is_start) in itertools.pairwise(moments)]
    return sum((gap.total_seconds() for gap, is_start in gaps if not is_start), 0.0) if moments else None


def _arguments(part: object) -> dict[str, Any]:
    found = (part.get('init_args') or part) if isinstance(part, dict) else {}
    return found if isinstance(found, dict) else {}


def _rates(part: object) -> str:
    values = _arguments(part)
    shown = [f'{name} {values[name]}' for name in ('lr', 'matrix_lr', 'warmup_steps') if values.get(name) is not None]
    return f' ({", ".join(shown)})' if shown else ''


def _source(source: object) -> str:
    values = _arguments(source)
    named = [str(values[name]) for name in ('path', 'name') if values.get(name)]
    if named:
        return ', '.join(named)
    return str(source.get('class_path', source)) if isinstance(source, dict) else str(source)
