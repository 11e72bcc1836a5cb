"""A test of an embedder ends with the table of its search beside BM25, printed and kept in the run's folder."""

import functools
import json

import pytest
import torch

from xlabml.bm25 import BM25, Fusion, fuse_with_words, hubness
from xlabml.callbacks import SearchTable, search_table
from xlabml.callbacks.search_table import describe_search
from xlabml.commands.trainer import Trainer
from xlabml.data import Location
from xlabml.data.groups import TextGroups
from xlabml.datamodules import XLabDataModule
from xlabml.evaluation import Retrieval, fusion, has_sklearn, make_search, rank_relevant
from xlabml.models import Embedder
from xlabml.pipelines import TextEmbedder
from xlabml.tokenizer import train_tokenizer
from xlabml.transformer import Transformer

NAMES = [f'{first}{second}' for first in 'abcdefghij' for second in 'klmnopqrst']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pairs')
    pairs = [{'q': f'what is {name}', 'p': f'{name} is a thing of number {i}'} for i, name in enumerate(NAMES)]
    (folder / 'pairs.jsonl').write_text(''.join(json.dumps(pair) + '\n' for pair in pairs))
    train_tokenizer([text for pair in pairs for text in pair.values()], folder / 'tiny.model', 330)

    def make():
        return XLabDataModule(
            [Location(str(folder / 'pairs.jsonl'))],
            splits={'train': 0.5, 'val': 0.1, 'test': 0.4},
            tokenizer_path=str(folder / 'tiny.model'),
            n_vocab=330,
            max_len=16,
            examples=functools.partial(TextGroups, roles={'anchor': 'q', 'positive': 'p'}),
            batch_groups=8,
        )

    return make


def run(data, folder, evaluators, beside=None):
    trunk = functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2, causal=False)
    trainer = Trainer(
        accelerator='cpu', precision='32-true', logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[SearchTable(beside=beside)],
    )  # fmt: skip
    task = Embedder(330, 16, trunk, evaluators=evaluators)
    trainer.test(task, datamodule=data(), verbose=False)
    return trainer


def test_the_table_is_printed_and_kept(data, tmp_path, capsys):
    trainer = run(data, tmp_path, [Retrieval([1], ['recall'])])
    written = (tmp_path / 'search.txt').read_text()
    assert written in capsys.readouterr().out
    title, header, *rows = written.splitlines()
    rows = rows if has_sklearn() else rows[:-1]  # the last line says what is left out
    n = int(title.split()[0])
    assert title == f'{n} queries, {n} documents'
    assert 25 < n < 55
    assert header.split() == ['recall_at_1', 'recall_at_1', 'over', 'BM25']
    names = [row.split('  ')[0] for row in rows]
    assert [name for name in names if 'TF-IDF' not in name and 'LSA' not in name] == [
        'BM25',
        'BM25 of word parts',
        'vectors',
        'vectors + BM25',
    ]
    assert float(rows[0].split()[1]) == 1.0  # each name stands in one document
    assert float(rows[-2].split()[1]) == pytest.approx(float(trainer.callback_metrics['test_recall_at_1']), abs=5e-4)


def test_other_models_stand_beside_it_on_the_same_texts(data, tmp_path):
    trainer = run(data, tmp_path, [Retrieval([1], ['recall'])])
    task = trainer.lightning_module
    groups = trainer.datamodule.texts.open_examples('test', 'test')
    torch.manual_seed(1)
    trunk = functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2, causal=False)
    others = {'twin': task.network.eval(), 'another': Embedder(330, 16, trunk).network.eval()}
    others = {name: TextEmbedder(network, groups.tokenizer) for name, network in others.items()}
    retrieval = next(one for one in task.evaluators if isinstance(one, Retrieval))
    table = describe_search(retrieval.last, groups.texts_by_hash(), [1], ['recall'], others=others)
    lines = {line.split('  ')[0]: line.split() for line in table.splitlines()}
    assert lines['twin'][1:] == lines['vectors'][1:]
    assert lines['twin + BM25'][3:] == lines['vectors + BM25'][3:]
    assert 'vectors over twin: recall_at_1 +0.000 [+0.000, +0.000]' in table
    gain = float(lines['vectors'][1]) - float(lines['another'][1])
    assert f'vectors over another: recall_at_1 {gain:+.3f} [' in table


