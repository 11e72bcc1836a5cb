"""The table that a test of a model with metadata ends with: bits of the text without it, with all, with each type."""

import lightning.pytorch as L

from xlabml.engine import Callback, Run, Task
from xlabml.evaluation import MetadataBits, format_savings


class MetadataTable(Callback):
    """Print, and write to `metadata.txt` in the run's folder, what the evaluator `MetadataBits` found in a test."""

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = [one for one in Task.of(pl_module).evaluators if isinstance(one, MetadataBits)]
        if not found:
            raise ValueError(
                'the callback MetadataTable shows the evaluator MetadataBits, and the model has none; add '
                'xlabml.evaluation.MetadataBits to model.evaluators, or leave the callback out'
            )
        if not trainer.is_global_zero or not found[0].last:
            return
        table = format_savings(found[0].last) + '\n'
        folder = Run.of(trainer).output_folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'metadata.txt').write_text(table, 'utf-8')
        print(table, end='')
