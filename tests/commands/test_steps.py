"""parse, resolve, build, run: each step does its own part, and settings are changed by functions."""

import ast
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningCLI

from xlabml import checkpoints
from xlabml.commands import autotune, cli, smoke
from xlabml.commands.command_line import files_first, sets_model
from xlabml.commands.errors import UsageError
from xlabml.commands.files import read_settings
from xlabml.commands.groups import CALLBACKS, GROUPS
from xlabml.commands.opening import open_data
from xlabml.commands.parsing import make_parsers, parse
from xlabml.commands.resolving import resolve
from xlabml.data import Location
from xlabml.engine import auto_precision
from xlabml.models import DEFAULT, XLabModel

ROOM = Path(cli.__file__).parent


@pytest.mark.parametrize('group', GROUPS)
def test_a_file_says_by_name_which_group_holds_no_settings(group, tmp_path):
    path = tmp_path / 'bad.yaml'
    path.write_text(f'{group}: 5\n')
    with pytest.raises(UsageError, match=rf'{group} in .*bad.yaml is 5; it must hold settings'):
        read_settings(path)


def test_the_parser_knows_the_listed_groups_and_no_others():
    parser = make_parsers(()).main
    found = {name for name, value in vars(parser.get_defaults()).items() if isinstance(value, Namespace)}
    assert found == set(GROUPS)
    assert parser.callback_keys == list(CALLBACKS)


def test_one_class_of_lightnings_is_left_with_three_steps_of_its_own():
    assert cli.XLabCLI.__bases__ == (LightningCLI,)
    assert not cli.XLabCLI.__subclasses__()
    own = {name for name in vars(cli.XLabCLI) if not name.startswith('__') and hasattr(LightningCLI, name)}
    assert own == {'setup_parser', 'parse_arguments', 'instantiate_classes'}


def test_no_file_of_the_commands_imports_one_that_imports_it():
    imports = {
        path.stem: {
            node.module or alias.name
            for node in ast.walk(ast.parse(path.read_text('utf-8')))
            if isinstance(node, ast.ImportFrom) and node.level == 1
            for alias in node.names
        }
        for path in ROOM.glob('*.py')
    }

    def reach(name, seen=()):
        assert name not in seen, [*seen, name]
        for other in imports[name]:
            reach(other, (*seen, name))

    for name in imports:
        reach(name)


def test_the_commands_name_no_task_and_none_of_its_figures():
    for path in ROOM.glob('*.py'):
        for word in ('XLabModel', 'Masked', 'nats', 'bits', 'accuracy'):
            assert word not in path.read_text('utf-8'), (path.name, word)


