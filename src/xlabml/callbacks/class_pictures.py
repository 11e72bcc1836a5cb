"""Pictures of a classifier's last evaluation, in the run's folder and for its loggers."""

import io
from importlib.util import find_spec
from pathlib import Path

import lightning.pytorch as L

from xlabml import artifacts
from xlabml.evaluation import ClassEvaluator


def write_pictures(
    evaluator: ClassEvaluator, classes: list[str], split: str, folder: Path, trainer: L.Trainer
) -> list[Path]:
    """Write `SPLIT-reliability.png` and `SPLIT-confusion.png`; nothing where matplotlib is not installed.

    Args:
        evaluator: Has evaluated something.
        classes: The names of the classes.
        split: What was evaluated.
        folder: Of the run.
        trainer: Its loggers get the pictures too, those that take any.
    """
    reliability = evaluator.reliability
    confusion = evaluator.confusion
    if reliability is None or confusion is None or find_spec('matplotlib') is None:
        return []
    from xlabml.reports.class_plots import draw_confusion, draw_reliability

    errors = (evaluator.figures['ece'], evaluator.figures['perfect_ece'])
    bins = (reliability.n_examples.numpy(), reliability.confidence.numpy(), reliability.accuracy.numpy())
    figures = {
        'reliability': draw_reliability(*bins, errors, split),
        'confusion': draw_confusion(confusion.numpy(), classes, split),
    }
    paths = []
    for name, figure in figures.items():
        data = io.BytesIO()
        figure.savefig(data, format='png')
        paths.append(folder / f'{split}-{name}.png')
        artifacts.write_bytes(paths[-1], data.getvalue())
        for logger in trainer.loggers:
            add_figure = getattr(getattr(logger, 'experiment', None), 'add_figure', None)
            if add_figure is not None:
                add_figure(f'{name}/{split}', figure, trainer.global_step)
    return paths
