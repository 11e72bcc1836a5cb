"""The table that a classifier's figures have to be read in: beside its baselines, with paired intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from .bootstrap import Interval, mean_interval, paired_interval
from .calibration import class_reliability, perfect_ece
from .class_baselines import Outputs
from .classification import (
    Labels,
    as_classes,
    binary_log_losses,
    confusion_matrix,
    is_correct,
    log_losses,
    report_of,
)
from .ranks import spearman

_WIDTH = 20


class ClassRow(NamedTuple):
    """A system of a table.

    Args:
        name: For people.
        loss: Its mean loss.
        score: The ratio of what is right; of a regression, Spearman's rank correlation.
        above: What its loss exceeds that of the first system by, on the same examples; None: it is the first.
    """

    name: str
    loss: Interval
    score: float
    above: Interval | None


def example_losses(outputs: Outputs, labels: Labels, task: str) -> Float[Tensor, ' e']:
    """The loss of each example: log loss, binary log loss of several labels, or squared error.

    Args:
        outputs: As `class_baselines` has them.
        labels: Of the examples.
        task: As in SequenceClassifier.
    """
    if task == 'regression':
        return (outputs[:, 0].double() - labels.view(-1).double()).square()
    if task == 'multi-label':
        return binary_log_losses(outputs, labels)
    return log_losses(outputs.double().log_softmax(-1), labels)


def example_scores(outputs: Outputs, labels: Labels, task: str) -> Float[Tensor, ' e']:
    """1 for each example that is right, 0 for the others; with several labels, where all are right."""
    if task == 'multi-label':
        return ((outputs >= 0) == (labels >= 0.5)).all(1).double()
    return is_correct(outputs, labels)


def class_table(
    systems: Mapping[str, Outputs],
    labels: Labels,
    task: str,
    groups: Int[Tensor, ' e'] | None = None,
    seed: int = 0,
) -> list[ClassRow]:
    """A row a system, each paired with the first.

    Args:
        systems: Outputs by name.
        labels: Of the examples.
        task: As in SequenceClassifier.
        groups: As in `mean_interval`.
        seed: Of the intervals.
    """
    rows = []
    first: Float[Tensor, ' e'] | None = None
    for name, outputs in systems.items():
        losses = example_losses(outputs, labels, task)
        if task == 'regression':
            score = spearman(outputs[:, 0].double(), labels.view(-1).double())
        else:
            score = float(example_scores(outputs, labels, task).mean())
        above = None if first is None else paired_interval(losses, first, groups, seed=seed)
        first = losses if first is None else first
        rows.append(ClassRow(name, mean_interval(losses, groups, seed=seed), score, above))
    return rows


def describe_table(rows: Sequence[ClassRow], title: str, task: str) -> list[str]:
    """A table of at most 80 columns, and what is to be doubted in it.

    Args:
        rows: The classifier first, then what it is compared with.
        title: What was evaluated.
        task: As in SequenceClassifier.
    """
    score = 'spearman' if task == 'regression' else 'accuracy'
    loss = 'squared error' if task == 'regression' else 'loss'
    lines = [title, f'{"":{_WIDTH}}  {loss:<22}  {score:>8}  {"loss above the first":<24}'.rstrip()]
    for row in rows:
        shown = f'{row.score:8.3f}' if task == 'regression' else f'{row.score:8.1%}'
        above = '' if row.above is None else _signed(row.above)
        lines.append(f'{row.name:{_WIDTH}}  {_plain(row.loss):<22}  {shown}  {above}'.rstrip())
    return [*lines, *doubts(rows)]


def doubts(rows: Sequence[ClassRow]) -> list[str]:
    """A line where the first system is not clearly better than the best of the others."""
    others = [row for row in rows[1:] if row.above is not None]
    if not others:
        return []
    best = min(others, key=lambda row: row.loss.value)
    assert best.above is not None
    if best.above.low > 0:
        return []
    how = 'clearly worse' if best.above.high < 0 else 'not clearly better'
    return [f'{rows[0].name} is {how} than {best.name}']


def describe_classes(outputs: Outputs, labels: Labels, task: str) -> list[str]:
    """Macro F1, and how far confidence can be trusted beside what chance makes of a perfectly calibrated classifier;
    [] where there are no classes of which an example has one.

    Args:
        outputs: Calibrated.
        labels: Of the examples.
        task: As in SequenceClassifier.
    """
    if task not in ('single-label', 'ordinal'):
        return []
    probs = outputs.double().softmax(-1)
    confidence, predicted = probs.max(1)
    f1 = report_of(confusion_matrix(predicted, as_classes(labels), probs.size(1))).macro_f1
    ece = class_reliability(probs, labels).ece
    return [f'macro F1 {f1:.3f}, calibration error {ece:.4f} (of a perfect one {perfect_ece(confidence):.4f})']


def _plain(value: Interval) -> str:
    return f'{_short(value.value)} [{_short(value.low)}, {_short(value.high)}]'


def _signed(value: Interval) -> str:
    return f'{_short(value.value, "+")} [{_short(value.low, "+")}, {_short(value.high, "+")}]'


def _short(value: float, sign: str = '') -> str:
    return f'{value:{sign}.3f}' if abs(value) < 99.9 else f'{value:{sign}.3g}'
