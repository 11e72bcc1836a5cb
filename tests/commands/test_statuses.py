"""What a command ends with: 2 where what was typed has to change, 1 where something else has, for all commands alike.

And how an error reads: on one line, nothing in it that a terminal obeys, no value without an end.
"""

import json
import os
from pathlib import Path

import pytest

from xlabml.commands import errors, fit, infer, manage

RUN = ('fit', 'validate', 'test', 'predict')
DATA = ('prepare_data', 'validate_data', 'train_tokenizer', 'compute_stats')
XLAB = (*RUN, *DATA)
OF_CHECKPOINTS = ('validate', 'test', 'predict', 'fit', 'infer', 'export-checkpoint')
TOOLS = ('infer', 'export-checkpoint', 'describe')
HOSTILE = 'a\x1b[31m\r\nxlab: all is well \u202eb'
SHOWN = r'a\x1b[31m\r\nxlab: all is well \u202eb'


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
    """A run of two steps, files that are no checkpoints, and texts of several kinds."""
    folder = tmp_path_factory.mktemp('statuses')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = [flag for flag in tiny if 'max_steps' not in flag and 'val_check' not in flag]
        assert fit.main(['fit', *arguments, '--trainer.max_steps=2', '--trainer.val_check_interval=1']) == 0
    (checkpoint,) = (path for path in folder.rglob('step=0000002*.ckpt'))
    data = checkpoint.read_bytes()
    (folder / 'cut.ckpt').write_bytes(data[: len(data) // 2])
    (folder / 'flipped.ckpt').write_bytes(b'PK\x03\x04' + data[4:2000] + b'\xff' * 2000 + data[4000:])
    (folder / 'empty.ckpt').write_bytes(b'')
    (folder / 'words.ckpt').write_text('no checkpoint at all')
    (folder / 'good.ckpt').write_bytes(data)
    (folder / 'empty.jsonl').write_text('')
    (folder / 'broken.jsonl').write_text('{"text": "fine"}\n{"text": ')
    (folder / 'blank.jsonl').write_text('{"text": ""}\n' * 3)
    (folder / 'there.txt').write_text('x')
    (folder / 'nothing').mkdir()
    (folder / 'words.yaml').write_text('just words')
    (folder / 'open.yaml').write_text('data: {max_len: 3')
    (folder / HOSTILE.replace('/', '')).write_text('x')
    return folder


@pytest.fixture
def run(folder, tiny, monkeypatch, capfd):
    """Run a command as it is typed; its status, and the one message that it ends with."""
    monkeypatch.chdir(folder)

    def call(command, *arguments):
        arguments = [str(argument) for argument in arguments]
        if command in XLAB:
            status = fit.main([command, *arguments])
        elif command == 'infer':
            status = infer.main(arguments)
        else:
            status = manage.main([command, *arguments])
        printed = capfd.readouterr().err
        assert 'Traceback' not in printed
        lines = [line for line in printed.splitlines() if line.startswith(('xlab: ', 'xlab-infer: ', 'xlab-manage: '))]
        assert len(lines) == (status != 0), printed
        return status, printed

    return call


def _evaluated(command, checkpoint):
    """How a command is told a checkpoint."""
    if command in RUN:
        return [f'--ckpt_path={checkpoint}', '--trainer.accelerator=cpu']
    return [checkpoint, 'the cat', '-l', '2'] if command == 'infer' else [checkpoint]


@pytest.mark.parametrize('command', [*XLAB, *TOOLS])
def test_a_flag_that_there_is_not_ends_with_2(run, command):
    status, printed = run(command, '--no_such_flag=1')
    assert status == 2, printed


@pytest.mark.parametrize('command', [*XLAB, *TOOLS])
def test_a_module_that_there_is_not_ends_with_2(run, command):
    more = [] if command in XLAB else ['x', *(['the cat'] if command == 'infer' else [])]
    status, printed = run(command, *more, '--import=no_such_module')
    assert status == 2, printed
    assert "cannot import 'no_such_module'" in printed


@pytest.mark.parametrize('command', XLAB)
@pytest.mark.parametrize(
    'arguments',
    [
        ['--data.max_len=many'],
        ['--data.max_len=-1'],
        ['--data.max_len'],
        ['-c', 'no_such.yaml'],
        ['-c', 'words.yaml'],
        ['-c', 'open.yaml'],
        ['-c', '.'],
        ['-c'],
        ['too', 'many'],
    ],
    ids=' '.join,
)
def test_settings_that_are_wrong_end_with_2(run, command, arguments):
    status, printed = run(command, *arguments)
    assert status == 2, printed


@pytest.mark.parametrize('main', [fit.main, infer.main, manage.main])
@pytest.mark.parametrize('arguments', [[], ['no-such-command'], ['--no_such_flag']], ids=str)
def test_no_command_or_another_ends_with_2(folder, monkeypatch, capfd, main, arguments):
    monkeypatch.chdir(folder)
    assert main(arguments) == 2
    printed = capfd.readouterr()
    if main is fit.main and not arguments:
        assert printed.out.startswith('usage: xlab COMMAND')
    else:
        assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize('command', OF_CHECKPOINTS)
@pytest.mark.parametrize('name', ['no_such.ckpt', 'nothing', 'no_such/last.ckpt', 'good.ckpt/a.ckpt', 'there.txt/last'])
def test_a_checkpoint_that_there_is_not_ends_with_2(run, command, name):
    status, printed = run(command, *_evaluated(command, name))
    assert status == 2, printed


@pytest.mark.parametrize('command', ['validate', 'test', 'predict', 'infer', 'export-checkpoint', 'describe'])
@pytest.mark.parametrize('name', ['last', 'best'])
def test_no_run_below_this_folder_ends_with_2(run, command, name, tmp_path, monkeypatch):
    if (command, name) != ('describe', 'best'):
        monkeypatch.chdir(tmp_path)
        assert run(command, *_evaluated(command, name))[0] == 2


@pytest.mark.parametrize('command', OF_CHECKPOINTS)
@pytest.mark.parametrize('name', ['cut.ckpt', 'flipped.ckpt', 'empty.ckpt', 'words.ckpt'])
def test_a_file_that_is_damaged_or_something_else_ends_with_1(run, command, name):
    status, printed = run(command, *_evaluated(command, name))
    assert status == 1, printed
    assert name in printed


@pytest.mark.parametrize('command', XLAB)
@pytest.mark.parametrize(
    ('path', 'expected'),
    [('no_such.jsonl', 2), ('no_such/*.jsonl', 2), ('empty.jsonl', 1), ('broken.jsonl', 1)],
)
def test_sources_that_are_missing_end_with_2_and_broken_ones_with_1(run, command, path, expected):
    evaluates = command in ('validate', 'test', 'predict')
    more = _evaluated(command, 'good.ckpt') if evaluates else ['--data.n_vocab=300']
    status, printed = run(command, f'--data.sources=[{{path: {path}}}]', *more)
    assert status == expected, printed


@pytest.mark.parametrize('command', ['fit', 'prepare_data', 'train_tokenizer', 'compute_stats'])
def test_data_without_texts_ends_with_1(run, command):
    status, printed = run(command, '--data.sources=[{path: blank.jsonl}]', '--data.n_vocab=300')
    assert status == 1, printed


@pytest.mark.skipif(os.geteuid() == 0, reason='everything can be read by root')
@pytest.mark.parametrize('command', ['fit', 'prepare_data'])
def test_a_folder_that_may_not_be_read_ends_with_1(run, command, folder):
    (folder / 'closed').mkdir(mode=0)
    assert run(command, '--data.sources=[{path: closed}]')[0] == 1


@pytest.mark.parametrize(
    'setting',
    [
        '--data.n_vocab=400',
        '--data.device_batch_tokens=96',
        '--data.max_len=100000',
        '--trainer.limit_train_batches=5',
        '--trainer.accumulate_grad_batches=2',
        '--data.splits={train: 0, val: 0.9, test: 0.1}',
        '--data.weights=[0]',
        '--data.sources=[{path: texts.jsonl, column: words}]',
        '--trainer.max_epochs=1',
        '--trainer.devices=0',
        '--model.optimizer.betas=[2, 2]',
        '--model=NoSuchModel',
        '--model=xlabml.models.NoSuchModel',
        '--trainer.callbacks=[{class_path: NoSuchCallback}]',
        '--checkpoint.monitor=no_such',
        '--model.trunk.n_heads=3',
    ],
)
def test_a_setting_that_does_not_fit_the_rest_ends_with_2(run, tiny, corpus, setting):
    setting = setting.replace('texts.jsonl', f'{corpus}/texts.jsonl')
    more = ['--data.batch_tokens=100000'] if '100000' in setting else []
    more += ['--model.schedule.warmup_steps=999'] if 'max_epochs' in setting else []
    status, printed = run('fit', *tiny, setting, *more)
    assert status == 2, printed


@pytest.mark.parametrize(
    'arguments',
    [
        ['-T', '-1'], ['-T', 'hot'], ['-k', '0'], ['-n', '0'], ['-l', '-1'], ['-p', '2'], ['-s', '-1'], ['-w', '3'],
        ['-b', '-w', '0'], ['-b', '-z', '99'], ['-g', '-b'], ['-g', '-k', '3'], ['-b', '-T', '1'], ['-d', 'no_such'],
        ['-d', 'cuda:77'], ['-t', 'no_such.model'], ['-t', '.'], ['more'], ['-T'],
    ],
    ids=' '.join,
)  # fmt: skip
def test_options_of_infer_that_are_wrong_end_with_2(run, arguments):
    status, printed = run('infer', 'good.ckpt', 'the cat', *arguments)
    assert status == 2, printed


def test_what_infer_is_given_can_be_typed_wrong_or_be_broken(run):
    assert run('infer', 'good.ckpt')[0] == 2
    assert run('infer', 'good.ckpt', '', '-c')[0] == 2
    assert run('infer', 'good.ckpt', 'the cat ' * 99)[0] == 2
    assert run('test', '--ckpt_path=no_such_scheme://a/b.ckpt')[0] == 2
    assert run('infer', 'x' * 300, 'the cat')[0] == 2
    assert run('infer', 'good.ckpt', 'the cat', '-t', 'words.yaml')[0] == 1
    assert run('infer', 'good.ckpt', 'the cat', '-l', '2')[0] == 0


def test_where_a_command_is_to_write_is_typed(run):
    assert run('export-checkpoint', 'good.ckpt', '--output=no_such/a.safetensors')[0] == 2
    assert run('export-checkpoint', 'good.ckpt', '--output=there.txt')[0] == 2
    assert run('describe', 'no_such')[0] == 2
    assert run('describe', '.', 'no_such')[0] == 2
    assert run('validate_data', '--output_path=there.txt')[0] == 2
    assert run('validate_data', '--output_path=no_such/a.csv')[0] == 2
    assert run('validate_data', '--dump')[0] == 2
    assert run('compute_stats', '--plot=there.txt')[0] == 2
    assert run('compute_stats', '--split=no_such')[0] == 2


@pytest.mark.parametrize('command', ['validate', 'test', 'predict'])
def test_no_checkpoint_named_ends_with_2(run, command):
    assert run(command)[0] == 2


def test_the_checkpoint_of_another_model_ends_with_2(run):
    arguments = _evaluated('fit', 'good.ckpt')
    assert run('fit', *arguments, '--trainer.max_steps=9', '--model.trunk.d_model=32')[0] == 2
    assert run('fit', *arguments, '--trainer.max_steps=9', '--model.optimizer=torch.optim.SGD')[0] == 2


# How an error reads


@pytest.mark.parametrize(
    ('command', 'arguments'),
    [
        ('infer', [f'{HOSTILE}.ckpt', 'x']),
        ('infer', [HOSTILE, 'x']),
        ('infer', ['good.ckpt', 'x', f'--{HOSTILE}']),
        ('infer', ['good.ckpt', 'x', '-T', HOSTILE]),
        ('infer', ['good.ckpt', 'x', '-d', HOSTILE]),
        ('infer', ['good.ckpt', 'x', '-t', HOSTILE]),
        ('export-checkpoint', [HOSTILE]),
        ('export-checkpoint', ['good.ckpt', f'--output={HOSTILE}/{HOSTILE}/x']),
        ('describe', [f'{HOSTILE}x']),
        ('describe', ['x', f'--import={HOSTILE}']),
        ('test', [f'--ckpt_path={HOSTILE}']),
        ('test', [f'--ckpt_path={HOSTILE}.ckpt']),
        ('fit', ['-c', HOSTILE]),
        ('fit', ['-c', f'{HOSTILE}.yaml']),
        ('fit', [f'--{HOSTILE}=3']),
        ('fit', [f'--data.max_len={HOSTILE}']),
        ('fit', [f'--model={HOSTILE}']),
        ('fit', [f'--import={HOSTILE}']),
        ('compute_stats', [f'--split={HOSTILE}']),
        ('prepare_data', [f'--data.sources=[{json.dumps({"path": HOSTILE + "/x"})}]']),
    ],
)
def test_an_error_is_one_line_with_nothing_in_it_that_a_terminal_obeys(run, command, arguments):
    status, printed = run(command, *arguments)
    assert status in (1, 2)
    line = printed.splitlines()[-1]
    assert line.isprintable()
    assert '\x1b' not in printed
    assert '\u202e' not in printed
    assert not any(part.startswith('xlab: all is well') for part in printed.splitlines())


@pytest.mark.parametrize(
    ('command', 'arguments'),
    [
        ('infer', ['x' * 250 + '.ckpt', 'x']),
        ('infer', ['good.ckpt', 'x', '-T', 'x' * 5000]),
        ('infer', ['good.ckpt', 'x', '-d', 'x y ' * 500]),
        ('describe', ['/'.join(['x' * 50] * 9)]),
        ('fit', [f'--data.max_len={"x" * 5000}']),
        ('fit', [f'--data.max_len=[{", ".join(map(str, range(2000)))}]']),
        ('fit', [f'--data.weights=[{", ".join(["1"] * 2000)}]']),
        ('fit', [f'--{"x" * 5000}=3']),
        ('compute_stats', [f'--split={"x y " * 500}']),
    ],
)
def test_a_value_is_shown_up_to_200_characters(run, command, arguments):
    status, printed = run(command, *arguments)
    assert status == 2, printed
    assert '…' in printed
    assert 'x' * 201 not in printed
    assert max(map(len, printed.splitlines())) < 1100


@pytest.mark.parametrize(
    ('message', 'shown'),
    [
        (SHOWN.encode().decode('unicode_escape'), SHOWN),
        ('plain: it\'s "quoted" and [1, 2]; näïve 文字 ok', 'plain: it\'s "quoted" and [1, 2]; näïve 文字 ok'),
        ('x' * 200, 'x' * 200),
        ('x' * 201 + ' y', 'x' * 200 + '… y'),
        (f"a is '{'b ' * 100}'; c", f"a is '{'b ' * 100}'; c"),
        (f"a is '{'b ' * 101}'; c", f"a is '{'b ' * 100}…'; c"),
        (f'a is {[1] * 999}; c', f'a is {str([1] * 999)[:201]}…]; c'),
        (f'a is {{"k": {[1] * 999}}} c', f'a is {{"k": {str([1] * 999)[:195]}…}} c'),
        (f"the steps' {'rows ' * 60}, 'x'", f"the steps' {'rows ' * 60}, 'x'"),
        ('tab\tbell\adel\x7fnel\x85line\u2028zero\u200b', r'tab\tbell\x07del\x7fnel\x85line\u2028zero\u200b'),
        ('\udc80', r'\udc80'),
        ('word ' * 900, ('word ' * 900)[:1000] + '…'),
    ],
)
def test_what_a_message_looks_like(message, shown):
    assert errors.show(message) == shown


def test_lines_that_are_meant_stay_lines():
    assert errors.describe(ValueError('one\x1b', 'two\nthree')) == 'one\\x1b\ntwo\\nthree'
    assert errors.describe(ValueError()) == 'ValueError'
    assert (
        errors.describe(OSError(28, 'No space left on device', 'a\nb')) == r"[Errno 28] No space left on device: 'a\nb'"
    )


@pytest.mark.parametrize(
    ('error', 'status', 'begin'),
    [
        (errors.UsageError('typed'), 2, 'x: typed'),
        (ValueError('not typed'), 1, 'x: not typed'),
        (RuntimeError('a\n  b'), 1, 'x: RuntimeError: a b (--debug shows where)'),
        (KeyError('k'), 1, "x: KeyError: 'k' (--debug shows where)"),
        (KeyboardInterrupt(), 130, ''),
        (SystemExit('said\x1b'), 1, r'said\x1b'),
        (SystemExit(7), 7, ''),
    ],
)
def test_each_kind_of_end_has_its_status(capfd, error, status, begin):
    def fail():
        raise error

    assert errors.report_errors('x', fail, debug=False) == status
    assert begin in capfd.readouterr().err


def test_debug_shows_where_and_nothing_that_a_terminal_obeys(capfd):
    def fail():
        raise ValueError(HOSTILE)

    assert errors.report_errors('x', fail, debug=True) == 1
    printed = capfd.readouterr().err
    assert 'in fail' in printed
    assert '\x1b' not in printed
    assert not Path('a').exists()
