"""The page of a report: facts, pictures, samples and settings of runs, without a script and with nothing to load."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from xlabml.plain import PlainDict, flat

from . import colours, facts
from .runs import Run

if TYPE_CHECKING:
    from .pictures import Picture

_TITLES = {
    'loss': 'Loss',
    'learning_rate': 'Learning rate and gradient',
    'speed': 'Speed and memory',
    'step_time': 'Time of a step',
    'shares': 'Sources',
    'spectra': 'Spectra of the weights',
}
_CAPTIONS = {
    'loss': 'Where there are enough rows, a line is the median of 3 % of them.',
    'learning_rate': 'Learning rate of each parameter group; norm of the gradient before clipping.',
    'speed': "Useful tokens per second; model FLOPs as a share of the device's peak (MFU); memory.",
    'step_time': 'Time of the parts of the timed steps (the last step of each row).',
    'shares': 'Share of each source in the training tokens.',
    'spectra': 'Singular values of the weights, averaged over the layers.',
}
_GROUPS = ('model', 'data', 'trainer', 'seed_everything', 'checkpoint', 'curves', 'samples', 'spikes')
_MOST_SAMPLES = 12
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --card: #f6f8fa; --mark: #fff3c4; LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --card: #161b22; --mark: #4a3b00; DARK } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 1.5rem auto; padding: 0 1rem;
  background: var(--page); color: var(--ink); }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.muted, figcaption { color: var(--muted); }
.wide-table { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; }
th { font-weight: 600; white-space: nowrap; } td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
tr.differs th::before { content: '≠ '; } tr.differs { background: var(--mark); }
pre { background: var(--card); padding: .8rem; overflow-x: auto; border-radius: 6px; font-size: 13px; }
pre.text { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .5rem 0; } summary { cursor: pointer; }
figure { margin: .5rem 0; } svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.narrow { display: none; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
.choice { display: none; }
.choices input { position: absolute; opacity: 0; }
.choices label { display: inline-block; padding: .15rem .7rem; margin: 0 .3rem .3rem 0; border-radius: 1rem;
  background: var(--card); cursor: pointer; }
.choices input:checked + label { background: var(--run0); color: var(--page); }
.choices input:focus-visible + label { outline: 2px solid var(--ink); }
@media (max-width: 40rem) {
  .wide { display: none; } .narrow { display: block; }
  .one th, .one td { display: block; padding: 0; } .one td { padding-bottom: .4rem; }
}
@media print { details > * { display: block; } }
"""


def page(runs: Sequence[Run], pictures: Sequence['Picture']) -> str:
    """A report as one HTML page; whatever comes from files is escaped, pictures are part of it.

    Args:
        runs: One, or several that are compared.
        pictures: In the order of the page; those of a name beside each other are a choice.
    """
    title = escape(', '.join(run.name for run in runs))
    date = max((date for run in runs if (date := run.date)), default=None)
    written = '' if date is None else f'<p class="muted">{date.strftime("%-d %b %Y, %H:%M UTC")}</p>'
    parts = [f'<h1>{title}</h1>{written}', _facts(runs), _pictures(pictures)]
    parts += [_samples(run, len(runs) > 1) for run in runs if run.samples]
    parts += [_settings(runs), *(_typed(run, len(runs) > 1) for run in runs)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{_style(pictures)}</style></head>\n<body>{"".join(parts)}</body></html>\n'
    )


def _style(pictures: Sequence['Picture']) -> str:
    light, dark = (' '.join(f'--{name}: {pair[i]};' for name, pair in colours.VARIABLES.items()) for i in range(2))
    chosen = (f'#choice{i}:checked ~ .choice{i} {{ display: block; }}\n' for i, _ in enumerate(pictures))
    return _STYLE.replace('LIGHT', light).replace('DARK', dark) + ''.join(chosen)


def _facts(runs: Sequence[Run]) -> str:
    said = [facts.facts(run) for run in runs]
    if len(runs) == 1:
        rows = ''.join(_row(name, [value]) for name, value in said[0].items())
        return f'<table class="one">{rows}</table>\n'
    return _compared(runs, said, 'facts')


