"""What every result of a classifier is read beside: baselines, doubts, and the examples that runs are compared by."""

import lightning.pytorch as L
import numpy as np
import torch
from jaxtyping import Int

from xlabml import artifacts
from xlabml.artifacts.hashes import short_hash
from xlabml.data import Examples
from xlabml.data.corpus import Corpus
from xlabml.data.prepared import StreamedTexts, Texts
from xlabml.engine import Callback, Run, Task
from xlabml.errors import SettingsError
from xlabml.evaluation import ClassEvaluator, ExampleEvaluator, PreferenceEvaluator
from xlabml.evaluation.class_baselines import Outputs, length_baseline, majority, untrained
from xlabml.evaluation.class_results import FILE, ClassResults, make_keys
from xlabml.evaluation.class_table import class_table, describe_table
from xlabml.heads import LinearBlend
from xlabml.models import Classifier
from xlabml.tfidf import PREFERENCE

from .class_pictures import write_pictures
from .linear_models import LabelledExamples, draw_training, linear_model

LINEAR = {'regression': 'TF-IDF + ridge', PREFERENCE: 'TF-IDF + Davidson'}
LINEAR_OF_CLASSES = 'TF-IDF + logistic'
MAX_EXAMPLES = 50_000
_MOST_SHOWN = 500