def test_parsing_opens_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = parse(['fit', '--ckpt_path=nowhere.ckpt', '--data.sources=[{path: nowhere.jsonl}]', '--autotune'])
    assert (found.command, found.autotunes, found.resumed) == ('fit', True, None)
    assert found.values.model.class_path == f'xlabml.models.{DEFAULT.__name__}'
    assert found.values.trainer.precision == found.values.checkpoint.monitor == 'auto'
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ('typed', 'is_said'),
    [
        (['--model=XLabModel'], True),
        (['--model', 'XLabModel'], True),
        (['--model.tied=false'], True),
        (['-c', 'task.yaml'], True),
        (['-cdata.yaml'], False),
        (['--modelling=1', '--data.max_len=32'], False),
    ],
)
def test_a_line_says_which_task_it_is_for_by_a_flag_or_a_file(typed, is_said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('task.yaml').write_text('model: {tied: true}\n')
    Path('data.yaml').write_text('data: {max_len: 32}\n')
    assert sets_model(files_first(['test', *typed])) == is_said


def test_what_is_auto_is_resolved_in_other_settings():
    given = parse(['fit', '--trainer.accelerator=cpu', '--model=own_tasks.Unigrams'])
    found = resolve(given, open_data(given))
    assert found.values.trainer.precision == auto_precision('cpu')
    assert (found.values.checkpoint.monitor, found.values.checkpoint.mode) == ('val_correct', 'max')
    assert given.values.trainer.precision == given.values.checkpoint.monitor == 'auto'


def test_what_is_set_is_left_as_it_is():
    typed = ['--trainer.precision=64-true', '--checkpoint.monitor=val_accuracy', '--checkpoint.mode=max']
    given = parse(['fit', *typed])
    assert resolve(given, open_data(given)).values == given.values


def test_autotune_is_a_function_of_settings(monkeypatch):
    monkeypatch.setattr(autotune, 'tune', lambda values: 2 * values['data']['max_len'])
    given = parse(['fit', '--autotune', '--data.max_len=64', '--data.batch_tokens=256'])
    found = autotune.autotune(given)
    assert found.values.data.device_batch_tokens == 128
    assert given.values.data.device_batch_tokens is None
    assert found.changed({'data.device_batch_tokens': None}).values == given.values


def test_smoke_turns_settings_into_runs_before_any_is_made(tiny, tmp_path):
    given = parse(['fit', *tiny, '--trainer.max_steps=3', '--trainer.devices=7', '--model.trunk.dropout=0.5'])
    parts, note = smoke.smoke_parts(given, tmp_path, None)
    assert [(part.name, part.settings.command, part.n_steps) for part in parts] == [
        ('train', 'fit', 2),
        ('resume', 'fit', 4),
        ('test', 'test', 0),
        ('predict', 'predict', 0),
    ]
    assert note == ''
    for part in parts:
        values = part.settings.values
        assert values.data.sources[0].init_args.path == str(tmp_path / 'source-0.jsonl')
        assert values.model.init_args.trunk.init_args.dropout == 0.5
        assert (values.trainer.max_steps, values.trainer.devices, values.trainer.max_time) == (4, '1', None)
        assert isinstance(values.trainer.limit_val_batches, int)  # 1.0 would be all of them
        assert isinstance(values.trainer.val_check_interval, int)
        assert (values.trainer.profiler, values.checkpoint.folder, values.trainer.logger) == (None, None, True)
        assert values.ckpt_path == (None if part.name == 'train' else 'last')
    assert {path.name for path in tmp_path.iterdir()} == {'source-0.jsonl'}


def test_from_python_objects_are_built_and_nothing_is_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = cli.XLabCLI(tiny, run=False)
    assert isinstance(found.model, XLabModel)
    assert (found.trainer.max_steps, found.trainer.global_step) == (12, 0)
    assert isinstance(found.datamodule.sources[0], Location)
    assert not [*tmp_path.iterdir()]
    same = cli.XLabCLI({'data': {'max_len': 64}, 'trainer': {'accelerator': 'cpu'}}, run=False)
    assert (same.datamodule.max_len, same.model.hparams['max_len']) == (64, 64)


def test_a_task_that_takes_no_argument_of_the_data_runs_like_any_other(xlab, tiny, tmp_path):
    own = ['--model=own_tasks.Unigrams', *(flag for flag in tiny if not flag.startswith('--model.'))]
    status, printed = xlab('fit', *own)
    assert status == 0, printed
    assert 'val_correct' in printed
    path = checkpoints.find('last', tmp_path)
    assert checkpoints.read(path)['hyper_parameters']['size'] == 320
    config = yaml.safe_load((tmp_path / 'logs/version_0/config.yaml').read_text())
    assert (config['checkpoint']['monitor'], config['checkpoint']['mode']) == ('val_correct', 'max')
    assert 'n_vocab' not in config['model']['init_args']
    status, printed = xlab('fit', *own, '--trainer.max_steps=14', '--ckpt_path=last')
    assert status == 0, printed
    status, printed = xlab('test', '--model=own_tasks.Unigrams', '--ckpt_path=last')
    assert status == 0, printed
    assert 'test: loss' in printed


def test_a_task_for_other_targets_is_refused_before_anything_is_read(xlab, tmp_path):
    typed = ['--model=own_tasks.Labels', '--data.sources=[{path: nowhere.jsonl}]']
    status, printed = xlab('fit', *typed)
    assert status == 2, printed
    assert 'data.examples is NextTokens, which yields TokenTargets, but Labels trains on ClassTargets' in printed
    assert not [*tmp_path.iterdir()]
    assert 'nowhere.jsonl' in xlab('prepare_data', *typed)[1]  # of data alone no task is asked


@pytest.mark.parametrize(
    ('task', 'is_sampled'),
    [('own_tasks.Renamed', True), pytest.param('own_tasks.Unigrams', False, marks=pytest.mark.slow)],
)
def test_smoke_generates_with_every_task_that_says_it_does(xlab, tiny, task, is_sampled):
    flags = tiny if is_sampled else [flag for flag in tiny if not flag.startswith('--model.')]
    status, printed = xlab('fit', '--smoke', f'--model={task}', *flags)
    assert status == 0, printed
    (line,) = [line for line in printed.splitlines() if line.startswith('smoke:')]
    assert (', sampled ' in line) == is_sampled
    assert ('documents scored' in line) == is_sampled


@pytest.mark.parametrize(
    ('typed', 'found'),
    [
        (['--data.sources', 'novel.txt'], ['novel.txt']),
        (['--data.sources=*.txt', '--data.sources', 'b c.jsonl'], ['*.txt', 'b c.jsonl']),
        (['--data.sources=[{path: a, column: body}, b.txt]'], ['a', 'b.txt']),
        (['--data.sources=WikipediaLeads', '--data.sources=texts'], [None, 'texts']),
        (['--data={sources: [xlabml.data.WikipediaLeads, novel.txt]}'], [None, 'novel.txt']),
        (['--data.sources=a.txt', '--data.sources=[{path: b.txt}]'], ['b.txt']),
    ],
)
def test_paths_stand_for_sources(typed, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('novel.txt').write_text('It was a dark night. ' * 60_000)  # longer than settings may be
    sources = parse(['fit', *typed]).values.data.sources
    assert [source.init_args.get('path') for source in sources] == found
