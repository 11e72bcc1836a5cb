"""`fit --init_from`: a new run of any task that begins with the weights, the trunk and the tokenizer of another one."""

import pytest
import torch
import yaml

from xlabml import checkpoints
from xlabml.commands.command_line import without_option
from xlabml.tokenizer import train_tokenizer

STILL = ['--model.optimizer=torch.optim.SGD', '--model.optimizer.lr=0.0', '--trainer.max_steps=1']
MASKED = ['--model=MaskedLanguageModel', '--model.trunk.causal=false', '--data.examples=MaskedTokens']


@pytest.fixture(scope='module')
def source(tmp_path_factory, tiny):
    """The folder of a run of two steps, whose trunk is not the default one."""
    from xlabml.commands import fit

    root = tmp_path_factory.mktemp('source')
    arguments = [*tiny, '--model.trunk.norm=torch.nn.LayerNorm', '--trainer.max_steps=2', '--checkpoint.save_top_k=2']
    assert fit.main(['fit', *arguments, '--checkpoint.every_n_steps=1', f'--trainer.default_root_dir={root}']) == 0
    return root / 'logs/version_0'


@pytest.fixture
def new(corpus, tmp_path):
    """The flags of a new run that says nothing of trunk, longest row and tokenizer, and changes no weight."""
    return [
        f'--data.sources=[{{path: {corpus}/texts.jsonl}}]',
        '--data.splits={train: 0.8, val: 0.1, test: 0.1}',
        '--data.batch_tokens=128',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--samples.n_tokens=0',
        *STILL,
    ]


def newest(root):
    return checkpoints.load(checkpoints.find('last', root))


def test_weights_trunk_longest_row_and_tokenizer_are_taken_over(xlab, source, new, tmp_path):
    status, printed = xlab('fit', *new, f'--init_from={source}')
    assert status == 0, printed
    begun, found = checkpoints.load(checkpoints.find_newest(source / 'checkpoints')), newest(tmp_path)
    assert f'initial weights from {checkpoints.find_best(checkpoints.find_newest(source / "checkpoints"))}: ' in printed
    assert f'{len(begun.weights)} of {len(begun.weights)} tensors loaded\n' in printed
    assert {name: weight.tolist() for name, weight in found.weights.items()} == {
        name: weight.tolist() for name, weight in begun.weights.items()
    }
    trunk = begun.task.arguments['trunk']
    assert found.task.arguments['trunk'] == {**trunk, 'init_args': {**trunk['init_args'], 'shift_width': 3}}
    assert found.tokenizer_bytes() == begun.tokenizer_bytes()
    assert (found.data['max_len'], found.data['n_vocab']) == (32, 320)
    assert (found.step, found.place['step']) == (1, 1)
    saved = yaml.safe_load((tmp_path / 'logs/version_0/config.yaml').read_text())
    assert 'init_from' not in {*saved, *found.task.arguments, *found.data}


@pytest.mark.parametrize('kind', ['newest', 'export', 'folder of checkpoints', 'last'])
def test_any_file_or_run_of_ours_will_do(xlab, source, new, tmp_path, kind):
    path = checkpoints.find_newest(source / 'checkpoints')
    asked = {'newest': path, 'folder of checkpoints': path.parent, 'last': 'last'}.get(kind)
    root = []
    if kind == 'export':
        asked = checkpoints.export(path, tmp_path / 'x.safetensors').path
    elif kind == 'last':
        root = [f'--trainer.default_root_dir={source.parent.parent}']
    status, printed = xlab('fit', *new, f'--init_from={asked}', *root, '--trainer.fast_dev_run=true')
    assert status == 0, printed
    assert 'tensors loaded' in printed


def test_what_is_typed_counts_more_and_what_is_new_or_unused_is_said(xlab, source, new, tmp_path):
    typed = ['--model.trunk.n_layers=1', '--model.trunk.dropout=0.25', '--model.tied=false', '--data.max_len=16']
    status, printed = xlab('fit', *new, f'--init_from={source}', *typed)
    assert status == 0, printed
    trunk = newest(tmp_path).task.arguments['trunk']['init_args']
    assert (trunk['n_layers'], trunk['dropout'], trunk['d_model']) == (1, 0.25, 16)
    line = next(line for line in printed.splitlines() if line.startswith('initial weights'))
    assert '; new: head_weight; unused: network.trunk.blocks.1.' in line


