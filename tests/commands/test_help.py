"""What `xlab` says before it trains: help, versions, nearest names, a first file of settings."""

import inspect
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xlabml.commands import fit, overview, quiet, setting_help, starter
from xlabml.commands.classes import classes_for
from xlabml.commands.near_names import names_within, nearest
from xlabml.commands.parsing import parse
from xlabml.errors import SettingsError
from xlabml.models import DEFAULT, Task

ROOT = Path(__file__).parents[2]

WITHOUT_TORCH = """
import sys
from xlabml.commands.fit import main
for words in ['--help'], ['--version'], ['init', 'a.txt']:
    assert main(words) == 0, words
for words in [], ['train'], ['--trainer.max_steps=3'], ['init', 'nowhere.txt'], ['init']:
    assert main(words) == 2, words
print([name for name in ('torch', 'lightning', 'jsonargparse', 'numpy', 'yaml') if name in sys.modules])
"""


def test_the_overview_the_versions_and_a_first_file_need_no_torch(tmp_path):
    (tmp_path / 'a.txt').write_text('a')
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_TORCH], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == '[]'
    assert 'Traceback' not in done.stderr
    assert 'xlabml' in done.stdout


def test_the_overview_is_one_screen_with_every_command():
    lines = overview.screen().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    shown = {line.split()[0] for line in lines if line.startswith('  ')}
    assert {*overview.COMMANDS, 'init'} <= shown
    assert set(overview.SHORT) == {*overview.COMMANDS, 'init'}


@pytest.mark.parametrize(
    ('typed', 'meant'),
    [
        ('train', 'did you mean fit?'),
        ('fti', 'did you mean fit?'),
        ('evaluate', 'did you mean test?'),
        ('generate', 'xlab-infer'),
        ('zigzag', 'the commands are fit, validate'),
    ],
)
def test_a_wrong_command_is_refused_with_the_one_that_was_meant(typed, meant):
    with pytest.raises(SettingsError, match=f'there is no command {typed!r}') as caught:
        overview.answer([typed])
    assert meant in str(caught.value)


