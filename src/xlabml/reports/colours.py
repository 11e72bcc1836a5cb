"""The colours of runs, splits and parts, in all pictures and on the page (runs: the colour-blind safe palette of Okabe
and Ito). On the page each is a variable of its style, which has another value where the page is dark."""

RUNS = (
    '#0072B2',
    '#D55E00',
    '#009E73',
    '#CC79A7',
    '#E69F00',
    '#56B4E9',
    '#7A5195',
    '#4D4D4D',
    '#8C6D31',
    '#A50026',
)
_DARK_RUNS = (
    '#4BA3E3',
    '#F08A4B',
    '#2EC79A',
    '#E79FC8',
    '#F2B63D',
    '#8CCBF2',
    '#B08BD0',
    '#B5B5B5',
    '#C7A55E',
    '#F0647A',
)
PARTS = {'data': '#E15759', 'forward': '#BFB0DE', 'backward': '#7B68B5', 'optimizer': '#D4B95E', 'other': '#C8C8C8'}

TRAIN = '#0073B3'
VAL = '#D65F00'
INK = '#1B1F24'
MUTED = '#57606A'
GRID = '#D8DEE4'

VARIABLES = {
    'ink': (INK, '#E6EDF3'),
    'muted': (MUTED, '#9AA4AF'),
    'grid': (GRID, '#3A4149'),
    'train': (TRAIN, '#4BA3E3'),
    'val': (VAL, '#F08A4B'),
    **{f'run{i}': pair for i, pair in enumerate(zip(RUNS, _DARK_RUNS))},
}
"""Name of a variable of the page's style -> its colour where the page is light, and where it is dark."""


def of_run(number: int) -> str:
    """The colour of a run, by its index."""
    return RUNS[number % len(RUNS)]
