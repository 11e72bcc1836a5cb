"""What every test runs under: one thread, a cache of its own, no network."""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Tokenizers and stores of a test never meet the user's."""
    monkeypatch.setenv('XLABML_CACHE', str(tmp_path_factory.mktemp('cache')))
