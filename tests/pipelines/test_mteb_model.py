"""The adapter for `mteb`: what a task hands in, and a task built here and run offline."""

from types import SimpleNamespace

import numpy as np
import pytest
from bert_folders import write_folder
from foreign import mini_lm

from xlabml.conversion import import_folder
from xlabml.pipelines import TextEmbedder
from xlabml.pipelines.mteb_model import MTEBModel


def load(folder, tmp_path):
    return TextEmbedder.load(import_folder(folder, tmp_path / 'e.safetensors').export.path, 'cpu')


def test_batches_become_vectors_in_order_with_the_prompts_of_the_model(tmp_path):
    embedder = load(write_folder(tmp_path / 'folder')[0], tmp_path)
    model = MTEBModel(embedder)
    batches = [{'text': ['the dog', 'fun']}, {'text': ['cat sat']}]
    known = {'task_metadata': None, 'hf_split': 'test', 'hf_subset': 'default', 'batch_size': 2}
    plain = model.encode(batches, **known)
    texts = ['the dog', 'fun', 'cat sat']
    np.testing.assert_allclose(plain, embedder.encode(texts), atol=1e-6)
    queries = model.encode(batches, prompt_type=SimpleNamespace(value='query'), **known)
    np.testing.assert_allclose(queries, embedder.encode(texts, prompt='query'), atol=1e-6)
    assert np.abs(queries - plain).max() > 0.01
    documents = model.encode(batches, prompt_type=SimpleNamespace(value='document'), **known)
    np.testing.assert_allclose(documents, plain, atol=1e-6)
    cosine = model.similarity(plain * 3, queries)
    np.testing.assert_allclose(cosine, plain @ queries.T, atol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(plain * 3, queries), np.diag(cosine), atol=1e-6)


@pytest.mark.slow
def test_a_task_that_is_built_here_runs_offline(tmp_path, monkeypatch):
    mteb = pytest.importorskip('mteb', reason='needs the package mteb')
    datasets = pytest.importorskip('datasets')
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    pairs = [('a dog runs', 'the dog is running', 5), ('a dog runs', 'stocks fell', 0), ('it rains', 'wet weather', 4)]
    pairs += [('a red car', 'a scarlet automobile', 5), ('a red car', 'she sings a song', 0)]

    class Pairs(AbsTaskSTS):
        metadata = TaskMetadata(
            name='Pairs', dataset={'path': 'local/pairs', 'revision': '1'}, description='Pairs.', type='STS',
            eval_langs=['eng-Latn'], main_score='cosine_spearman',
        )  # fmt: skip

        def load_data(self, *_, **__):
            a, b, scores = zip(*pairs)
            rows = {'sentence1': a, 'sentence2': b, 'score': scores}
            self.dataset = {'test': datasets.Dataset.from_dict(rows)}
            self.data_loaded = True

    model = MTEBModel(load(mini_lm(), tmp_path))
    found = mteb.evaluate(model, Pairs(), cache=None, show_progress_bar=False)
    assert found.task_results[0].get_score() > 0.7
