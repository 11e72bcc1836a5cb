"""The colour of each run, in all plots and on the page (the colour-blind safe palette of Okabe and Ito)."""

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
PARTS = {'data': '#E15759', 'forward': '#BFB0DE', 'backward': '#7B68B5', 'optimizer': '#D4B95E', 'other': '#C8C8C8'}


def of_run(number: int) -> str:
    """The colour of a run, by its index."""
    return RUNS[number % len(RUNS)]
