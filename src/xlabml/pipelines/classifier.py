"""A checkpoint and texts -> classes with probabilities, or numbers. No Lightning."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, overload

import torch

from xlabml import checkpoints
from xlabml.errors import RequestError, SettingsError
from xlabml.heads import SequenceClassifier
from xlabml.heads.loading import load_network
from xlabml.heads.text_encoder import frame, pack
from xlabml.tokenizer import Tokenizer
from xlabml.untrusted.building import naming, try_out

from .devices import find_device

CLASSIFIER = 'xlabml.models.Classifier'
"""The task whose checkpoints classify texts."""

_BATCH_TOKENS = 4096


class Prediction(NamedTuple):
    """What a classifier says of a text.

    Args:
        labels: Its class, the most probable one; with several labels an example, those of a probability of a half or
            more; () of a regression.
        probabilities: Of every class by name, calibrated as the checkpoint has it; {} of a regression.
        in_set: The classes that hold the true one at the calibrated coverage, the most probable first; ()
            where there are no such sets.
        answered: Whether the confidence is large enough for an answer, by what the checkpoint was asked for.
        number: Of a regression; None of others.
        n_cut: How many tokens at the end of the text were not read.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]
    in_set: tuple[str, ...]
    answered: bool
    number: float | None
    n_cut: int


class TextClassifier:
    """Classifies texts. What it says of a text does not depend on the texts around it.

    Args:
        model: In evaluation mode, where it is to run; it reads one text an example.
        tokenizer: The one that the model was trained with.

    Raises:
        ValueError: They have not the same number of tokens, or the model reads two texts.
    """

    def __init__(self, model: SequenceClassifier, tokenizer: Tokenizer) -> None:
        n_vocab = model.trunk.n_vocab
        if len(tokenizer) != n_vocab:
            raise SettingsError(
                f'the tokenizer has {len(tokenizer)} tokens, but the model {n_vocab}; '
                'use the tokenizer that it was trained with (its checkpoint has it inside)'
            )
        if model.n_texts != 1:
            raise SettingsError(
                f'this classifier compares {model.n_texts} texts that are encoded apart; xlab predict scores such pairs'
            )
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, ckpt: str | Path, device: str = 'auto') -> 'TextClassifier':
        """Build the classifier that a training checkpoint or an exported file holds.

        Args:
            ckpt: The file; `last`, `best`: of the newest of the runs of classifiers below the current folder.
            device: `cpu`, `cuda`, `cuda:1`, …; `auto`: a GPU if there is one.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: It is no checkpoint of a classifier of ours, its weights are NaN or infinite, it was trained on
                two texts an example, or the device cannot be used.
        """
        where = find_device(device)
        path = checkpoints.find(str(ckpt), Path(), CLASSIFIER)
        with checkpoints.naming_another(str(ckpt), path):
            contents = checkpoints.load(path)
        network = contents.network
        if network is None or not network.class_path.endswith('.SequenceClassifier'):
            raise SettingsError(
                f'{path} holds a {contents.task.class_path}, which has no classes; give a checkpoint of {CLASSIFIER}, '
                f'or begin one with fit --init_from {path}'
            )
        examples = contents.data.get('examples')
        options = examples.get('init_args') if isinstance(examples, dict) else None
        if isinstance(options, dict) and options.get('pair') is not None:
            raise SettingsError(f'{path} was trained on two texts an example; xlab predict scores such pairs')
        with naming(path):
            tokenizer = Tokenizer.from_bytes(contents.tokenizer_bytes())
        model = load_network(contents, path, SequenceClassifier)
        try_out(path, network.arguments, lambda: model(torch.zeros(1, 3, dtype=torch.long)))
        with naming(path):
            return cls(model.to(where), tokenizer)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return self.model.classes

    @overload
    def predict(self, texts: str, batch_tokens: int = ...) -> Prediction: ...
    @overload
    def predict(self, texts: list[str], batch_tokens: int = ...) -> list[Prediction]: ...
    def predict(self, texts: str | list[str], batch_tokens: int = _BATCH_TOKENS) -> Prediction | list[Prediction]:
        """What the classifier says of a text, or of each of several, in their order.

        Args:
            texts: One or several; what is longer than the model reads is cut off, and counted.
            batch_tokens: The most tokens of a pass.

        Raises:
            RequestError: A text is empty or no text, or batch_tokens is below 1.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        if batch_tokens < 1:
            raise RequestError(f'batch_tokens is {batch_tokens}; give 1 or more')
        for number, text in enumerate(several):
            if not isinstance(text, str) or not text:
                raise RequestError(f'text {number} is {text!r:.80}; give strings that are not empty')
        ends = self.tokenizer.special_ids
        encoded = self.tokenizer.encode(several) if several else []
        max_len = self.model.max_len
        framed = [frame(ids, ends['sos'], ends['eos'], max_len) for ids in encoded]
        found: list[Prediction | None] = [None] * len(several)
        rows: list[int] = []
        for row in sorted(range(len(framed)), key=lambda row: -len(framed[row])):
            if rows and sum(len(framed[i]) for i in rows) + len(framed[row]) > batch_tokens:
                self._predict(rows, framed, encoded, found)
                rows = []
            rows.append(row)
        if rows:
            self._predict(rows, framed, encoded, found)
        done = [one for one in found if one is not None]
        return done[0] if isinstance(texts, str) else done

    def _predict(
        self,
        rows: list[int],
        framed: Sequence[Sequence[int]],
        encoded: Sequence[Sequence[int]],
        found: list[Prediction | None],
    ) -> None:
        model = self.model
        ids, layout = pack([framed[row] for row in rows], next(model.parameters()).device)
        with torch.inference_mode():
            probs = model.probabilities(model(ids, layout)).double().cpu()
        calibration = model.calibration
        for i, row in enumerate(rows):
            n_cut = max(0, len(encoded[row]) + 2 - model.max_len)
            values = probs[i].tolist()
            if model.task == 'regression' or calibration is None:
                found[row] = Prediction((), {}, (), True, values[0], n_cut)
                continue
            by_name = dict(zip(model.classes, values))
            order = sorted(model.classes, key=lambda name: -by_name[name])
            is_several = model.task == 'multi-label'
            labels = [name for name in model.classes if by_name[name] >= 0.5] if is_several else order[:1]
            sets = calibration.sets(probs[i : i + 1])[0].tolist()
            inside = {name for name, is_inside in zip(model.classes, sets) if is_inside and not is_several}
            answered = bool(calibration.answers(probs[i : i + 1])[0])
            in_set = tuple(name for name in order if name in inside)
            found[row] = Prediction(tuple(labels), by_name, in_set, answered, None, n_cut)
