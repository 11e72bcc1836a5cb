"""Records that are read as rows and as groups, in one data module."""

import json
from functools import partial

import pytest

from xlabml.data import FormatMixture, Location, NextTokens, TextGroups
from xlabml.data.rows import MaskedTokens
from xlabml.datamodules import XLabDataModule
from xlabml.tokenizer import train_tokenizer

PAIRS = partial(TextGroups, {'anchor': 'q', 'positive': 'text'})


@pytest.fixture(scope='session')
def records_file(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp('mixed') / 'records.jsonl'
    rows = [{'text': f'{text}.', 'q': f'query {i}', 'title': f't{i}'} for i, text in enumerate(texts)]
    path.write_text('\n'.join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope='session')
def tokenizer_file(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp('mixed-tokenizer') / 'data.model'
    train_tokenizer(texts, path, 350)
    return path


@pytest.fixture(scope='session')
def mixed_cache(tmp_path_factory):
    return tmp_path_factory.mktemp('mixed-cache')


@pytest.fixture
def make_data(records_file, tokenizer_file, mixed_cache, monkeypatch):
    """A data module of rows with next tokens, rows with masked tokens and pairs, over one file."""
    monkeypatch.setenv('XLABML_CACHE', str(mixed_cache))

    def make(formats=(NextTokens, MaskedTokens, PAIRS), weights=None, reads=((0,), (0,), (1,)), **settings):
        n_sources = 1 + max(source for some in reads for source in some)
        return XLabDataModule(
            **{
                'sources': [Location(str(records_file)) for _ in range(n_sources)],
                'group': 'title',
                'examples': lambda: FormatMixture(list(formats), weights, list(map(list, reads))),
                'tokenizer_path': str(tokenizer_file),
                'n_vocab': 350,
                'max_len': 32,
                'batch_tokens': 64,
                'batch_groups': 12,
                **settings,
            }
        )

    return make
