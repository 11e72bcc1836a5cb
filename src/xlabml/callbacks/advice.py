"""The argument with which a run resumes without the rows of certain steps."""

import lightning.pytorch as L

from xlabml.engine import Run


def skip_argument(trainer: L.Trainer, first: int, last: int) -> str:
    """The argument that skips the rows of steps first to last, whichever checkpoint the run resumes from; '' where the
    data has no places.
    """
    run = Run.of(trainer)
    places = run.places_read(first, last)
    known = getattr(run.data, 'skip_rows', [])
    return f"--data.skip_rows='{[*known, *places]}'" if places else ''
