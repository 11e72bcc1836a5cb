"""The table that a test of an embedder ends with: BM25, its vectors, and both fused, with intervals."""

from collections.abc import Mapping, Sequence

import lightning.pytorch as L

from xlabml.data.groups import Groups
from xlabml.engine import Callback, Run, Task
from xlabml.evaluation import Retrieval, Texts, format_table, make_search, search_table
from xlabml.evaluation.ranking import Metric


class SearchTable(Callback):
    """Print, and write to `search.txt` in the run's folder, what a test's search reaches beside BM25 over whole texts.

    Figures are those of the evaluator `Retrieval` of the task, with 95 % bootstrap intervals; a model's gain over BM25
    is paired over the queries. BM25 reads what the model's limits cut as well.

    Args:
        seed: Of the intervals.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._retrieval(pl_module) is None:
            raise ValueError(
                'the callback SearchTable reads the vectors of the evaluator Retrieval, and the model has none; add '
                'xlabml.evaluation.Retrieval to model.evaluators, or leave the callback out'
            )
        if not isinstance(self._groups(trainer), Groups):
            raise ValueError(
                'the callback SearchTable needs groups of texts of one data set; choose such a format in '
                'data.examples, or leave the callback out'
            )

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        retrieval = self._retrieval(pl_module)
        groups = self._groups(trainer)
        if not trainer.is_global_zero or retrieval is None or retrieval.last is None or not isinstance(groups, Groups):
            return
        table = describe_search(retrieval.last, groups.texts_by_hash(), retrieval.at, retrieval.metrics, self.seed)
        folder = Run.of(trainer).output_folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'search.txt').write_text(table, 'utf-8')
        print(table, end='')

    @staticmethod
    def _retrieval(module: L.LightningModule) -> Retrieval | None:
        found = [evaluator for evaluator in Task.of(module).evaluators if isinstance(evaluator, Retrieval)]
        return found[0] if found else None

    @staticmethod
    def _groups(trainer: L.Trainer) -> object:
        texts = getattr(Run.of(trainer).data, 'texts', None)
        return None if texts is None else texts.open_examples('test', 'test')


def describe_search(
    texts: Texts, words: Mapping[int, str], at: Sequence[int], metrics: Sequence[Metric], seed: int = 0
) -> str:
    """The table of a search, for people.

    Args:
        texts: Groups, with their vectors.
        words: The whole texts by their hashes.
        at: The k's of the figures.
        metrics: Which figures.
        seed: Of the intervals.
    """
    queries, documents, relevance = make_search(texts)
    rows = search_table(
        [words[one] for one in texts.text_hash[queries].tolist()],
        [words[one] for one in texts.text_hash[documents].tolist()],
        relevance,
        {'vectors': (texts.vectors[queries], texts.vectors[documents])},
        at,
        metrics,
        seed,
    )
    return f'{len(queries)} queries, {len(documents)} documents\n{format_table(rows)}\n'
