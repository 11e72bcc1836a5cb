"""Figures of a benchmark's own files: by any callable, and inside an evaluation on any ranks; refusals."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xlabml import settings
from xlabml.data.batching import EvalBatches
from xlabml.data.groups.written import WrittenTexts
from xlabml.errors import DataError, SettingsError
from xlabml.evaluation import (
    BeirSearch,
    Bitext,
    Clustering,
    Evaluator,
    Geometry,
    GroupFile,
    LinearProbe,
    Neighbours,
    PairClassification,
    Reranking,
    Retrieval,
    Similarity,
    TripletAccuracy,
)
from xlabml.tokenizer import Tokenizer, train_tokenizer

WORDS = ['red', 'blue', 'green', 'cat', 'dog', 'house']


def encode(texts):
    """A count of each word, and a little of the text's length."""
    return np.array([[text.split().count(word) for word in WORDS] + [0.01 * len(text)] for text in texts], np.float32)


def write(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    return str(path)


PAIRS = [
    {'s1': 'red cat', 's2': 'red cat sat', 'gold': 5, 'same': 1},
    {'s1': 'blue dog', 's2': 'blue house', 'gold': 2.5, 'same': 1},
    {'s1': 'green', 's2': 'dog', 'gold': 0, 'same': 0},
]
AB = {'a': 's1', 'b': 's2'}
LABELLED = [{'t': f'{colour} {i % 3} x', 'l': colour} for i in range(9) for colour in ('red', 'blue')]


def test_pairs_with_scores_and_labels_are_scored_by_hand(tmp_path):
    path = write(tmp_path / 'sts.jsonl', PAIRS)
    found = GroupFile(path, Similarity(['cosine']), AB, score='gold', score_range=[0.0, 5.0]).evaluate(encode)
    cosine = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(encode([r['s1'] for r in PAIRS]), encode([r['s2'] for r in PAIRS]))
    ]
    assert found['sts_cosine_pearson'] == pytest.approx(np.corrcoef(cosine, [1, 0.5, 0])[0, 1], abs=1e-6)
    assert found['sts_cosine_spearman'] == 1
    pairs = GroupFile(path, PairClassification(), AB, label='same', name='pairs')
    assert pairs.evaluate(encode)['pairs_cosine_ap'] == 1
    assert list(pairs.evaluate(encode)) == pairs.names()
    assert pairs.primary == ('val_pairs_cosine_ap', 'max')


def test_triplets_candidates_translations_and_classes(tmp_path):
    rows = [
        {'q': 'red', 'p': ['red cat'], 'n': ['blue', 'green dog']},
        {'q': 'dog', 'p': ['cat dog red'], 'n': ['dog house', 'red']},  # the first negative is nearer
    ]
    path = write(tmp_path / 'queries.jsonl', rows)
    roles = {'anchor': 'q', 'positive': 'p', 'negatives': 'n'}
    assert GroupFile(path, TripletAccuracy(), roles).evaluate(encode) == {'queries_triplet_accuracy': 0.75}
    reranking = GroupFile(path, Reranking(metrics=['mrr']), roles, name='r').evaluate(encode)
    assert reranking == {'r_reranking_mrr_at_10': pytest.approx((1 + 1 / 2) / 2)}
    # Before `red cat` there is `red`; before `cat dog red` there are `dog house` and `green dog`.
    search = GroupFile(path, Retrieval(at=[2], metrics=['recall']), roles).evaluate(encode)
    assert search == {'queries_recall_at_2': 0.5}
    bitext = GroupFile(write(tmp_path / 'b.jsonl', PAIRS[:2]), Bitext(), AB).evaluate(encode)
    assert bitext['b_bitext_accuracy'] == 1
    path = write(tmp_path / 'labelled.jsonl', LABELLED)
    for evaluator, name in ((Clustering(), 'v_measure'), (LinearProbe(2), 'probe_accuracy'), (Neighbours(3), 'knn_f1')):
        assert GroupFile(path, evaluator, {'text': 't'}, label='l').evaluate(encode)[f'labelled_{name}'] == 1


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / 'Nano Colours'
    (folder / 'qrels').mkdir(parents=True)
    corpus = [('d1', 'red', 'cat'), ('d2', '', 'red dog'), ('d3', '', 'blue house'), ('d4', '', 'green')]
    write(folder / 'corpus.jsonl', [{'_id': i, 'title': title, 'text': text} for i, title, text in corpus])
    write(folder / 'queries.jsonl', [{'_id': 'q1', 'text': 'red cat'}, {'_id': 'q2', 'text': 'no judgement'}])
    rows = [('q1', 'd1', 1), ('q1', 'd2', 2), ('q1', 'd3', 0)]
    lines = ['query-id\tcorpus-id\tscore', *('\t'.join(map(str, row)) for row in rows)]
    (folder / 'qrels' / 'test.tsv').write_text('\n'.join(lines) + '\n')
    return folder