def test_another_task_takes_the_network_and_decides_what_it_attends_to(xlab, source, new, tmp_path):
    status, printed = xlab('fit', *MASKED, *new, f'--init_from={source}')
    assert status == 0, printed
    begun, found = checkpoints.load(checkpoints.find_newest(source / 'checkpoints')), newest(tmp_path)
    assert found.task.class_path == 'xlabml.models.MaskedLanguageModel'
    assert found.task.arguments['trunk']['init_args']['causal'] is False
    assert found.task.arguments['trunk']['init_args']['norm'] == begun.task.arguments['trunk']['init_args']['norm']
    assert all(torch.equal(found.weights[name], weight) for name, weight in begun.weights.items())
    status, printed = xlab('fit', *new, '--init_from=last')  # and back again: nobody says that a trunk is causal
    assert status == 0, printed
    assert newest(tmp_path).task.arguments['trunk']['init_args']['causal'] is True


def test_with_another_tokenizer_what_has_a_row_a_token_is_new(xlab, source, new, texts, tmp_path):
    path = tmp_path / 'other.model'
    train_tokenizer([*texts[:40], 'other words altogether ' * 9], path, 320)
    status, printed = xlab('fit', *new, f'--init_from={source}', f'--data.tokenizer_path={path}', '--data.n_vocab=320')
    assert status == 0, printed
    assert 'new: trunk.embedding.weight; unused: network.trunk.embedding.weight; the tokenizer is another' in printed
    begun, found = checkpoints.load(checkpoints.find_newest(source / 'checkpoints')), newest(tmp_path)
    same = {name for name, weight in begun.weights.items() if torch.equal(found.weights[name], weight)}
    assert set(begun.weights) - same == {'network.trunk.embedding.weight'}


@pytest.mark.parametrize(('typed', 'message'), [
    (['--model.trunk.d_model=32'], 'trunk.embedding.weight has shape (320, 16) there and (320, 32) here; leave'),
    (['--ckpt_path=there.ckpt'], '--init_from starts a new run and --ckpt_path there.ckpt resumes one; give one of'),
    (['--init_from=nothing'], 'there is no checkpoint nothing'),
])  # fmt: skip
def test_what_does_not_go_together_is_refused_before_anything_is_written(xlab, source, new, tmp_path, typed, message):
    status, printed = xlab('fit', *new, f'--init_from={source}', *typed)
    assert status == 2
    assert message in printed
    assert not (tmp_path / 'logs').exists()


def test_a_requeued_command_resumes_its_own_run(xlab, source, new, tmp_path):
    command = ['fit', *new, f'--init_from={source}', '--ckpt_path=last']
    status, printed = xlab(*command)
    assert status == 0, printed
    assert 'tensors loaded' in printed
    status, printed = xlab(*command, '--trainer.max_steps=2')
    assert status == 0, printed
    assert 'resuming from' in printed
    assert 'tensors loaded' not in printed
    assert newest(tmp_path).step == 2
    assert [path.name for path in (tmp_path / 'logs').iterdir()] == ['version_0']


def test_smoke_tries_a_run_that_begins_with_another_one(xlab, source, new, tmp_path):
    status, printed = xlab('fit', '--smoke', *new, f'--init_from={source}')
    assert status == 0, printed
    (line,) = [line for line in printed.splitlines() if line.startswith('smoke:')]
    assert line.startswith('smoke: 4 steps, validated, saved, resumed, tested')
    assert not (tmp_path / 'logs').exists()
    status, printed = xlab('fit', '--smoke', *new, f'--init_from={source}', '--model.trunk.d_model=32')
    assert status == 2
    assert 'trunk.embedding.weight has shape (320, 16) there and (320, 32) here' in printed  # they are loaded there too


def test_a_file_that_names_what_is_not_trusted_is_refused(xlab, source, new, tmp_path):
    checkpoint = checkpoints.read(checkpoints.find_newest(source / 'checkpoints'))
    checkpoint['network']['init_args']['trunk'] = {'class_path': 'os.system', 'init_args': {}}
    checkpoints.write(checkpoint, tmp_path / 'evil.ckpt')
    status, printed = xlab('fit', *new, f'--init_from={tmp_path}/evil.ckpt')
    assert status != 0
    assert 'os.system is not a class of xlabml' in printed
    assert 'evil.ckpt' in printed


def test_commands_that_resume_are_typed_without_it():
    typed = ['fit', '--init_from', 'x', '--data.max_len=9', '--init_from=y']
    assert without_option(typed, '--init_from') == ['fit', '--data.max_len=9']
