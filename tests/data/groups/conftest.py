"""Records in roles, as stores and examples: made of plain Python values in a test."""

import json

import pytest

from xlabml.data import Corpus, Location, Pack, Reading, prepare_store
from xlabml.data.groups import TextGroups


@pytest.fixture
def make_corpus(tmp_path, tokenizer):
    """Records of one or more sources -> the corpus of a format."""

    def make(form, *sources, ratios=None):
        stores = []
        for i, records in enumerate(sources):
            path = tmp_path / f'{len(list(tmp_path.iterdir()))}-{i}.jsonl'
            path.write_text('\n'.join(map(json.dumps, records)))
            source = form.source(Location(str(path)))
            stores.append(prepare_store(source, tokenizer, tmp_path / f'{path.stem}-store', form.columns))
        return Corpus(stores, ratios or {'train': 1.0})

    return make


@pytest.fixture
def make_reading(tmp_path, tokenizer):
    def make(max_len=32, n_groups=4, device_tokens=None):
        return Reading(tokenizer, Pack(max_len), tmp_path / 'plans', 0, n_groups, device_tokens)

    return make


@pytest.fixture
def make_groups(make_corpus, make_reading):
    """Records of one or more sources -> the examples of a format."""

    def make(form, *sources, **reading):
        return form.examples(make_corpus(form, *sources), 'train', 'train', 0, make_reading(**reading))

    return make


@pytest.fixture
def triplets():
    return TextGroups({'anchor': 'query', 'positive': 'pos', 'negatives': 'neg'})
