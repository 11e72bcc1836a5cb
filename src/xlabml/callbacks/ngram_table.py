"""The table of a language model beside n-grams: bits of each, and of their mixtures."""

import lightning.pytorch as L

from xlabml import artifacts
from xlabml.engine import Callback, Run
from xlabml.evaluation.ngrams import NgramBits, format_ngrams


class NgramTable(Callback):
    """Print, and write to `ngram.txt` in the run's folder, what the evaluator `NgramBits` found.

    Args:
        evaluator: The evaluator, of the task that is tested.
    """

    def __init__(self, evaluator: NgramBits) -> None:
        self.evaluator = evaluator

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not self.evaluator.last:
            return
        table = format_ngrams(self.evaluator.last, self.evaluator.mixture.gate.constant) + '\n'
        folder = Run.of(trainer).output_folder()
        folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_text(folder / 'ngram.txt', table)
        print(table, end='')