def test_a_checkpoint_that_is_not_there_is_refused_before_the_test(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.ckpt'):
        run(data, tmp_path, [Retrieval([1], ['recall'])], beside={'other': str(tmp_path / 'nowhere.ckpt')})
    with pytest.raises(ValueError, match="'vectors' in beside, which is the name of the tested model"):
        SearchTable(beside={'vectors': 'x.ckpt'})


def test_without_retrieval_it_says_what_to_add(data, tmp_path):
    with pytest.raises(ValueError, match=r'add xlabml\.evaluation\.Retrieval to model\.evaluators'):
        run(data, tmp_path, [])


def test_the_fusion_is_chosen_on_val_and_used_in_the_test(data, tmp_path, monkeypatch):
    asked = []
    choose = search_table.fit_fusion

    def watch(*arguments):
        asked.append(choose(*arguments))
        return Fusion(0.35, 'parts')

    monkeypatch.setattr(search_table, 'fit_fusion', watch)
    trunk = functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2, causal=False)
    task = Embedder(330, 16, trunk, evaluators=[Retrieval([1], ['recall'])])
    settings = {
        'accelerator': 'cpu', 'precision': '32-true', 'logger': False, 'enable_checkpointing': False,
        'enable_progress_bar': False, 'enable_model_summary': False, 'default_root_dir': tmp_path,
    }  # fmt: skip
    Trainer(**settings, callbacks=[SearchTable()]).validate(task, datamodule=data(), verbose=False)
    assert asked[0].vector_weight in fusion.WEIGHTS
    assert task.facts == {'vector_weight': 0.35, 'bm25_terms': 'parts'}
    Trainer(**settings, callbacks=[SearchTable()]).test(task, datamodule=data(), verbose=False)
    chosen = (tmp_path / 'search.txt').read_text()
    assert '\nvectors + BM25 of word parts: 0.35 and 0.65 of their z-scores\n' in chosen
    lines = {line.split('  ')[0]: line.split() for line in chosen.splitlines()}
    gain = float(lines['vectors + BM25 of word parts'][6]) - float(lines['BM25 of word parts'][4])
    assert f'vectors + BM25 of word parts over BM25 of word parts: recall_at_1 {gain:+.3f} [' in chosen
    typed = SearchTable(vector_weight=1.0, bm25_terms='words')
    Trainer(**settings, callbacks=[typed]).test(task, datamodule=data(), verbose=False)
    lines = {line.split('  ')[0]: line.split() for line in (tmp_path / 'search.txt').read_text().splitlines()}
    assert lines['vectors + BM25'][3:] == lines['vectors'][1:]  # what is typed counts
    assert len(asked) == 1
    task.facts = {'vector_weight': 'much'}
    with pytest.raises(ValueError, match="is 'much', no ratio"):
        Trainer(**settings, callbacks=[SearchTable()]).test(task, datamodule=data(), verbose=False)
    with pytest.raises(
        ValueError, match=r'vector_weight of the callback SearchTable is 2\.0; give a ratio from 0 to 1'
    ):
        SearchTable(vector_weight=2.0)


def test_known_queries_of_the_training_split_are_kept_and_used(data, tmp_path):
    trunk = functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2, causal=False)
    task = Embedder(330, 16, trunk, evaluators=[Retrieval([1], ['recall'])])
    settings = {
        'accelerator': 'cpu', 'precision': '32-true', 'logger': False, 'enable_checkpointing': False,
        'enable_progress_bar': False, 'enable_model_summary': False, 'default_root_dir': tmp_path,
    }  # fmt: skip
    module = data()
    Trainer(**settings, callbacks=[SearchTable(known_queries=12)]).validate(task, datamodule=module, verbose=False)
    known = task.facts['known_queries']
    train = module.texts.open_examples('train', 'train')
    assert len(known) == 12
    assert set(known) <= {texts[0] for texts in train.texts_of(train.documents)}

    typed = SearchTable(vector_weight=0.5, bm25_terms='words')
    Trainer(**settings, callbacks=[typed]).test(task, datamodule=data(), verbose=False)
    table = (tmp_path / 'search.txt').read_text()
    assert 'vectors + BM25: 0.50 and 0.50 of their z-scores, less the nearness to 12 known queries' in table
    retrieval = next(one for one in task.evaluators if isinstance(one, Retrieval))
    groups = module.texts.open_examples('test', 'test')
    queries, documents, relevance = make_search(retrieval.last)
    words = groups.texts_by_hash()
    asked, read = ([words[one] for one in retrieval.last.text_hash[some].tolist()] for some in (queries, documents))
    encode = TextEmbedder(task.network.eval(), groups.tokenizer).encode
    bm25 = BM25(read)
    dense = encode(asked) @ encode(read).T - hubness([encode(known) @ encode(read).T])
    fused = fuse_with_words(dense, bm25.scores(asked) - hubness([bm25.scores(known)]))
    ranks = rank_relevant(fused.__getitem__, relevance, len(read))
    found = {line.split('  ')[0]: line.split() for line in table.splitlines()}['vectors + BM25']
    assert float(found[3]) == pytest.approx((ranks == 1).mean(), abs=5e-4)

    Trainer(**settings, callbacks=[SearchTable()]).validate(task, datamodule=data(), verbose=False)
    assert 'known_queries' not in task.facts
    with pytest.raises(ValueError, match='known_queries of the callback SearchTable is -1; give 0 or more'):
        SearchTable(known_queries=-1)
