"""Times of several things in alternation, so that whatever else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def alternate(measures: Mapping[str, Callable[[], float]], n_rounds: int) -> dict[str, float]:
    """Take each measure once a round; the median of each."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(n_rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
    return {name: statistics.median(values) for name, values in taken.items()}


def seconds(run: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