def _compared(runs: Sequence[Run], values: Sequence[Mapping[str, str]], what: str) -> str:
    """A column for each run: what differs is marked, what is equal stands folded behind it."""
    names = list(dict.fromkeys(name for one in values for name in one))
    differs = [name for name in names if len({one.get(name) for one in values}) > 1]
    rows = ''.join(_row(name, [one.get(name, '–') for one in values], is_marked=True) for name in differs)
    equal = ''.join(_row(name, [values[0][name]]) for name in names if name not in differs)
    heads = ''.join(
        f'<th><span class="swatch" style="background:var(--run{i % len(colours.RUNS)})"></span>{escape(run.name)}</th>'
        for i, run in enumerate(runs)
    )
    table = f'<div class="wide-table"><table><tr><th></th>{heads}</tr>\n{rows}</table></div>'
    n_equal = len(names) - len(differs)
    folded = f'<details><summary>{n_equal} {what} are equal</summary><table>{equal}</table></details>'
    return (table if rows else f'<p>All {what} are equal.</p>') + (folded if equal else '') + '\n'


def _row(name: str, values: Sequence[str], is_marked: bool = False) -> str:
    cells = ''.join(f'<td>{escape(value)}</td>' for value in values)
    marked = ' class="differs"' if is_marked else ''
    return f'<tr{marked}><th>{escape(name)}</th>{cells}</tr>\n'


def _pictures(pictures: Sequence['Picture']) -> str:
    found = []
    for name in dict.fromkeys(picture.name for picture in pictures):
        some = [(i, picture) for i, picture in enumerate(pictures) if picture.name == name]
        drawn = ''.join(_picture(i, picture) for i, picture in some)
        if some[0][1].choice:
            buttons = (
                f'<input type="radio" name="{name}" id="choice{i}"{" checked" if i == some[0][0] else ""}>'
                f'<label for="choice{i}">{escape(picture.choice)}</label>'
                for i, picture in some
            )
            drawn = f'<div class="choices">{"".join(buttons)}{drawn}</div>'
        caption = f'<figcaption>{escape(_CAPTIONS[name])}</figcaption>'
        found.append(f'<h2>{_TITLES[name]}</h2><figure>{drawn}{caption}</figure>\n')
    return ''.join(found)


def _picture(place: int, picture: 'Picture') -> str:
    kind = f' class="choice choice{place}"' if picture.choice else ''
    return f'<div{kind}><div class="wide">{picture.wide}</div><div class="narrow">{picture.narrow}</div></div>'


def _samples(run: Run, is_named: bool) -> str:
    """The newest sample, and some of the earlier ones folded."""
    shown = [run.samples[i] for i in _spread(len(run.samples), _MOST_SAMPLES)]
    *earlier, newest = (
        f'<p class="muted">step {sample["step"]:,}</p><pre class="text">{escape(sample["text"])}</pre>'
        for sample in shown
    )
    folded = f'<details><summary>earlier samples</summary>{"".join(earlier)}</details>' if earlier else ''
    return f'<h2>Samples{_of(run, is_named)}</h2>{newest}{folded}\n'


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of n places, evenly, the last among them."""
    k = min(n, most)
    return [n - 1 if k == 1 else round(i * (n - 1) / (k - 1)) for i in range(k)]


def _settings(runs: Sequence[Run]) -> str:
    """The configuration: of one run its file, of several what differs."""
    found = ''.join(_file(run, len(runs) > 1) for run in runs if run.configuration)
    if not found:
        return ''
    if len(runs) > 1:
        values = [{name: str(value) for name, value in flat(_groups(run)).items()} for run in runs]
        found = _compared(runs, values, 'settings') + found
    return f'<h2>Configuration</h2>{found}\n'


def _groups(run: Run) -> PlainDict:
    return {name: run.settings[name] for name in _GROUPS if name in run.settings}


def _file(run: Run, is_named: bool) -> str:
    return (
        f'<details><summary>all settings{_of(run, is_named)}</summary><pre>{escape(run.configuration)}</pre></details>'
    )


def _typed(run: Run, is_named: bool) -> str:
    if not run.command_line:
        return ''
    return f'<h2>Command line{_of(run, is_named)}</h2><pre class="text">{escape(run.command_line)}</pre>\n'


def _of(run: Run, is_named: bool) -> str:
    return f' of {escape(run.name)}' if is_named else ''
