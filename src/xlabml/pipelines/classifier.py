"""A checkpoint and texts -> classes with probabilities, or numbers, or which of two answers is better. No Lightning."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, overload

import torch
from torch import Tensor

from xlabml import checkpoints
from xlabml.errors import RequestError, SettingsError
from xlabml.heads import CrossPreferenceModel, PreferenceModel, PreferenceNetwork, SequenceClassifier
from xlabml.heads.classifier import ExampleNetwork
from xlabml.heads.loading import load_network
from xlabml.heads.text_encoder import pack
from xlabml.plain import Plain
from xlabml.tokenizer import Tokenizer
from xlabml.untrusted.building import naming, try_out

from .devices import find_device
from .framing import Framing, PreferenceKind, Segment, Turns, read_framing

CLASSIFIER = 'xlabml.models.Classifier'
"""The task whose checkpoints classify texts."""

Texts: TypeAlias = str | tuple[Turns, ...] | Mapping[str, Turns]
"""The texts of an example: one; or several, in their order or by name; of preferences each a text or its turns."""

Several: TypeAlias = list[str] | list[tuple[Turns, ...]] | list[Mapping[str, Turns]]

_NETWORKS = (SequenceClassifier, PreferenceModel, CrossPreferenceModel)
_BATCH_TOKENS = 4096


class Prediction(NamedTuple):
    """What a classifier says of a text.

    Args:
        labels: Its class, the most probable one; with several labels an example, those of a probability of a half or
            more; () of a regression.
        probabilities: Of every class by name, calibrated as the checkpoint has it; {} of a regression.
        in_set: The classes that hold the true one at the calibrated coverage, the most probable first; ()
            where there are no such sets.
        answered: Whether the confidence is large enough for an answer, at the coverage set in training.
        number: Of a regression; None of others.
        n_cut: How many tokens of the texts were not read.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]
    in_set: tuple[str, ...]
    answered: bool
    number: float | None
    n_cut: int

    def row(self, is_several: bool) -> dict[str, Plain]:
        """As `xlab predict` writes it: names and plain values.

        Args:
            is_several: Whether an example may have several labels.
        """
        if self.number is not None:
            return {'number': round(self.number, 6), 'truncated': self.n_cut > 0}
        rounded = {name: round(prob, 6) for name, prob in self.probabilities.items()}
        if is_several:
            return {'labels': list(self.labels), 'probabilities': rounded, 'truncated': self.n_cut > 0}
        in_set = [name for name in self.probabilities if name in self.in_set]
        found: dict[str, Plain] = {'label': self.labels[0], 'probabilities': rounded, 'set': in_set}
        return {**found, 'answered': self.answered, 'truncated': self.n_cut > 0}


class Framed(NamedTuple):
    """An example as a network reads it.

    Args:
        segments: Its texts, in the order in which they stand.
        n_cut: Tokens of its texts that are not read.
        tokens: Those of each turn of each text, whole.
    """

    segments: list[Segment]
    n_cut: int
    tokens: list[list[list[int]]]

    @property
    def n_slots(self) -> int:
        """Tokens of all segments."""
        return sum(len(segment.ids) for segment in self.segments)


class Loaded(NamedTuple):
    """What the checkpoint of a classifier holds."""

    network: ExampleNetwork
    tokenizer: Tokenizer
    framing: Framing


