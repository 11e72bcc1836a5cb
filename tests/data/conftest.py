"""A tiny corpus in files, a tokenizer for it, and its stores: made once."""

import json
import random

import pytest

from xlabml.data import Corpus, Location, prepare_store
from xlabml.tokenizer import train_tokenizer

PROSE = 'the a cat dog été sat on mat ran far away über 12 days, then 世界 slept.\n and \u2581 was happy'
SPLITS = {'train': 0.8, 'val': 0.1, 'test': 0.1, 'predict': 0.0}


@pytest.fixture(scope='session')
def texts():
    draw = random.Random(0)
    return [f'{i}: ' + ' '.join(draw.choices(PROSE.split(' '), k=draw.randrange(60))) for i in range(300)]


@pytest.fixture(scope='session')
def write_jsonl():
    def write(path, texts):
        rows = [{'text': text, 'label': i % 3, 'title': f'title {i}'} for i, text in enumerate(texts)]
        path.write_text('\n'.join(map(json.dumps, rows)))
        return Location(str(path))

    return write


@pytest.fixture(scope='session')
def source(tmp_path_factory, texts, write_jsonl):
    return write_jsonl(tmp_path_factory.mktemp('source') / 'texts.jsonl', texts)


@pytest.fixture(scope='session')
def tokenizer(tmp_path_factory, texts):
    return train_tokenizer(texts, tmp_path_factory.mktemp('tokenizer') / 'data.model', 350)


@pytest.fixture(scope='session')
def store(tmp_path_factory, source, tokenizer):
    return prepare_store(source, tokenizer, tmp_path_factory.mktemp('stores') / 'one', ['label', 'title'])


@pytest.fixture(scope='session')
def corpus(store):
    return Corpus([store], SPLITS)


@pytest.fixture(scope='session')
def two_stores(tmp_path_factory, texts, tokenizer, write_jsonl):
    """The same texts in two sources."""
    folder = tmp_path_factory.mktemp('two')
    parts = {'first': texts[:120], 'second': texts[120:]}
    return Corpus(
        [
            prepare_store(write_jsonl(folder / f'{name}.jsonl', part), tokenizer, folder / name)
            for name, part in parts.items()
        ],
        SPLITS,
    )
