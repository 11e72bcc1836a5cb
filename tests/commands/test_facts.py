"""What only the data tells is found between parse and build: asked of the format, filled in, said, saved."""

import contextlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from own_tasks import Topical

from xlabml import checkpoints
from xlabml.commands.errors import UsageError
from xlabml.commands.opening import open_data
from xlabml.commands.parsing import parse
from xlabml.commands.resolving import resolve
from xlabml.commands.running import prepare

PAGE = Path(__file__).parents[2] / 'docs' / 'extending.md'


@pytest.fixture
def topics(tmp_path, monkeypatch, texts):
    """Flags of a run over texts of three topics; the format is that of docs/extending.md."""
    (block,) = re.findall(r'```py\n(.*?)```', PAGE.read_text('utf-8'), re.DOTALL)
    (tmp_path / 'topics_of_the_page.py').write_text(block, 'utf-8')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('XLABML_CACHE', str(tmp_path / 'cache'))
    rows = [{'text': text, 'topic': 'cba'[i % 3]} for i, text in enumerate(texts)]
    (tmp_path / 'topics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    return [
        f'--data.sources=[{{path: {tmp_path}/topics.jsonl}}]',
        '--data.examples=topics_of_the_page.Topics',
        '--data.stratify=topic',
        '--data.n_vocab=320',
        '--data.max_len=32',
        '--data.batch_tokens=64',
        '--model=own_tasks.Topical',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=2',
        '--trainer.log_every_n_steps=1',
        '--trainer.val_check_interval=2',
    ]


def prepared(*arguments):
    with contextlib.ExitStack() as opened:
        return prepare(parse(arguments), opened)


def test_arguments_that_are_null_become_facts_of_the_train_split(topics, capsys):
    given = parse(['fit', *topics])
    found, data = prepared('fit', *topics)
    assert found.values.model.init_args.n_classes == 3
    assert found.values.data.examples.init_args.classes == ['a', 'b', 'c']
    assert data.examples.classes == ['a', 'b', 'c']  # the data is opened again with what was found
    assert found.facts == {'classes': ['a', 'b', 'c'], 'n_classes': 3}
    printed = capsys.readouterr().out.splitlines()
    assert 'model.n_classes 3, found in the data' in printed
    assert 'data.examples.classes ["a", "b", "c"], found in the data' in printed
    assert given.values.model.init_args.n_classes is None


def test_what_is_set_opens_nothing(topics, tmp_path):
    typed = ['--model.n_classes=7', '--data.examples.classes=[x]']
    found, data = prepared('fit', *topics, *typed)
    assert (found.values.model.init_args.n_classes, data.examples.classes, found.facts) == (7, ['x'], {})
    assert not (tmp_path / 'cache').exists()
    assert prepared('prepare_data', *topics)[0].values.model.init_args.n_classes is None
    assert not (tmp_path / 'cache').exists()


def test_what_no_fact_fills_in_is_refused_by_name(topics):
    given = parse(['fit', *topics, '--data.examples=NextTokens'])
    with pytest.raises(UsageError, match=r'model\.n_classes is not set, and NextTokens does not find it in the data'):
        resolve(given, open_data(given))


def test_a_part_of_a_stream_tells_nothing(topics):
    given = parse(['fit', *topics, '--data.stream={}', '--data.stratify=null'])
    with pytest.raises(UsageError, match=r'model\.n_classes is not set, and with data\.stream no run knows all'):
        resolve(given, open_data(given))


def test_an_address_that_only_a_checkpoint_names_is_checked_before_it_is_opened(topics):
    remote = '--data.sources=[{class_path: RemoteFiles, init_args: {path: "ftp://host/a.jsonl"}}]'
    given = parse(['fit', *topics, remote])
    data = open_data(given)
    data.named_by = 'some.ckpt'
    with pytest.raises(ValueError, match=r"some\.ckpt names 'ftp://host/a\.jsonl' as a source"):
        resolve(given, data)


def test_facts_are_saved_and_a_resumed_run_has_them(topics, xlab, tmp_path):
    status, printed = xlab('fit', *topics)
    assert status == 0, printed
    config = yaml.safe_load((tmp_path / 'logs/version_0/config.yaml').read_text('utf-8'))
    assert config['model']['init_args']['n_classes'] == 3
    assert config['data']['examples']['init_args']['classes'] == ['a', 'b', 'c']
    path = checkpoints.find('last', tmp_path)
    facts = {'classes': ['a', 'b', 'c'], 'n_classes': 3, 'half': 1.5}
    assert checkpoints.load(path).facts == facts
    task = Topical.load_from_checkpoint(path)
    assert task.facts == facts
    assert task.topics.shape == (3,)
    torch.manual_seed(1)
    with contextlib.chdir(tmp_path):
        status, printed = xlab('fit', *topics, '--trainer.max_steps=4', '--ckpt_path=last')
    assert status == 0, printed
    assert 'found in the data' not in printed  # the checkpoint's settings have them
    assert checkpoints.load(checkpoints.find('last', tmp_path)).facts == facts
    export = checkpoints.export(path, tmp_path / 'topics.safetensors')
    assert checkpoints.load(export.path).facts == facts
