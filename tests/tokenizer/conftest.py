"""A small tokenizer, trained once."""

import pytest

from xlabml.tokenizer import train_tokenizer

TEXTS = [
    'The cat sat on the mat, and the dog sat on the cat.\nThen they all went home.\r\n',
    'def add(a, b):\n    return a + b  # <sos> <0xE2> <mask>\n',
    'En été, les élèves rêvent; où vont-ils?  12345 67890\t42',
    'Καλημέρα κόσμε, 今日は世界',
]


@pytest.fixture(scope='session')
def prose():
    return TEXTS


@pytest.fixture(scope='session')
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS * 20, tmp_path_factory.mktemp('tokenizer') / 'small.model', 400, coverage=1.0)