class ClassReport(Callback):
    """Print a classifier beside its baselines, at the end of `fit` on val and of `test` on test.

    Baselines are trained on the training split: the classes' shares, the length of the text, a linear model of TF-IDF
    features (extra `baselines`), and a head before training. Losses have 95 % bootstrap intervals, differences are
    paired; with `data.group` groups are drawn whole. What was said of each example is written to
    `val-examples.parquet` and `test-examples.parquet` in the run's folder, for `xlab-manage compare`; with matplotlib
    (extra `plots`) also pictures of how far confidence can be trusted and of confused classes, and to TensorBoard.
    Tasks without labelled texts are left alone.

    Args:
        max_examples: The most examples that baselines are trained on, drawn at random; 0: no baselines.
        seed: Of the drawings.
    """

    def __init__(self, max_examples: int = MAX_EXAMPLES, seed: int = 0) -> None:
        if max_examples < 0:
            raise ValueError(f'baselines.max_examples is {max_examples}; it must be 0 (no baselines) or more')
        self.max_examples = max_examples
        self.seed = seed
        self.results: ClassResults | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        blend = self._open_texts(trainer, pl_module, 'train')
        if blend is None or blend.model is not None:
            return
        texts = Run.of(trainer).data.texts
        if isinstance(texts, StreamedTexts):
            raise SettingsError('model.blend is tfidf, whose linear model is not fitted to a stream; leave one out')
        arguments = (blend.task, self.max_examples or MAX_EXAMPLES, self.seed)
        train = texts.open_examples('train', 'train')
        if trainer.is_global_zero:
            blend.model = linear_model(train, *arguments)
        trainer.strategy.barrier()
        if not trainer.is_global_zero:  # it is in the cache now
            blend.model = linear_model(train, *arguments)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open_texts(trainer, pl_module, 'val')

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open_texts(trainer, pl_module, 'test')

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open_texts(trainer, pl_module, Run.of(trainer).data.predict_split)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if Run.of(trainer).ended is None and not trainer.interrupted:
            self._report(trainer, pl_module, 'val')

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, pl_module, 'test')

    @staticmethod
    def _open_texts(trainer: L.Trainer, module: L.LightningModule, split: str) -> LinearBlend | None:
        """Let a classifier that is mixed with a linear model read the texts of documents; None: it is not mixed."""
        task = Task.of(module)
        if not isinstance(task, Classifier) or task.blend is None:
            return None
        examples = Run.of(trainer).data.texts.open_examples(split, split)
        assert isinstance(examples, LabelledExamples)  # all that a Classifier trains on is
        task.texts_of = examples.texts_of
        return task.blend

    def _report(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        run = Run.of(trainer)
        texts = getattr(run.data, 'texts', None)
        found = [one for one in Task.of(module).evaluators if isinstance(one, ExampleEvaluator)]
        if not trainer.is_global_zero or run.is_trial or texts is None or not found or found[0].last is None:
            return
        examples = texts.open_examples(split, split)
        if not isinstance(examples, LabelledExamples):
            return
        evaluator = found[0]
        assert evaluator.last is not None
        assert evaluator.outputs is not None
        documents = evaluator.last.documents.numpy()
        whole = examples.texts_of(documents)
        systems: dict[str, Outputs] = {'classifier': evaluator.outputs, **evaluator.parts}
        said = []
        if self.max_examples and not isinstance(texts, StreamedTexts):
            try:
                train = texts.open_examples('train', 'train')
                systems |= self._simple(train, whole, evaluator)
                systems |= self._linear(train, whole, evaluator)
            except SettingsError as error:  # no scikit-learn, or an evaluation on a file that has no training split
                said = [str(error)]
        self.results = ClassResults(
            evaluator.kind,
            tuple(examples.classes),
            tuple(run.data.document_id(document) for document in documents.tolist()),
            make_keys([content_key(texts.corpus, document) for document in documents.tolist()]),
            evaluator.last.labels,
            _groups(texts, documents),
            systems,
            tuple(_shown(fields) for fields in whole),
        )
        rows = class_table(systems, self.results.labels, evaluator.kind, self.results.groups, self.seed)
        title = f'{split}: {len(documents):,} examples'
        lines = [*describe_table(rows, title, evaluator.kind), *said]
        folder = run.output_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with artifacts.replacing(folder / FILE.format(split)) as beside:
            self.results.write(beside)
        print(*lines, sep='\n', flush=True)
        if isinstance(evaluator, ClassEvaluator):
            write_pictures(evaluator, examples.classes, split, folder, trainer)

    def _simple(self, train: Examples, texts: list[tuple[str, ...]], evaluator: ExampleEvaluator) -> dict[str, Outputs]:
        """The outputs for some texts of what needs no model."""
        assert isinstance(train, LabelledExamples)
        task = evaluator.kind
        n_outputs = len(train.classes) or 1
        numbers = draw_training(train, self.max_examples, self.seed)
        labels = torch.from_numpy(train.targets(numbers))
        known = (_lengths(train.texts_of(train.documents[numbers])), labels)
        return {
            'mean' if task == 'regression' else 'majority': majority(labels, task, n_outputs).expand(len(texts), -1),
            'length': length_baseline(known, _lengths(texts), task, n_outputs),
            'untrained head': untrained(len(texts), n_outputs),
        }

    def _linear(self, train: Examples, texts: list[tuple[str, ...]], evaluator: ExampleEvaluator) -> dict[str, Outputs]:
        """The outputs for some texts of the linear model; {} where the classifier is mixed with it already."""
        if evaluator.parts:
            return {}
        task = PREFERENCE if isinstance(evaluator, PreferenceEvaluator) else evaluator.kind
        outputs = linear_model(train, task, self.max_examples, self.seed).logits(texts)
        return {LINEAR.get(task, LINEAR_OF_CLASSES): torch.from_numpy(outputs)}


def content_key(corpus: Corpus, document: int) -> str:
    """The hash of a document's content, whatever its file and its row."""
    store, number = corpus.locate(document)
    return ''.join(f'{int(word):016x}' for word in store.hashes[number])


def _groups(texts: Texts, documents: np.ndarray) -> Int[torch.Tensor, ' e'] | None:
    """The group of each document, where groups are never divided."""
    column = texts.splitting.group
    if column is None:
        return None
    values = [texts.corpus.columns(document)[column] for document in documents.tolist()]
    numbers = [int(short_hash([str(value)]), 16) % (1 << 62) for value in values]
    return torch.tensor(numbers, dtype=torch.long)


def _shown(fields: tuple[str, ...]) -> str:
    """The texts of an example for people, each cut where it is long."""
    return ' | '.join(one if len(one) <= _MOST_SHOWN else f'{one[:_MOST_SHOWN]}…' for one in fields)


def _lengths(texts: list[tuple[str, ...]]) -> torch.Tensor:
    """How long each text is in characters; of several, how much longer the last but one is than the last."""
    found = [len(fields[0]) if len(fields) == 1 else len(fields[-2]) - len(fields[-1]) for fields in texts]
    return torch.tensor(found, dtype=torch.float64)