def test_ctrl_c_while_libraries_load_ends_quietly():
    code = (
        'import os, signal, time\n'
        'from xlabml.commands.quiet import interruptible_imports\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        "with interruptible_imports('xlab'):\n"
        '    os.kill(os.getpid(), signal.SIGINT)\n'
        '    time.sleep(9)\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, timeout=8)
    assert done.returncode == 130
    assert done.stderr == '\nxlab: interrupted\n'


@pytest.mark.parametrize(
    ('door', 'program', 'module'),
    [('xlab.py', 'xlab', 'fit'), ('infer.py', 'xlab-infer', 'infer'), ('manage.py', 'xlab-manage', 'manage')],
)
def test_ctrl_c_is_guarded_before_a_door_imports_its_command(door, program, module):
    code = (
        'import os, runpy, signal, sys, time\n'
        'class Watch:\n'
        '    def find_spec(self, name, *_):\n'
        f"        if name == 'xlabml.commands.{module}':\n"
        "            assert not {'logging', 'argparse', 'torch'} & (set(sys.modules) - known)\n"
        '            os.kill(os.getpid(), signal.SIGINT)\n'
        '            time.sleep(9)\n'
        'sys.meta_path.insert(0, Watch())\n'
        'known = set(sys.modules)\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        f"runpy.run_path({str(ROOT / door)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, timeout=8)
    assert (done.returncode, done.stderr) == (130, f'\n{program}: interrupted\n')


@pytest.mark.parametrize('before', [signal.default_int_handler, signal.SIG_IGN], ids=['listened to', 'ignored'])
def test_after_the_libraries_ctrl_c_is_as_before(before):
    found = signal.signal(signal.SIGINT, before)
    try:
        with quiet.interruptible_imports('xlab'):
            assert (signal.getsignal(signal.SIGINT) is signal.SIG_IGN) == (before is signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, found)


@pytest.fixture(scope='module')
def page():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('COLUMNS', '80')
        yield setting_help.page('fit')


def test_the_help_of_fit_begins_with_what_runs_differ_in(page):
    flags = [line.split()[0] for line in page.splitlines() if line.startswith('  --')]
    assert flags[:4] == ['--data.sources', '--trainer.max_steps', '--data.batch_tokens', '--trainer.precision']
    assert page.startswith('usage: xlab fit ')


def test_the_help_of_fit_has_every_flag_of_ours_and_no_other_librarys_classes(page):
    for flag in (
        '--smoke',
        '--autotune',
        '--folds',
        '--seeds',
        '--import',
        '--debug',
        '--ckpt_path',
        '--init_from',
        '--print_config',
    ):
        assert f'\n  {flag} ' in page, flag
    for flag in ('--data.stratify', '--stopping.every_seconds', '--trainer.compile', '--samples.prompt'):
        assert f'\n  {flag} ' in page, flag
    for other in ('torch.nn', 'lightning.', 'Namespace', 'typing', 'known subclasses'):
        assert other not in page, other
    assert max(map(len, page.splitlines())) <= 80
    assert 'the folder of a run' in ' '.join(page.split())  # of --ckpt_path, in our words


def test_the_help_of_a_group_says_type_default_and_classes_of_its_settings(monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    found = setting_help.answer('fit', ['fit', '--help', 'data'])
    assert found.startswith('data: ')
    assert '\n--data.max_len\n    int, by default 512\n' in found
    assert 'Classes: Chunk, Concat, Pack' in found
    assert '--trainer' not in found
    with pytest.raises(SettingsError, match='the groups of settings are trainer, model, data'):
        setting_help.answer('fit', ['fit', '--help', 'dtaa'])


def test_a_narrow_terminal_has_names_above_their_meanings(monkeypatch):
    monkeypatch.setenv('COLUMNS', '60')
    found = setting_help.page('validate')
    assert max(map(len, found.splitlines())) <= 60
    assert '--smoke' not in found


def test_a_class_that_is_not_named_is_listed():
    for words in (['fit', '--model.help'], ['fit', '--model.help', '--debug'], ['fit', '--help', 'model']):
        found = setting_help.answer('fit', words)
        for name in ('XLabModel', 'MaskedLanguageModel', 'Embedder', 'Classifier'):
            assert f'\n  {name} ' in found, words
    assert 'TokenTask' not in setting_help.answer('fit', ['fit', '--model.help'])
    assert setting_help.answer('fit', ['fit', '--trainer.max_steps', '3']) == ''


def test_the_settings_of_a_class_are_explained_however_deep_it_stands():
    for words in (['fit', '--model.trunk.positions.help=Rotary'], ['fit', '--model.trunk.positions.help', 'Rotary']):
        assert '--model.trunk.positions.base' in setting_help.answer('fit', words)
    assert '\n  ReLU2 ' in setting_help.answer('fit', ['fit', '--model.trunk.activation.help'])
    found = setting_help.answer('fit', ['fit', '--model.help', 'XLabModel'])
    assert '--model.trunk\n' in found
    assert '--model.n_vocab' not in found
    assert 'torch.nn.' not in found
    assert setting_help.answer('fit', ['fit', '--model.optimizer.help', 'torch.optim.SGD']) == ''  # jsonargparse's


def test_abstract_classes_are_no_choices():
    names = classes_for(Task)
    assert 'xlabml.models.XLabModel' in names
    assert not any(inspect.isabstract(cls) for cls in names.values())


KNOWN = ['trainer.max_steps', 'trainer.min_steps', 'data.sources', 'data.max_len', *names_within(DEFAULT, 'model')]


@pytest.mark.parametrize(
    ('typed', 'near'),
    [
        ('lr', ['model.optimizer.adamw_lr', 'model.optimizer.matrix_lr']),
        ('model.optimizer.lr', ['model.optimizer.adamw_lr', 'model.optimizer.matrix_lr']),
        ('max_steps', ['trainer.max_steps']),
        ('trainer.max_step', ['trainer.max_steps']),
        ('model.d_model', ['model.trunk.d_model']),
        ('model.trunk.d_modl', ['model.trunk.d_model']),
        ('data.sorces', ['data.sources']),
        ('zigzag', []),
    ],
)
def test_the_nearest_names(typed, near):
    assert nearest(typed, KNOWN) == near


@pytest.mark.parametrize(
    ('typed', 'meant'),
    [
        (['--lr', '0.1'], '--model.optimizer.adamw_lr or --model.optimizer.matrix_lr?'),
        (['--model.optimizer.lr=0.1'], 'matrix_lr'),
        (['--max_steps=3'], 'did you mean --trainer.max_steps?'),
    ],
)
def test_a_wrong_setting_is_refused_with_those_that_were_meant(typed, meant, capsys):
    assert fit.main(['fit', *typed]) == 2
    printed = capsys.readouterr().err
    assert printed.count('\n') == 1
    assert meant in printed


@pytest.mark.parametrize(
    'typed',
    [
        ['--trainer.logger=WandLogger'],
        ['--trainer.logger={class_path: CSVLogger, init_args: {foo: 1}}'],
        ['--trainer.callbacks=[Foo]'],
        ['--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitr: val_loss}}]'],
    ],
)
def test_a_wrong_logger_or_callback_is_refused_without_types(typed, capsys):
    assert fit.main(['fit', *typed]) == 2
    printed = capsys.readouterr().err
    assert printed.count('\n') == 1
    assert len(printed) < 300
    for word in ('Union', 'Iterable', 'Namespace', 'lightning.pytorch.callbacks.callback', 'typing'):
        assert word not in printed
    assert typed[0].partition('=')[0].removeprefix('--') in printed


def test_a_first_file_has_settings_that_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('a b.txt').write_text('text')
    Path('c.jsonl').write_text('{"text": "x"}')
    assert 'xlab fit -c run.yaml' in starter.run(['a b.txt', 'c.jsonl'])
    values = parse(['fit', '-c', 'run.yaml']).values
    assert [source.init_args.path for source in values.data.sources] == ['a b.txt', 'c.jsonl']
    with pytest.raises(SettingsError, match=r'run.yaml is there already'):
        starter.run([])
    assert 'name your texts' in starter.run(['--output', 'other.yaml'])
    assert 'texts/*.txt' in Path('other.yaml').read_text()


def test_a_shell_completes_commands_and_flags():
    pytest.importorskip('shtab')
    from xlabml.commands import completion

    found = completion.script(['--completion', 'bash'])
    assert '--trainer.max_steps' in found
    assert 'compute_stats' in found
    with pytest.raises(SettingsError, match='invalid choice'):
        completion.script(['--completion', 'nonsense'])


def test_a_string_is_a_path_of_texts_and_a_yaml_file_a_list_of_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('bare.yaml').write_text('data:\n  sources: novel.txt\n')
    Path('list.yaml').write_text('- novel.txt\n- {path: b.csv, column: body}\n')
    for words, paths in ((['-c', 'bare.yaml'], ['novel.txt']), (['--data.sources=list.yaml'], ['novel.txt', 'b.csv'])):
        sources = parse(['fit', *words]).values.data.sources
        assert [source.init_args.path for source in sources] == paths
    assert fit.main(['fit', '--data.sources=nowhere.yaml']) == 2
    assert 'nowhere.yaml' in capsys.readouterr().err