class TextClassifier:
    """Classifies texts, pairs of texts, or two answers to a prompt. What it says of one does not depend on the others.

    Args:
        model: In evaluation mode, where it is to run.
        tokenizer: The one that the model was trained with.
        framing: How it reads the texts of an example; None: there is one.

    Raises:
        ValueError: They have not the same number of tokens.
    """

    def __init__(
        self, model: SequenceClassifier | PreferenceNetwork, tokenizer: Tokenizer, framing: Framing | None = None
    ) -> None:
        n_vocab = model.trunk.n_vocab
        if len(tokenizer) != n_vocab:
            raise SettingsError(
                f'the tokenizer has {len(tokenizer)} tokens, but the model {n_vocab}; '
                'use the tokenizer that it was trained with (its checkpoint has it inside)'
            )
        self.framing = Framing() if framing is None else framing
        if isinstance(model, SequenceClassifier) and model.n_texts == 2 and self.framing.kind != 'apart':
            raise SettingsError('this classifier compares two texts that are encoded apart; give it their framing')
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
            ValueError: It is no checkpoint of a classifier of ours, its weights are NaN or infinite, or the device
                cannot be used.
        """
        path, (network, tokenizer, framing) = load_classifier(ckpt, device)
        assert isinstance(network, SequenceClassifier | PreferenceNetwork)
        with naming(path):
            return cls(network, tokenizer, framing)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return self.model.classes

    @overload
    def predict(self, texts: Texts, batch_tokens: int = ...) -> Prediction: ...
    @overload
    def predict(self, texts: Several, batch_tokens: int = ...) -> list[Prediction]: ...
    def predict(self, texts: Texts | Several, batch_tokens: int = _BATCH_TOKENS) -> Prediction | list[Prediction]:
        """What the classifier says of an example, or of each of several, in their order.

        Args:
            texts: An example or a list of them. An example is a text; of a classifier of pairs a tuple (text, pair) or
                a dictionary; of preferences (prompt, a, b), each a text or a list of turns. What is longer than the
                model reads is cut as in training, and counted.
            batch_tokens: The most tokens of a pass.

        Raises:
            RequestError: A text is empty or no text, an example has other texts than the classifier reads, or
                batch_tokens is below 1.
        """
        is_one = not isinstance(texts, list)
        several: Sequence[object] = texts if isinstance(texts, list) else [texts]
        framed = frame_examples(several, self.framing, self.tokenizer, self.model.max_len)
        found: dict[int, Prediction] = {}
        for numbers in passes(framed, batch_tokens):
            for number, probs in zip(numbers, self._probabilities([framed[i] for i in numbers])):
                found[number] = self._say(probs, framed[number].n_cut)
        done = [found[i] for i in range(len(framed))]
        return done[0] if is_one else done

    def _probabilities(self, examples: Sequence[Framed]) -> Tensor:
        """Calibrated probabilities (e, k) of some examples, in float64."""
        model = self.model
        segments = [(i, segment) for i, some in enumerate(examples) for segment in some.segments]
        ids, layout = pack([segment.ids for _, segment in segments], next(model.parameters()).device)
        example = torch.tensor([i for i, _ in segments], device=ids.device)
        role = torch.tensor([segment.role for _, segment in segments], device=ids.device)
        with torch.inference_mode():
            logits = model(ids, layout, example, role, len(examples))
            if model.blend is not None and model.blend.model is not None:
                texts = [self._texts(some) for some in examples]
                logits = model.blend(logits, model.blend.beside(texts))
            return model.probabilities(logits).double().cpu()

    def _texts(self, example: Framed) -> list[str]:
        """The texts of an example as a linear model read those of the training data: decoded."""
        return ['\n'.join(self.tokenizer.decode(turn) for turn in field) for field in example.tokens]

    def _say(self, probs: Tensor, n_cut: int) -> Prediction:
        """What the probabilities (k,) of an example say."""
        model = self.model
        calibration = model.calibration
        values = probs.tolist()
        if model.task == 'regression' or calibration is None:
            return Prediction((), {}, (), True, values[0], n_cut)
        by_name = dict(zip(model.classes, values))
        order = sorted(model.classes, key=lambda name: -by_name[name])
        is_several = model.task == 'multi-label'
        labels = [name for name in model.classes if by_name[name] >= 0.5] if is_several else order[:1]
        sets = calibration.sets(probs[None])[0].tolist()
        inside = {name for name, is_inside in zip(model.classes, sets) if is_inside and not is_several}
        answered = bool(calibration.answers(probs[None])[0])
        in_set = tuple(name for name in order if name in inside)
        return Prediction(tuple(labels), by_name, in_set, answered, None, n_cut)


def load_classifier(ckpt: str | Path, device: str) -> tuple[Path, Loaded]:
    """The file of a classifier, and what it holds; arguments and errors as in TextClassifier.load."""
    where = find_device(device)
    path = checkpoints.find(str(ckpt), Path(), CLASSIFIER)
    with checkpoints.naming_another(str(ckpt), path):
        contents = checkpoints.load(path)
    network = contents.network
    names = tuple(f'.{known.__name__}' for known in _NETWORKS)
    if network is None or not network.class_path.endswith(names):
        raise SettingsError(
            f'{path} holds a {contents.task.class_path}, which has no classes; give a checkpoint of {CLASSIFIER}, '
            f'or begin one with fit --init_from {path}'
        )
    with naming(path):
        tokenizer = Tokenizer.from_bytes(contents.tokenizer_bytes())
    model = load_network(contents, path, ExampleNetwork)
    try_out(path, network.arguments, lambda: model(torch.zeros(1, 3, dtype=torch.long)))
    preference: PreferenceKind | None = None
    if isinstance(model, PreferenceNetwork):
        preference = 'scored' if isinstance(model, PreferenceModel) else 'together'
    framing = read_framing(contents.data.get('examples'), model.n_texts, preference, path)
    return path, Loaded(model.to(where), tokenizer, framing)


def frame_examples(examples: Sequence[object], framing: Framing, tokenizer: Tokenizer, max_len: int) -> list[Framed]:
    """Examples as a network reads them.

    Args:
        examples: As in TextClassifier.predict.
        framing: How their texts become segments.
        tokenizer: The network's.
        max_len: The longest segment, in tokens.

    Raises:
        RequestError: As TextClassifier.predict.
    """
    what = 'text' if len(framing.fields) == 1 else 'example'
    turns = [framing.fields_of(example, f'{what} {number}') for number, example in enumerate(examples)]
    flat = [turn for fields in turns for field in fields for turn in field]
    encoded = iter(tokenizer.encode(flat) if flat else [])
    found = []
    for fields in turns:
        tokens = [[next(encoded) for _ in field] for field in fields]
        found.append(Framed(*framing.segments(tokens, max_len, tokenizer.special_ids), tokens))
    return found


def passes(framed: Sequence[Framed], batch_tokens: int) -> Iterator[list[int]]:
    """The numbers of the examples of each pass, the longest first.

    Raises:
        RequestError: batch_tokens is below 1.
    """
    if batch_tokens < 1:
        raise RequestError(f'batch_tokens is {batch_tokens}; give 1 or more')
    some: list[int] = []
    filled = 0
    for number in sorted(range(len(framed)), key=lambda number: -framed[number].n_slots):
        n = framed[number].n_slots
        if some and filled + n > batch_tokens:
            yield some
            some = []
            filled = 0
        some.append(number)
        filled += n
    if some:
        yield some
