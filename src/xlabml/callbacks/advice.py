"""What to type for a run to go on without the rows of some steps."""

import lightning.pytorch as L

from xlabml.engine import Run


def skip_argument(trainer: L.Trainer, first: int, last: int) -> str:
    """The argument that leaves out the rows that the steps first to last have read, from whichever checkpoint the run
    resumes; '' where the data knows no places.
    """
    run = Run.of(trainer)
    places = run.places_read(first, last)
    known = getattr(run.data, 'skip_rows', [])
    return f"--data.skip_rows='{[*known, *places]}'" if places else ''
