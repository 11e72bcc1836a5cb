"""The table of a model with metadata: bits of the text without it, with all, with each type."""

import lightning.pytorch as L

from xlabml import artifacts
from xlabml.engine import Callback, Run, Task
from xlabml.evaluation import MetadataBits, Saving, format_savings


class MetadataTable(Callback):
    """Print, and write to `metadata.txt` in the run's folder, what the evaluator `MetadataBits` found in a test; each
    validation's goes to TensorBoard."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = _find(pl_module)
        if trainer.sanity_checking or not trainer.is_global_zero or not found:
            return
        for logger in trainer.loggers:
            add_text = getattr(getattr(logger, 'experiment', None), 'add_text', None)
            if add_text is not None:
                lines = [f'    {line}' for line in format_savings(found).splitlines()]  # as code, in Markdown
                add_text('metadata', '\n'.join(lines), trainer.global_step)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = _find(pl_module)
        if not trainer.is_global_zero or not found:
            return
        table = format_savings(found) + '\n'
        folder = Run.of(trainer).output_folder()
        folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_text(folder / 'metadata.txt', table)
        print(table, end='')


def _find(module: L.LightningModule) -> list[Saving]:
    for one in Task.of(module).evaluators:
        if isinstance(one, MetadataBits):
            return one.last
    raise ValueError(
        'the callback MetadataTable shows the evaluator MetadataBits, and the model has none; add '
        'xlabml.evaluation.MetadataBits to model.evaluators, or leave the callback out'
    )
