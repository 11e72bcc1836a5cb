"""What every test runs under: one thread, a cache of its own, no network."""

import gc
import os
import re
import sys

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import jaxtyping
import pytest

if not re.search(r'-n ?[1-9]', ' '.join(sys.argv)):  # all processes but the one that only hands tests out
    # jaxtyping names bytecode files of its own: what our modules import would be compiled anew in each process, for
    # seconds, were it not imported before them.
    import lightning.pytorch.cli  # noqa: F401


@pytest.fixture(autouse=True)
def _small_heap():
    """A run collects garbage once: that looks through what its test made, not through half a million objects of pytest,
    torch and Lightning, which takes .25 s and more."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Tokenizers and stores of a test never meet the user's."""
    monkeypatch.setenv('XLABML_CACHE', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture(scope='module')
def unchecked():
    """Whole commands do without the checks of shapes and types at each call, a third of the time of a tiny run.

    The tests of each room make them, and a command that runs in a process of its own has none either.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
        yield


def pytest_make_parametrize_id(val, argname):
    """Bytes name no test: what is compressed holds the time of day, and two workers would collect different tests."""
    return argname if isinstance(val, bytes) else None
