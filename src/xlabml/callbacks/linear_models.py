"""The linear model of TF-IDF features of a training split: fitted once, kept in the cache."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from xlabml import artifacts, paths
from xlabml.artifacts.hashes import short_hash
from xlabml.data import Examples
from xlabml.errors import NotSupportedError
from xlabml.evaluation import has_sklearn
from xlabml.evaluation.linear import MISSING, fit_linear
from xlabml.tfidf import MAX_FEATURES, LinearModel, model_of_arrays

_FORMAT = 1


@runtime_checkable
class LabelledExamples(Protocol):
    """Examples whose texts and labels can be read, as data.groups.LabelledGroups.

    Attributes:
        documents: The document of each example.
        texts_fingerprint: A hash of their texts and labels.
        classes: The names of the classes; [] of a regression.
    """

    documents: Int64[np.ndarray, ' examples']

    @property
    def texts_fingerprint(self) -> str: ...

    @property
    def classes(self) -> list[str]: ...

    def texts_of(self, documents: Int64[np.ndarray, ' e']) -> list[tuple[str, ...]]:
        """The texts of some documents, as many of each."""

    def targets(self, numbers: Int64[np.ndarray, ' e']) -> np.ndarray:
        """The label of some examples: a class, or a number for each column."""


def draw_training(examples: LabelledExamples, max_examples: int, seed: int) -> Int64[np.ndarray, ' e']:
    """The numbers of the training examples that baselines are fitted on: all that have a label, or some of them."""
    numbers = np.arange(len(examples.documents))
    if len(numbers) > max_examples:
        numbers = np.sort(np.random.default_rng(seed).choice(numbers, max_examples, replace=False))
    labels = examples.targets(numbers)
    return numbers[labels >= 0] if labels.dtype.kind != 'f' else numbers


def linear_model(
    examples: Examples, task: str, max_examples: int, seed: int = 0, max_features: int = MAX_FEATURES
) -> LinearModel:
    """The linear model of a training split, from the cache where it is there.

    Args:
        examples: The training split.
        task: As in `fit_linear`.
        max_examples: The most examples that they are fitted on.
        seed: Of what is drawn where there are more.
        max_features: Of each block.

    Raises:
        NotSupportedError: It is not in the cache, and scikit-learn is not installed.
    """
    assert isinstance(examples, LabelledExamples)
    # It reads whole texts: other limits of the network's (data.max_len, windows, tokens left out) need no other model.
    key = short_hash([_FORMAT, examples.texts_fingerprint, task, max_examples, seed, max_features])
    path = paths.baselines() / f'{key}.npz'
    if path.is_file():
        with np.load(path, allow_pickle=False) as found:
            return model_of_arrays(dict(found))
    if not has_sklearn():
        raise NotSupportedError(MISSING)
    numbers = draw_training(examples, max_examples, seed)
    print(f'baselines: fits a linear model of TF-IDF features to {len(numbers):,} examples', flush=True)
    texts = examples.texts_of(examples.documents[numbers])
    n_outputs = len(examples.classes) or 1
    model = fit_linear(texts, examples.targets(numbers), task, n_outputs, max_features)
    path.parent.mkdir(parents=True, exist_ok=True)
    with artifacts.replacing(path) as beside, beside.open('wb') as file:
        np.savez(file, allow_pickle=False, **model.arrays())
    return model