def test_a_folder_of_beirs_is_searched_whole_with_grades(beir):
    search = BeirSearch(str(beir), at=[1, 4], metrics=['recall', 'ndcg'])
    found = search.evaluate(encode, lambda texts: encode([text.removeprefix('ask ') for text in texts]))
    assert found['Nano_Colours_recall_at_1'] == 0.5  # d1 is first, of two
    # d1 (gain 1) before d2 (gain 2)
    assert found['Nano_Colours_ndcg_at_4'] == pytest.approx((1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3)))
    assert search.contents.is_query.tolist() == [True] + [False] * 4
    assert search.contents.texts[1] == 'red cat'  # title and text of d1, beside the query that says the same


class Ranks:
    """Several ranks in one process: everything is what all of them have."""

    def __init__(self, parts):
        self.parts = parts

    def everything(self, values):
        return self.parts

    def total(self, values):
        return values


def evaluated(benchmark, world, tokenizer, texts, n_each=2):
    """The figures by batches on several ranks, with vectors of the decoded texts, as a task makes them."""
    parts = []
    for rank in range(world):
        batches = EvalBatches(texts, n_each, rank, world)
        benchmark.start()
        for batch in map(batches.__getitem__, range(len(batches))):
            starts = batch.layout.starts.tolist()
            decoded = [tokenizer.decode(batch.ids.flatten()[i:j].tolist()) for i, j in itertools.pairwise(starts)]
            benchmark.update(torch.from_numpy(encode([text.removeprefix('ask ') for text in decoded])), batch)
        parts.append(benchmark._parts)
    return benchmark.result(Ranks(parts))


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp('tokenizer') / 'tiny.model'
    train_tokenizer([f'ask {one} {other}' for one in WORDS for other in WORDS] * 3, path, 300)
    return Tokenizer.load(path)


def test_batches_and_ranks_give_the_figures_of_the_callable(beir, tokenizer):
    search = BeirSearch(str(beir), at=[1, 4])
    wanted = search.evaluate(encode)

    task = SimpleNamespace(prompts={'query': 'ask '}, embed=None)
    trainer = SimpleNamespace(lightning_module=task)
    data = SimpleNamespace(trainer=trainer, max_len=16, hparams={'device_batch_tokens': 11}, tokenizer=tokenizer)
    texts = search.examples(data)
    batch = texts.batch(np.array([0, 1, -1]), np.zeros(3, np.uint64), 2.0)
    assert len(batch.ids) > 1  # rows of data.device_batch_tokens
    assert batch.targets.n_prompt[batch.documents == 0].item() == 1 + len(tokenizer.encode('ask '))
    assert texts.render(0) == [('text', 'ask red cat')]
    for world, n_each in ((1, 2), (1, 100), (2, 2), (3, 2), (3, 4)):  # with a rank that has none
        assert evaluated(search, world, tokenizer, texts, n_each) == pytest.approx(wanted)
        assert search.n_counted == 5
    search.start()
    assert all(np.isnan(value) for value in search.result(Ranks([[]])).values())
    with pytest.raises(SettingsError, match='leaves no room for a text'):
        WrittenTexts(['red'], ['ask ' * 20], tokenizer, 16)


