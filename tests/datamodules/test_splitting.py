"""data.group, data.stratify and a source's `only` through the data module: rows, resume, refusals, the tokenizer."""

import json
import random
from collections import defaultdict
from types import SimpleNamespace

import pytest

from xlabml.data import Location, RemoteFiles, Stream
from xlabml.data.prepared import verify
from xlabml.datamodules import XLabDataModule
from xlabml.errors import SettingsError
from xlabml.tokenizer import train_tokenizer


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp('corpus'), random.Random(0)
    rows = [
        {
            'text': f'{i}: ' + ' '.join(draw.choices(['one', 'two', 'three'], k=draw.randrange(1, 40))),
            'author': f'author {draw.randrange(40)}',
            'topic': ('sea', 'sky', 'land')[min(2, i % 5)],
        }
        for i in range(300)
    ]
    for name, some in (('a', rows[:240]), ('b', rows[240:])):
        (folder / f'{name}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in some))
    train_tokenizer([row['text'] for row in rows], folder / 'tiny.model', 300)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XLABML_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def build(corpus, only=(None, None), **settings):
    sources = [Location(str(corpus / f'{name}.jsonl'), only=split) for name, split in zip('ab', only)]
    splits = {'train': 0.6, 'val': 0.2, 'test': 0.2}
    settings = {'tokenizer_path': str(corpus / 'tiny.model'), 'splits': splits} | settings
    data = XLabDataModule(sources, n_vocab=300, max_len=16, batch_tokens=128, n_processes=1, **settings)
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, global_step=0, max_steps=20, max_epochs=-1, state=SimpleNamespace(fn='fit')
    )
    return data


def members(data):
    """The documents of each split."""
    return {name: data.texts.corpus.documents(name).tolist() for name in ('train', 'val', 'test')}


def test_a_group_is_on_one_side_of_the_splits_and_its_rows_hold_no_other_documents(corpus):
    data = build(corpus, group='author')
    found = defaultdict(set)
    for name, documents in members(data).items():
        for document in documents:
            found[data.texts.corpus.columns(document)['author']].add(name)
        assert {*data.texts.rows(name).plan.documents.tolist()} == {*documents}
    assert len(found) == 40
    assert all(len(splits) == 1 for splits in found.values())
    assert data.texts.columns_of(0) == ['author']


def test_each_topic_has_its_share_of_each_split(corpus):
    data = build(corpus, stratify='topic')
    counts = {
        name: [data.texts.corpus.columns(document)['topic'] for document in documents].count('sea')
        for name, documents in members(data).items()
    }
    assert counts == {'train': 36, 'val': 12, 'test': 12}


def test_a_location_is_in_the_split_that_it_is_fixed_to(corpus):
    data = build(corpus, only=(None, 'test'))
    plain = build(corpus)
    assert all(document in members(data)['test'] for document in range(240, 300))
    assert [document for document in members(plain)['train'] if document < 240] == members(data)['train']
    assert data.texts.corpus.stores[1].folder == plain.texts.corpus.stores[1].folder  # nothing is tokenized anew


def test_what_is_not_set_changes_no_fingerprint_and_leaves_nothing_in_the_cache(corpus, cache):
    data = build(corpus)
    data.prepare_data()
    data.texts.train_examples  # noqa: B018
    assert not (cache / 'splits').exists()
    assert not {'data.group', 'data.stratify', 'data.sources.only'} & {*data.state_dict()['data']['settings']}
    assert data.texts.columns_of(0) == []
    assert {store.manifest['identity']['columns'] == [] for store in data.texts.corpus.stores} == {True}


@pytest.mark.parametrize(
    ('before', 'after', 'change'),
    [
        ({}, {'group': 'author'}, r'data\.group was None, is author'),
        ({'group': 'author'}, {}, r'data\.group was author, is None'),
        (
            {'stratify': 'topic'},
            {'group': 'topic'},
            r'group was None, is topic; data\.stratify was topic, is None',
        ),
        ({}, {'only': (None, 'test')}, r"data\.sources\.only was None, is \[None, 'test'\]"),
    ],
)
def test_a_run_is_not_resumed_with_other_splits_unless_that_is_accepted(corpus, before, after, change):
    data = build(corpus, **before)
    data.prepare_data()
    state = data.state_dict()
    build(corpus, **before).load_state_dict(state)
    with pytest.raises(SettingsError, match=rf'not what the checkpoint was trained on: .*{change}'):
        build(corpus, **after).load_state_dict(state)
    build(corpus, **after, accept_changes=True).load_state_dict(state)


def test_the_same_rows_come_after_a_resume(corpus):
    data = build(corpus, group='author', stratify=None, only=(None, 'test'))
    batches = [batch.ids.tolist() for batch in data.train_dataloader()]
    data.trainer.global_step = 8
    state = data.state_dict()
    resumed = build(corpus, group='author', only=(None, 'test'))
    resumed.trainer.global_step = 8
    resumed.load_state_dict(state)
    assert [batch.ids.tolist() for batch in resumed.train_dataloader()] == batches[8:]


@pytest.mark.parametrize('how', [{'group': 'author'}, {'stratify': 'topic'}, {'only': ('train', None)}])
def test_a_tokenizer_in_the_cache_is_named_by_the_splits_that_it_learns_from(corpus, how):
    plain, other = build(corpus, tokenizer_path=None), build(corpus, tokenizer_path=None, **how)
    assert plain.tokenizer_path != other.tokenizer_path


def test_splits_are_verified_with_the_stores(corpus, cache):
    data = build(corpus, group='author')
    data.texts.train_examples  # noqa: B018
    assert any('rows of train' in line for line in verify(build(corpus, group='author').texts))
    (file,) = (cache / 'splits').rglob('splits.bin')
    file.write_bytes(bytes([3]) + file.read_bytes()[1:])
    with pytest.raises(ValueError, match=r'splits\.bin is not what manifest\.json says'):
        list(verify(build(corpus, group='author').texts))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'group': 'writer'}, r"a\.jsonl,? has no column 'writer'; its columns are text, author, topic"),
        ({'stratify': 'text'}, r"classes in the column 'text' \(data\.stratify\) have too few"),
    ],
)
def test_a_column_that_cannot_divide_is_refused_by_name(corpus, settings, message):
    with pytest.raises(SettingsError, match=message):
        build(corpus, **settings).prepare_data()


def test_what_a_stream_cannot_do_is_refused_by_name(corpus):
    files = str(corpus / '*.jsonl')
    for name in ('group', 'stratify'):
        with pytest.raises(ValueError, match=rf'data\.{name} is set, but a stream keeps no columns'):
            XLabDataModule([Location(files)], stream=Stream(), **{name: 'author'})
    with pytest.raises(ValueError, match=r'fixed to a split \(only: test\), but a stream is trained on'):
        XLabDataModule([Location(files), Location(files, only='test')], stream=Stream())


def test_only_is_refused_where_it_means_nothing(corpus):
    files = str(corpus / '*.jsonl')
    with pytest.raises(ValueError, match=r'data\.held_out: .*fixed to a split \(only: test\), but held-out texts'):
        XLabDataModule([Location(files)], held_out=[Location(files, only='test')])
    source = RemoteFiles('https://host/a.jsonl', only='val')
    source.only = 'dev'
    with pytest.raises(ValueError, match=r"is fixed to the split 'dev' \(only\); the splits are train, val, test"):
        XLabDataModule([source])
    with pytest.raises(ValueError, match=r'data\.group is empty'):
        XLabDataModule([Location(files)], group='')
