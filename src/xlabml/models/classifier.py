"""The classifier as a task: texts with labels, one loss an example, probabilities calibrated at each validation."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.optim import Optimizer

from xlabml.batches import Batch, ClassTargets, Layout, check_classes, check_ids
from xlabml.checkpoints import Contents, Part
from xlabml.engine import DocumentParts
from xlabml.errors import NotSupportedError, SettingsError
from xlabml.evaluation import (
    ClassEvaluator,
    ExampleEvaluator,
    ExampleOutputs,
    MultiLabelEvaluator,
    PreferenceEvaluator,
    RegressionEvaluator,
    Sums,
    has_sklearn,
    precise,
)
from xlabml.heads import (
    CrossPreferenceModel,
    Head,
    LinearBlend,
    LinearHead,
    MeanPooling,
    Pooling,
    PreferenceModel,
    PreferenceNetwork,
    SequenceClassifier,
    Ties,
)
from xlabml.heads.loading import describe_head, prepare_load
from xlabml.losses import BinaryCrossEntropy, ClassCrossEntropy, ClassLoss, SquaredError, embed_in_chunks
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear
from xlabml.transformer import Transformer, Trunk

from .preference_settings import check_preference
from .trunk_task import TrunkTask


class Classifier(TrunkTask):
    """Texts to classes, or to a number (`data.examples: LabelledTexts`), or which of two answers is better
    (`data.examples: Preferences`).

    Probabilities are calibrated: at each validation of `fit` a temperature is fitted on the validation split, before
    the checkpoint is saved, and kept in it. The figures of that validation are those of a fit on the other half of the
    split; `test` and `predict` apply what the checkpoint holds. Calling it gives logits, as in
    `SequenceClassifier.forward`.

    Args:
        n_vocab: The number of tokens of the tokenizer.
        max_len: The longest text that it reads, in tokens, with those around it.
        classes: Their names, in the order of the logits; None: found in the training split.
        class_counts: Training examples of each class; None: found in the training split.
        n_texts: Texts of an example that are encoded apart; None: as the format of the data has them.
        max_windows: The most windows that a text is read in; None: as the format of the data has them.
        preference: Of preferences, whether both answers are read together (in both orders) or apart (each has a score);
            none: others. None: as the format of the data has them.
        task: single-label, multi-label, ordinal (classes in their order), or regression.
        trunk: Makes the trunk, which turns ids into hidden states; an encoder has `causal: false`.
        pooling: Makes what turns the hidden states of a text into a vector.
        head: Makes what turns the vectors of an example into logits.
        loss: Makes what is minimised; None: cross-entropy, of several labels the binary one, of a regression the
            squared error.
        ties: Makes the model of ties of preferences that are read apart; None: `Davidson`.
        second_pass: At prediction of preferences that are read together: the confidence after one order below which
            the other one is read too, 0..1; 1: both are read of all.
        calibration: What is fitted: temperature; vector, a scale and a shift a class; noise, the same with a share
            of labels that do not depend on the text; auto, the best of these on examples left out of its fit; none. Of
            preferences temperature, vector (the same for A and B) or none.
        set_coverage: How often the set of classes of an example is to hold its class, 0..1.
        answered: Of how many examples the answer is to be given, 0..1: of those of the largest confidence.
        blend: tfidf: the outputs are mixed with those of the linear model of TF-IDF features that `baselines` fits to
            the training split (extra `baselines`), by weights that are fitted with the calibration; the checkpoint
            holds it, and nothing else is needed to use it. Of preferences it scores each answer, with Davidson's ties.
            None: the network stands alone.
        freeze: What stays as it is: none; all, the whole trunk; bottom:n, the embeddings and the first n blocks;
            gradual:n, all at first, and one layer fewer from the top every n steps; gradual:a,b,c, one fewer from each
            of these steps on, the rest to the end. Frozen parts have no dropout.
        windows: What the windows of a long text say of it: mean, max or vote. A window learns the label of its text,
            and counts so much that all texts count alike; what is evaluated, calibrated and predicted is of texts.
        layer_decay: The factor on the learning rate from a block to the one below it, and to the embeddings; 1: all
            learn alike.
        optimizer: Makes the optimizer, from parameter groups.
        schedule: Makes the factor of the learning rate at every step, from the length of the run in steps.
        clip: Makes what limits the gradient's norm; None: `trainer.gradient_clip_val` does.

    Raises:
        SettingsError: The classes do not fit the task, or there is nothing of the kind to freeze.
    """

    network: SequenceClassifier | PreferenceNetwork
    formats: ClassVar[tuple[type, ...]] = (ClassTargets,)
    from_data: ClassVar[tuple[str, ...]] = ('classes', 'class_counts', 'n_texts', 'max_windows', 'preference')
    counted: ClassVar[str] = 'examples'
    units: Mapping[str, str] = {'loss': 'nats/example', 'accuracy': '%'}

    def __init__(
        self,
        n_vocab: int,
        max_len: int,
        classes: list[str] | None = None,
        class_counts: list[float] | None = None,
        n_texts: int | None = None,
        max_windows: int | None = None,
        preference: str | None = None,
        task: str = 'single-label',
        trunk: Callable[[int, int], Trunk] = Transformer,
        pooling: Callable[[int], Pooling] = MeanPooling,
        head: Callable[[int, int, int], Head] = LinearHead,
        loss: Callable[[], ClassLoss] | None = None,
        ties: Callable[[], Ties] | None = None,
        second_pass: float = 1.0,
        calibration: str = 'temperature',
        set_coverage: float = 0.9,
        answered: float = 0.8,
        blend: str | None = None,
        windows: str = 'mean',
        freeze: str = 'none',
        layer_decay: float = 1.0,
        optimizer: Callable[[Iterable], Optimizer] = Muon,
        schedule: Callable[[int | None], Schedule] = WarmupLinear,
        clip: Callable[[], AdaptiveClip] | None = None,
    ) -> None:
        super().__init__()
        check_preference(preference, task, classes, ties, second_pass, blend)
        calibrated = (calibration, set_coverage, answered)
        if preference == 'together':
            self.network = CrossPreferenceModel.build(n_vocab, max_len, trunk, pooling, head, *calibrated, blend)
        elif preference == 'apart':
            self.network = PreferenceModel.build(n_vocab, max_len, trunk, pooling, head, ties, *calibrated, blend)
        else:
            texts = 1 if n_texts is None else n_texts
            self.network = SequenceClassifier.build(
                n_vocab, max_len, classes, task, texts, trunk, pooling, head, *calibrated, blend, max_windows, windows
            )
        self.second_pass = second_pass
        self.classes = list(classes or [])
        self.class_counts = class_counts
        self.task = task
        if task == 'regression':
            self.units = {'loss': 'squared error'}
        self.objective = (_LOSSES[task] if loss is None else loss)()
        self.tune_trunk(self.network.trunk, freeze, layer_decay)
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = None if clip is None else clip()
        self.evaluator = self._make_evaluator()
        self.evaluator.blender = self.blend
        self.evaluators = [self.evaluator]
        self.texts_of: Callable[[Int64[np.ndarray, ' e']], list[tuple[str, ...]]] | None = None
        self._beside: dict[int, Float[Tensor, ' k']] = {}
        self.n_vocab = n_vocab

    @property
    def blend(self) -> LinearBlend | None:
        """What mixes the outputs of the network with those of a linear model; None: they stand alone."""
        return getattr(self.network, 'blend', None)

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
    ) -> Float[Tensor, 'e k']:
        """Logits of each example, before calibration."""
        return self.network(ids, layout, example, role, n_examples)

    def describe_network(self) -> Part:
        """The classifier, from the arguments of this task."""
        return describe_head(type(self.network), Part.of(self.hparams).arguments)

    def check_weights(self, checkpoint: Contents) -> None:
        """As in the base; of a linear model the sizes are those of the checkpoint."""
        prepare_load(self, checkpoint.weights)
        super().check_weights(checkpoint)

    def check_training(self, max_steps: int) -> None:
        """As in the base, and refuse a linear model that could not be fitted.

        Raises:
            NotSupportedError: scikit-learn is not installed.
        """
        super().check_training(max_steps)
        if self.blend is not None and not has_sklearn():
            raise NotSupportedError(
                "model.blend is tfidf, whose linear model scikit-learn fits: pip install 'xlabml[baselines]', or leave "
                'model.blend out'
            )

    def setup(self, stage: str) -> None:
        """As in the base, and refuse data whose texts have other windows than the network combines.

        Raises:
            SettingsError: They do.
        """
        super().setup(stage)
        examples = getattr(getattr(self.trainer, 'datamodule', None), 'examples', None)
        asked = getattr(examples, 'max_windows', 1)
        own = getattr(self.network, 'max_windows', 1)
        if examples is not None and own != asked:
            raise SettingsError(
                f'model.max_windows is {own}, but data.examples.max_windows is {asked}; leave the first out, which '
                'takes it from the second'
            )

    def check_batch(self, batch: Batch) -> None:
        """Refuse token ids that the vocabulary lacks, labels that are none of the classes, and a format of others."""
        check_ids(batch, self.n_vocab)
        targets = class_targets(batch)
        if self.task != 'regression':
            check_classes(targets, len(self.classes))
        elif not targets.labels.is_floating_point() or targets.labels.size(-1) != 1:
            raise SettingsError(
                'model.task is regression, but the labels of a batch are classes; name the column of a number in '
                'data.examples.number'
            )

    def logits(self, batch: Batch) -> Float[Tensor, 'e k']:
        """Logits of each example of a batch."""
        return self._of_rows(batch, self.network)

    def _of_rows(self, batch: Batch, compute: Callable[..., Float[Tensor, 'e k']]) -> Float[Tensor, 'e k']:
        """What is computed of each example; the rows of a batch are chunks that go through the network one after the
        other.

        Args:
            batch: Of any number of rows.
            compute: From arguments as those of the network.
        """
        n_examples = len(class_targets(batch).labels)
        layout = batch.layout
        if len(batch.ids) == 1 or layout is None:
            return compute(batch.ids, layout, batch.example, batch.role, n_examples)
        n = len(batch.example) // len(batch.ids)  # every row has as many segments, and whole examples
        last = batch.example.view(-1, n).max(1).values.cummax(0).values.tolist()
        first = [0, *(end + 1 for end in last[:-1])]

        def of_row(row: int) -> Float[Tensor, 'e k']:
            segments = slice(row * n, (row + 1) * n)
            starts = layout.starts[row * n : (row + 1) * n + 1] - layout.starts[row * n]
            is_text = None if layout.is_text is None else layout.is_text[segments]
            example = batch.example[segments]
            return compute(
                batch.ids[row : row + 1],
                Layout(starts, layout.max_length, is_text),
                torch.where(example < 0, -1, example - first[row]),
                batch.role[segments],
                last[row] + 1 - first[row],
            )

        return embed_in_chunks(of_row, range(len(batch.ids)), batch.ids)

    def loss(self, batch: Batch) -> Sums:
        """The sum of the weighted losses of the examples; that of an example with windows is the mean of theirs."""
        network = self.network
        if not isinstance(network, SequenceClassifier) or network.max_windows == 1:
            logits = self.logits(batch)
            return self._sums(logits, self.objective(logits, class_targets(batch).labels), batch)

        def by_window(*arguments: Any) -> Float[Tensor, 'e wk']:
            return network(*arguments, by_window=True).flatten(1)

        logits = self._of_rows(batch, by_window).unflatten(1, (network.max_windows, -1))
        labels = class_targets(batch).labels
        is_there = network.is_there(batch.example, batch.role, len(labels))  # e w
        of_windows = self.objective(logits.flatten(0, 1), labels.repeat_interleave(network.max_windows, 0))
        losses = (of_windows.view_as(is_there) * is_there).sum(1) / is_there.sum(1)
        return self._sums(network.combine(logits.detach(), is_there), losses, batch)

    def outputs(self, batch: Batch) -> ExampleOutputs:
        """Logits and labels of the examples."""
        targets = class_targets(batch)
        is_first = (batch.example >= 0) & (batch.role == 0)
        documents = batch.documents[is_first].long()
        network = self.network
        beside = None if self.blend is None else self._linear(documents).to(batch.ids.device)
        if not isinstance(network, PreferenceNetwork):
            logits = self.logits(batch)
            return ExampleOutputs(logits, targets.labels, targets.weights, documents, None, beside)

        def by_order(*arguments: Any) -> Float[Tensor, 'e 6']:
            return network(*arguments, by_order=True).flatten(1)

        orders = self._of_rows(batch, by_order).unflatten(1, (2, -1))
        return ExampleOutputs(network.combine(orders), targets.labels, targets.weights, documents, orders, beside)

    def _linear(self, documents: Int[Tensor, ' e']) -> Float[Tensor, 'e k']:
        """The outputs of the linear model for the texts of documents; each is scored once."""
        assert self.blend is not None
        numbers = documents.tolist()
        new = [number for number in dict.fromkeys(numbers) if number not in self._beside]
        if new:
            if self.texts_of is None:
                raise SettingsError(
                    'model.blend is tfidf, which reads the texts of documents by the callback of the group baselines, '
                    'xlabml.callbacks.ClassReport; add it to the trainer'
                )
            self._beside |= dict(zip(new, self.blend.beside(self.texts_of(np.array(new)))))
        found = [self._beside[number] for number in numbers]
        return torch.stack(found) if found else torch.zeros(0, self.blend.n_outputs, dtype=torch.float64)

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The mean loss of training and, of classes, the accuracy."""
        count = sums['count'] or math.nan
        found = {'loss': sums['loss'] / count}
        return {**found, 'accuracy': sums['correct'] / count} if 'correct' in sums else found

    def progress(self, row: Mapping[str, float]) -> str:
        """Loss and accuracy."""
        shown = [f'loss {row["train_loss"]:.3f}'] if 'train_loss' in row else []
        shown += [f'accuracy {row["train_accuracy"]:.1%}'] if 'train_accuracy' in row else []
        return '  '.join(shown)

    def on_validation_epoch_end(self) -> None:
        """Fit the calibration and what is mixed, where this is a validation of `fit`; each rank finds the same."""
        self.evaluator.fits = self.trainer.state.fn == 'fit'
        try:
            super().on_validation_epoch_end()
        finally:
            self.evaluator.fits = False

    def on_test_epoch_end(self) -> None:
        """Report class by class, beside the figures."""
        super().on_test_epoch_end()
        if self.trainer.is_global_zero and isinstance(self.evaluator, ClassEvaluator):
            print(*self.evaluator.report(self.classes), sep='\n', flush=True)

    def predictions(self, batch: Batch) -> DocumentParts:
        """The calibrated probability of each class, whether it is in the set, and how many tokens were cut."""
        targets = class_targets(batch)
        n = len(targets.labels)
        network = self.network
        second: dict[str, Tensor] = {}
        if isinstance(network, CrossPreferenceModel) and self.second_pass < 1:

            def gated(*arguments: Any) -> Float[Tensor, 'e 4']:
                logits, is_second = partial(network.gated, confidence=self.second_pass)(*arguments)
                return torch.cat([logits, is_second.to(logits.dtype)[:, None]], dim=1)

            logits = self._of_rows(batch, gated)
            second[_SECOND_PASS] = logits[:, -1].double()
            logits = logits[:, :-1]
        else:
            logits = self.logits(batch)
        if self.blend is not None:
            logits = self.blend(logits, self._linear(batch.documents[(batch.example >= 0) & (batch.role == 0)]))
        probs = network.probabilities(logits).double()
        values = second | {f'{_PROBABILITY}{i}': probs[:, i] for i in range(probs.size(1))}
        calibration = self.network.calibration
        if calibration is not None and self.task != 'multi-label':
            sets = calibration.sets(probs)
            values |= {f'{_IN_SET}{i}': sets[:, i].double() for i in range(probs.size(1))}
            values['answered'] = calibration.answers(probs).double()
        values['n_cut'] = torch.zeros(n) if targets.n_cut is None else targets.n_cut.double()
        is_first = (batch.example >= 0) & (batch.role == 0)
        return DocumentParts(batch.documents[is_first], values)

    def merge(self, totals: Mapping[str, float]) -> dict[str, Any]:
        """The prediction of a document, for people: its class and the probability of each."""
        probs = [totals[f'{_PROBABILITY}{i}'] for i in range(len(self.classes) or 1)]
        is_truncated = totals['n_cut'] > 0
        if self.task == 'regression':
            return {'number': round(probs[0], 6), 'truncated': is_truncated}
        rounded = {name: round(prob, 6) for name, prob in zip(self.classes, probs)}
        if self.task == 'multi-label':
            labels = [name for name, prob in zip(self.classes, probs) if prob >= 0.5]
            return {'labels': labels, 'probabilities': rounded, 'truncated': is_truncated}
        found: dict[str, Any] = {'label': self.classes[probs.index(max(probs))], 'probabilities': rounded}
        if 'answered' in totals:
            found['set'] = [name for i, name in enumerate(self.classes) if totals[f'{_IN_SET}{i}']]
            found['answered'] = bool(totals['answered'])
        if _SECOND_PASS in totals:
            found['both_orders'] = bool(totals[_SECOND_PASS])
        return {**found, 'truncated': is_truncated}

    def _make_evaluator(self) -> ExampleEvaluator:
        calibration = self.network.calibration
        if isinstance(self.network, PreferenceNetwork):
            return PreferenceEvaluator(calibration, self.class_counts, self.second_pass)
        if self.task == 'regression':
            return RegressionEvaluator()
        if self.task == 'multi-label':
            return MultiLabelEvaluator(calibration)
        return ClassEvaluator(calibration, self.task == 'ordinal', self.class_counts)

    def _sums(self, logits: Float[Tensor, 'e k'], losses: Float[Tensor, ' e'], batch: Batch) -> Sums:
        targets = class_targets(batch)
        weights = targets.weights.to(logits.device)
        total = (losses * weights).sum()
        count = (weights > 0).sum()
        named = {'loss': total.detach()}
        if self.task in ('single-label', 'ordinal'):
            labels = targets.labels
            classes = labels.argmax(-1) if labels.is_floating_point() else labels
            named['correct'] = ((logits.argmax(-1) == classes) & (weights > 0)).sum().to(precise(logits.device))
        return Sums(total, count, named)


def class_targets(batch: Batch) -> ClassTargets:
    """The targets of a batch for a classifier.

    Raises:
        ValueError: The batch has targets of another kind.
    """
    if not isinstance(batch.targets, ClassTargets):
        raise ValueError(
            f'a batch has {type(batch.targets).__name__}, but a classifier trains on ClassTargets; set '
            'data.examples to LabelledTexts or Preferences'
        )
    return batch.targets


_LOSSES: dict[str, Callable[[], ClassLoss]] = {
    'single-label': ClassCrossEntropy,
    'multi-label': BinaryCrossEntropy,
    'ordinal': ClassCrossEntropy,
    'regression': SquaredError,
}
_PROBABILITY = 'probability_'
_IN_SET = 'set_'
_SECOND_PASS = 'second_pass'
