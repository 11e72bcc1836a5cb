"""Where a classifier is wrong and certain of it, and where rather the label is wrong."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .class_results import ClassResults
from .classification import as_classes


class Mistake(NamedTuple):
    """An example whose label is not what was predicted.

    Args:
        place: Its number in the results.
        label: What the data says.
        predicted: What the model says.
        confidence: The probability of that; of a regression how far it is off.
    """

    place: int
    label: str
    predicted: str
    confidence: float


def confident_mistakes(results: ClassResults, most: int) -> list[Mistake]:
    """The mistakes of the largest confidence; of several labels an example, each label stands alone.

    Args:
        results: Calibrated outputs and labels.
        most: How many at most.
    """
    classes = results.classes
    if results.task == 'regression':
        numbers = results.own[:, 0].tolist()
        labels = results.labels.view(-1).tolist()
        off = [abs(number - label) for number, label in zip(numbers, labels)]
        order = sorted(range(len(off)), key=lambda i: -off[i])[:most]
        return [Mistake(i, f'{labels[i]:g}', f'{numbers[i]:g}', off[i]) for i in order]
    if results.task == 'multi-label':
        probs = results.own.sigmoid()
        is_one = results.labels >= 0.5
        certain = torch.where(is_one, 1 - probs, probs)
        pairs = [(i, j) for i, j in (certain > 0.5).nonzero().tolist()]
        pairs = sorted(pairs, key=lambda pair: -float(certain[pair]))[:most]
        found = []
        for i, j in pairs:
            names = (classes[j], f'not {classes[j]}')
            label, predicted = names if is_one[i, j] else names[::-1]
            found.append(Mistake(i, label, predicted, float(certain[i, j])))
        return found
    probs, labels_of = _probabilities(results)
    confidence, predicted = probs.max(1)
    wrong = (predicted != labels_of).nonzero()[:, 0].tolist()
    wrong = sorted(wrong, key=lambda i: -float(confidence[i]))[:most]
    return [Mistake(i, classes[int(labels_of[i])], classes[int(predicted[i])], float(confidence[i])) for i in wrong]


def probable_label_errors(results: ClassResults) -> list[Mistake]:
    """Examples that probably have another class than their label, the clearest first; [] where there are no classes of
    which an example has one.

    A class is confidently given to an example where its probability is at least its mean over the examples that are
    labelled with it. An example whose most probable class of these is another one than its label is a probable error;
    they are in the order of the label's probability less that of the class.

    Source: confident learning, Northcutt et al. 2021, https://arxiv.org/abs/1911.00068, eq. 2 and section 3.2.

    Args:
        results: Calibrated outputs, of a model that was not trained on these examples, and their labels.
    """
    if results.task not in ('single-label', 'ordinal'):
        return []
    probs, labels = _probabilities(results)
    k = probs.size(1)
    counts = torch.bincount(labels, minlength=k)
    own = probs.gather(1, labels[:, None])[:, 0]
    thresholds = torch.bincount(labels, own, k) / counts.clamp(min=1)
    thresholds = torch.where(counts > 0, thresholds, torch.inf)
    confident = torch.where(probs >= thresholds, probs, -torch.inf)
    best, found = confident.max(1)
    places = ((found != labels) & best.isfinite()).nonzero()[:, 0].tolist()
    places.sort(key=lambda i: float(own[i] - best[i]))
    classes = results.classes
    return [Mistake(i, classes[int(labels[i])], classes[int(found[i])], float(best[i])) for i in places]


def _probabilities(results: ClassResults) -> tuple[Float[Tensor, 'e k'], Tensor]:
    return results.own.double().softmax(-1), as_classes(results.labels).long()