@pytest.mark.parametrize(
    ('rows', 'evaluator', 'options', 'kind', 'message'),
    [
        (PAIRS, Similarity(), {'roles': AB}, SettingsError, 'GroupFile of .*x.jsonl: Similarity needs scores of pairs'),
        (PAIRS, Similarity(), {'roles': AB, 'score': 'gold'}, DataError, "'gold' is 5, outside 0 to 1"),
        (PAIRS, Retrieval(), {'roles': {'text': 's1'}}, SettingsError, 'Retrieval needs a second text'),
        (PAIRS, Clustering(), {'roles': {'text': 's1'}}, SettingsError, 'Clustering needs labels'),
        (PAIRS[:2], PairClassification(), {'roles': AB, 'label': 'same'}, DataError, 'all records have one label'),
        (PAIRS, TripletAccuracy(), {'roles': AB}, SettingsError, 'TripletAccuracy needs negatives, or labels'),
        (PAIRS, Similarity(), {'roles': {'a': 's1', 'b': 'zz'}, 'score': 'gold'}, SettingsError, 'zz'),
        (
            [{'s1': 'x', 's2': ' ', 'gold': 1}],
            Similarity(),
            {'roles': AB, 'score': 'gold'},
            DataError,
            r'row 0: .*\(column s2\) is empty',
        ),
        ([], Similarity(), {'roles': AB, 'score': 'gold'}, SettingsError, 'x.jsonl is empty'),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(tmp_path, rows, evaluator, options, kind, message):
    with pytest.raises(kind, match=message):
        GroupFile(write(tmp_path / 'x.jsonl', rows), evaluator, **options).open()


def test_paths_names_and_pooled_tokens_are_refused_by_name(beir, tmp_path):
    for one in (BeirSearch(str(tmp_path / 'nowhere')), GroupFile('nowhere/sts.tsv', Similarity(), AB, score='gold')):
        with pytest.raises(SettingsError, match=r'the evaluator \w+ of .*nowhere.*: there is no such file or folder'):
            one.open()
    with pytest.raises(SettingsError, match=r'has no qrels .* check the path and the split'):
        BeirSearch(str(beir), split='dev').open()
    (beir / 'corpus.jsonl').write_text('{"_id": "d1", "title": "", "text": "red"}\n')
    with pytest.raises(DataError, match="document 'd2' of qrels/test is not in the corpus"):
        BeirSearch(str(beir)).open()
    with pytest.raises(ValueError, match="has the name '!!'"):
        BeirSearch(str(beir), name='!!')
    with pytest.raises(SettingsError, match='roles names a; name anchor and positive'):
        GroupFile('x.jsonl', Similarity(), {'a': 's1'})
    with pytest.raises(SettingsError, match='the evaluator Geometry compares one vector a text'):
        Geometry().compare_by(torch.mm)
    with pytest.raises(SettingsError, match='similarity of Retrieval would have no effect'):
        Retrieval(similarity='dot').compare_by(torch.mm)


def test_texts_of_several_vectors_are_compared_by_their_own_score():
    from xlabml.losses.late_interaction import max_similarity

    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(6, 8, generator=draw)

    def scores(queries, documents):
        return max_similarity(queries, documents, 4)

    from xlabml.evaluation import make_relevance
    from xlabml.evaluation.retrieval import search_figures

    relevance = make_relevance([[0], [1]])
    found = search_figures(vectors[:2].numpy(), vectors[2:].numpy(), relevance, [1, 4], ['mrr'], scores=scores)
    rank = [
        1 + int((scores(vectors[[i]], vectors[2:])[0] > scores(vectors[[i]], vectors[2:])[0, i]).sum()) for i in (0, 1)
    ]
    assert found['mrr_at_4'].tolist() == pytest.approx([1 / r for r in rank])


def test_checkpoints_hold_what_they_are_built_from(tmp_path):
    options = {'score': 'gold', 'score_range': [0.0, 5.0], 'name': 'sts'}
    made = GroupFile(write(tmp_path / 'x.jsonl', PAIRS), Similarity(['cosine']), AB, **options)
    for one in (made, BeirSearch('scifact', split='dev', at=[5])):
        again = settings.build(settings.describe(one), Evaluator)
        assert settings.describe(again) == settings.describe(one)
        assert again.names() == one.names()
    assert settings.build(settings.describe(made), Evaluator).evaluate(encode) == made.evaluate(encode)
