"""Time the parts of a step, and the waiting for data."""

import time
from collections.abc import Callable

PARTS = ('data', 'forward', 'backward', 'optimizer', 'other')


class StepClock:
    """Assigns the time of a step to its parts, so that they sum to the step.

    A device runs asynchronously: only with a synchronization at every change of parts are their times right. That costs
    speed, so single steps are timed; in the others all calls only sum the waiting for data, which needs no
    synchronization.

    Args:
        synchronize: Waits until the device has finished its work.

    Attributes:
        is_on: Whether a step is being timed.
        waited_seconds: Time between `fetch` and `fetched`, over all steps; its reader resets it.
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
        """Begin to time a step."""
        self.synchronize()
        self.is_on = True
        self._part = 'other'
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def enter(self, part: str) -> None:
        """Assign the time from now on to a part."""
        if self.is_on:
            self.synchronize()
            now = time.perf_counter()
            self._seconds[self._part] += now - self._since
            self._part = part
            self._since = now

    def stop(self) -> dict[str, float] | None:
        """End the step; the seconds of each part, or None if the step was not timed."""
        if not self.is_on:
            return None
        self.enter('other')
        self.is_on = False
        return self._seconds

    def leave_out(self, seconds: float) -> None:
        """Take seconds out of the current part that do not belong to the step."""
        self._since += seconds

    def fetch(self) -> None:
        """Called before a batch is fetched."""
        self.enter('data')
        self._fetch = time.perf_counter()

    def fetched(self) -> None:
        """Called after a batch was fetched."""
        self.waited_seconds += time.perf_counter() - self._fetch
