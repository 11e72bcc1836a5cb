"""Where the time of a step goes, and how long the run waits for data."""

import time
from collections.abc import Callable

PARTS = ('data', 'forward', 'backward', 'optimizer', 'other')


class StepClock:
    """Charges the time of a step to its parts, one after another, so that they sum to the step.

    A device works behind the back of the program: only where both are brought together (synchronised) at every change
    of parts does the clock say what each takes. That costs speed, so it runs for single steps; in between, all calls
    do nothing but sum up the waiting for data, which the device has no part in.

    Args:
        synchronize: Waits until the device has done all that it was given.

    Attributes:
        is_on: Whether a step is measured.
        waited_seconds: The time spent between `fetch` and `fetched`, in all steps; whoever reads it sets it back.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize
        self.is_on = False
        self.waited_seconds = 0.0
        self._seconds: dict[str, float] = {}
        self._part = 'other'
        self._since = 0.0
        self._fetch = 0.0

    def start(self) -> None:
        """Begin to measure a step."""
        self.synchronize()
        self.is_on = True
        self._part = 'other'
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def enter(self, part: str) -> None:
        """What comes now belongs to this part."""
        if self.is_on:
            self.synchronize()
            now = time.perf_counter()
            self._seconds[self._part] += now - self._since
            self._part = part
            self._since = now

    def stop(self) -> dict[str, float] | None:
        """End the step: the seconds of each part; None if none was measured."""
        if not self.is_on:
            return None
        self.enter('other')
        self.is_on = False
        return self._seconds

    def leave_out(self, seconds: float) -> None:
        """So much of the present part was no part of the step."""
        self._since += seconds

    def fetch(self) -> None:
        """A batch is asked for."""
        self.enter('data')
        self._fetch = time.perf_counter()

    def fetched(self) -> None:
        """The batch is there."""
        self.waited_seconds += time.perf_counter() - self._fetch
