"""A checkpoint and texts -> the probability of each value of a type of metadata. No Lightning."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from xlabml.batches import IGNORED
from xlabml.blank import is_blank
from xlabml.errors import RequestError
from xlabml.heads import LanguageModel
from xlabml.heads.text_encoder import pack
from xlabml.metadata import Posterior
from xlabml.tokenizer import Tokenizer

from .conditioning import Conditioning
from .generator import TextGenerator

_BATCH_TOKENS = 4096


class _Window(NamedTuple):
    """A part of a text behind one value.

    Args:
        text: The number of the text.
        value: The number of the value.
        ids: What is read.
        targets: What is to be predicted at each place; IGNORED: nothing.
    """

    text: int
    value: int
    ids: list[int]
    targets: list[int]


class MetadataRanker:
    """Finds the values of a type of metadata that a language model was conditioned on, from texts, by Bayes' rule.

    Args:
        model: The model, in evaluation mode, on its device.
        tokenizer: The tokenizer that the model was trained with.
        conditioning: The metadata that it knows.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, conditioning: Conditioning) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.conditioning = conditioning

    @classmethod
    def load(cls, ckpt: str | Path, device: str = 'auto') -> 'MetadataRanker':
        """Build the model of a training checkpoint or an exported file; arguments and errors as in
        `TextGenerator.load`."""
        made = TextGenerator.load(ckpt, device)
        return cls(made.model, made.tokenizer, made.conditioning)

    def posterior(self, key: str) -> Posterior:
        """How a type is found again.

        Raises:
            RequestError: The model was trained without it, or no validation has fitted it.
        """
        if self.conditioning.prefix is None:
            raise RequestError(
                f'the model was trained without metadata, so that it cannot rank the values of {key!r}; use a '
                'checkpoint of data.examples Conditioned'
            )
        known = self.conditioning.posteriors
        if key in known:
            return known[key]
        choices = list(self.conditioning.prefix.choices or {})
        if key not in choices:
            raise RequestError(
                f'the model has no values of {key!r} to rank; it has those of {", ".join(choices) or "no metadata"}'
            )
        raise RequestError(
            f'the values of {key!r} were not calibrated in the training of this model; train with the evaluator '
            f'xlabml.evaluation.MetadataPosterior (key: {key}) in model.evaluators, or calibrate the checkpoint with '
            'it by a run that changes no weight (docs/metadata.md)' + (f', or rank {", ".join(known)}' if known else '')
        )

    def rank(self, texts: Sequence[str], key: str, batch_tokens: int = _BATCH_TOKENS) -> list[dict[str, float]]:
        """The probability of each value, for each text, the most probable first.

        Args:
            texts: Whole texts; what is longer than the model's context is read in windows, as in training.
            key: The name of the type.
            batch_tokens: The most tokens of a pass.

        Raises:
            RequestError: As in `posterior`; a text is empty, or batch_tokens is below 1.
        """
        if batch_tokens < 1:
            raise RequestError(f'batch_tokens is {batch_tokens}; give 1 or more')
        for number, text in enumerate(texts):
            if not isinstance(text, str) or is_blank(text):
                raise RequestError(f'text {number} is {text!r:.80}; give strings that are not empty')
        posterior = self.posterior(key)
        log_likelihood = np.zeros((len(texts), len(posterior.values)))
        batch: list[_Window] = []
        n_tokens = 0
        for window in self._windows(texts, key, posterior.values):
            if batch and n_tokens + len(window.ids) > batch_tokens:
                self._add(batch, log_likelihood)
                batch = []
                n_tokens = 0
            batch.append(window)
            n_tokens += len(window.ids)
        if batch:
            self._add(batch, log_likelihood)
        found = []
        for probs in posterior.probabilities(log_likelihood).tolist():
            by_value = dict(zip(posterior.values, probs))
            found.append({value: by_value[value] for value in sorted(by_value, key=lambda value: -by_value[value])})
        return found

    def _windows(self, texts: Sequence[str], key: str, values: Sequence[str]) -> Iterator[_Window]:
        """Texts as they are read in training behind each value: the first window begins with the start token, a later
        one with the prefix and the token before its first target."""
        assert self.conditioning.prefix is not None
        ends = self.tokenizer.special_ids
        prefixes = [self.conditioning.encode({key: value}) for value in values]
        for number, text in enumerate(texts):
            try:
                targets = [*self.tokenizer.encode(text), ends['eos']]
            except ValueError as error:
                raise RequestError(f'text {number} cannot be tokenized: {error}') from error
            inputs = [ends['sos'], *targets[:-1]]
            for i, prefix in enumerate(prefixes):
                size = self.model.max_len - len(prefix)
                unread = [IGNORED] * len(prefix)
                yield _Window(number, i, [ends['sos'], *prefix, *inputs[1:size]], [*unread, *targets[:size]])
                # Without a prefix in later windows, these tell nothing of the value.
                for start in range(size, len(targets), size) if self.conditioning.prefix.every_window else ():
                    later = slice(start, start + size)
                    yield _Window(number, i, [*prefix, *inputs[later]], [*unread, *targets[later]])

    def _add(self, batch: Sequence[_Window], log_likelihood: Float64[np.ndarray, 'd k']) -> None:
        device = next(self.model.parameters()).device
        ids, layout = pack([window.ids for window in batch], device)
        targets, _ = pack([window.targets for window in batch], device)
        with torch.inference_mode():
            nats = self.model.nats(ids, targets, layout)[0].double().cpu()  # t
        parts = nats.split([len(window.ids) for window in batch])
        for window, part in zip(batch, parts):
            log_likelihood[window.text, window.value] -= float(part.sum())
