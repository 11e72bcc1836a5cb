"""A corpus, a tokenizer and a model so small that a run takes a second."""

import contextlib
import json
import os
import random
import shutil
import signal

import pytest

from xlabml.commands import fit
from xlabml.models import XLabModel
from xlabml.tokenizer import train_tokenizer

N_VOCAB = 320


@pytest.fixture(scope='module', autouse=True)
def _unchecked(unchecked):
    """Commands run whole here."""


@pytest.fixture(scope='session')
def texts():
    """Short texts with a little structure to learn."""
    rng = random.Random(0)
    nouns, verbs = ['the cat', 'a dog', 'my horse', 'the sea'], ['sees', 'eats', 'likes', 'fears']
    return [
        '. '.join(f'{rng.choice(nouns)} {rng.choice(verbs)} {rng.choice(nouns)}' for _ in range(rng.randint(1, 6)))
        for _ in range(300)
    ]


@pytest.fixture(scope='session')
def corpus(tmp_path_factory, texts):
    """The texts as a jsonl file, and a tokenizer of them."""
    folder = tmp_path_factory.mktemp('corpus')
    path = folder / 'texts.jsonl'
    path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts), encoding='utf-8')
    train_tokenizer(texts, folder / 'tiny.model', N_VOCAB)
    return folder


@pytest.fixture(scope='session')
def tiny(corpus):
    """The flags of a tiny run on the corpus."""
    return [
        f'--data.sources=[{{path: {corpus}/texts.jsonl}}]',
        f'--data.tokenizer_path={corpus}/tiny.model',
        f'--data.n_vocab={N_VOCAB}',
        '--data.splits={train: 0.8, val: 0.1, test: 0.1}',
        '--data.max_len=32',
        '--data.batch_tokens=128',
        '--model.trunk.d_model=16',
        '--model.trunk.n_layers=2',
        '--model.trunk.n_heads=2',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=12',
        '--trainer.log_every_n_steps=1',
        '--trainer.val_check_interval=6',
        '--samples.n_tokens=8',
    ]


@pytest.fixture(scope='session')
def trained(tiny, tmp_path_factory):
    """A folder with a run of 12 steps, whose checkpoints are of steps 6 and 12."""
    folder = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv('XLABML_CACHE', str(tmp_path_factory.mktemp('cache')))
        assert fit.main(['fit', *tiny, '--checkpoint.save_last_k=2']) == 0
    return folder


@pytest.fixture
def root(trained, tmp_path, monkeypatch):
    """A folder that this run was moved to, in which the test stands."""
    shutil.copytree(trained / 'logs', tmp_path / 'logs')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def xlab(tmp_path, monkeypatch, capfd):
    """Run `xlab` in a folder of its own: the status, and what it printed on both channels."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = fit.main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        return status, printed.out + printed.err

    return run


@pytest.fixture
def interrupted(monkeypatch):
    """Within this, a run gets SIGTERM in a method of its task, once it has made so many steps."""

    @contextlib.contextmanager
    def at(method, step, task=XLabModel):
        call = getattr(task, method)

        def send(model, *arguments):
            if model.trainer.global_step == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return call(model, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(task, method, send)
            yield

    return at
