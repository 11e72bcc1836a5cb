"""How well a language model tells the value of a type of metadata from a text, by Bayes' rule."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from xlabml.data import Corpus, Reading
from xlabml.data.conditioned import Conditioned
from xlabml.data.conditioned.variants import ValueChoice, Variants, make_value_choice, some_documents
from xlabml.errors import SettingsError
from xlabml.metadata import Posterior, fit_posterior

from .evaluator import Gather
from .metadata import VariantEvaluator

FACT = 'metadata_posterior/'
"""Before the key of a type: the name of the fact of a checkpoint that holds its posterior."""


class MetadataPosterior(VariantEvaluator):
    """Accuracy and log loss of the value of a type, given the text: what `infer.py CKPT --rank-meta KEY` asks for.

    Each text is read with every value that training has seen. Temperature and weight of the prior are fitted on
    documents of the validation, and kept in the checkpoints that are saved behind it. The figures of a validation are
    those of the documents that it is fitted on; a test fits on the validation split, and reports the test split.

    Args:
        key: The name of the type, one of few values.
        val_documents: Documents of the validation split, at the most: each is read once for every value.
    """

    def __init__(self, key: str, val_documents: int = 64) -> None:
        super().__init__()
        if val_documents < 2:
            raise SettingsError(f'MetadataPosterior.val_documents is {val_documents}; give 2 or more')
        self.key = key
        self.val_documents = val_documents
        self._choice: ValueChoice | None = None
        self._tested: frozenset[int] = frozenset()
        self._found: Posterior | None = None

    @property
    def facts(self) -> Mapping[str, Any]:
        return {} if self._found is None else {f'{FACT}{self.key}': self._found.settings()}

    def variants(self, form: Conditioned, corpus: Corpus, reading: Reading, is_test: bool) -> Variants:
        fitted = some_documents(corpus, 'val', self.val_documents)
        tested = corpus.documents('test') if is_test else np.zeros(0, np.int64)
        self._tested = frozenset(tested.tolist())
        self._choice = make_value_choice(form, corpus, self.key, np.concatenate([fitted, tested]), reading)
        return self._choice.rows

    def result(self, gather: Gather) -> dict[str, float]:
        sums = self.sums(gather)
        choice = self._choice
        assert choice is not None
        documents = sums.documents.tolist()
        truth = np.array([choice.truth[document] for document in documents], np.int64)
        is_tested = np.array([document in self._tested for document in documents], bool)
        log_likelihood = -sums.nats.numpy().T  # d k
        if is_tested.all() or len(choice.values) < 2:  # none to fit on, in a limited evaluation; or nothing to tell
            return {}
        fitted = fit_posterior(choice.values, choice.counts, log_likelihood[~is_tested], truth[~is_tested])
        self._found = fitted
        asked = is_tested if is_tested.any() else ~is_tested
        return posterior_figures(self.key, fitted, log_likelihood[asked], truth[asked])


def posterior_figures(
    key: str, posterior: Posterior, log_likelihood: Float64[np.ndarray, 'd k'], truth: Int64[np.ndarray, ' d']
) -> dict[str, float]:
    """Accuracy and log loss (nats), and the temperature that they are of."""
    probs = posterior.probabilities(log_likelihood)
    own = probs[np.arange(len(truth)), truth]
    return {
        f'metadata_accuracy/{key}': float((probs.argmax(1) == truth).mean()),
        f'metadata_log_loss/{key}': float(-np.log(own.clip(1e-300)).mean()),
        f'metadata_temperature/{key}': posterior.temperature,
    }
