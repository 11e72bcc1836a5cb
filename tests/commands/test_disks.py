"""Full, read-only and damaged disks: weights are saved and figures printed, whatever becomes of the curves."""

import builtins
import errno
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from processes import Command

from xlabml import checkpoints
from xlabml.commands import infer, manage


@pytest.fixture
def refuse(monkeypatch):
    """Let nothing that lies in a folder be written, but what lies in its folders of certain names."""

    def start(folder, code, *but):
        def is_refused(path):
            if not isinstance(path, str | os.PathLike) or not os.path.abspath(path).startswith(f'{folder}/'):
                return False
            return not set(but) & set(pathlib.Path(os.path.abspath(path)).parts)

        def wrap(module, name, writes):
            call = getattr(module, name)

            def guarded(path, *arguments, **options):
                if options.get('dir_fd') is None and is_refused(path) and writes(*arguments, **options):
                    raise OSError(code, os.strerror(code), str(path))
                return call(path, *arguments, **options)

            monkeypatch.setattr(module, name, guarded)

        for module in (pathlib.Path, builtins):
            wrap(module, 'open', lambda mode='r', *_, **__: bool(set(mode) & set('wax+')))
        wrap(os, 'open', lambda flags, *_, **__: bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        for name in ('mkdir', 'unlink', 'rename', 'replace', 'utime'):
            wrap(os, name, lambda *_, **__: True)
        look = os.access
        monkeypatch.setattr(os, 'access', lambda path, mode: not is_refused(f'{path}/x') and look(path, mode))

    return start


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS])
def test_where_only_checkpoints_have_room_they_are_saved_and_one_line_says_what_is_not(
    xlab, tiny, tmp_path, refuse, code
):
    refuse(tmp_path / 'logs/version_0', code)
    status, printed = xlab('fit', *tiny, '--checkpoint.folder=kept')
    assert status == 0, printed
    assert printed.count('curves are not written to logs/version_0') == 1
    assert os.strerror(code) in printed
    assert 'Traceback' not in printed
    assert 'Exception' not in printed
    assert checkpoints.read(checkpoints.find_newest(tmp_path / 'kept'))['global_step'] == 12
    assert not list((tmp_path / 'logs/version_0').iterdir())


def test_a_cache_that_takes_nothing_ends_no_run(xlab, tiny, root, refuse):
    refuse(pathlib.Path(os.environ['XLABML_CACHE']), errno.EROFS, 'stores', 'plans', 'copies', 'tokenizers')
    status, printed = xlab('fit', *tiny, '--ckpt_path=last', '--trainer.max_steps=13')
    assert status == 0, printed


def test_printed_lines_that_a_full_disk_refuses_end_no_run(tiny, root):
    arguments = ['fit', *tiny, '--ckpt_path=last', '--trainer.max_steps=13']
    assert Command('xlabml.commands.fit', arguments, root, ['/dev/full', '/dev/full']).wait() == 0
    assert checkpoints.read(checkpoints.find('last', root))['global_step'] == 13


@pytest.mark.parametrize(('command', 'figure'), [('validate', 'val: '), ('test', 'test: ')])
def test_a_run_on_a_read_only_disk_is_evaluated(xlab, tiny, root, refuse, command, figure):
    before = content(root)
    refuse(root, errno.EROFS)
    status, printed = xlab(command, '--ckpt_path=last')
    assert status == 0, printed
    assert any(line.startswith(figure) for line in printed.splitlines())
    assert printed.count('curves are not written to logs/version_0: Read-only file system') == 1
    assert 'Traceback' not in printed
    assert content(root) == before


def test_a_checkpoint_is_evaluated_where_no_folder_can_be_made(xlab, root, refuse):
    path = shutil.copy(checkpoints.find('last', root), root / 'copy.ckpt')
    refuse(root, errno.EROFS)
    status, printed = xlab('test', f'--ckpt_path={path}')
    assert status == 0, printed
    assert 'bits/byte' in printed
    assert printed.count('curves are not written to logs: Read-only file system') == 1


def test_what_cannot_be_written_is_said_before_any_work(xlab, root, refuse):
    last = checkpoints.find('last', root).relative_to(root)
    elsewhere = shutil.copy(last, pathlib.Path(os.environ['XLABML_CACHE'], 'copy.ckpt'))
    refuse(root, errno.EROFS)
    remedy = 'name a folder of yours with --trainer.default_root_dir, and the checkpoint by --ckpt_path '
    for command, place in (('predict', 'logs/version_0'), ('fit', 'logs/version_0/checkpoints')):
        status, printed = xlab(command, '--ckpt_path=last')
        assert status == 1
        assert f'xlab: {place}: it cannot be written to; {remedy}{last}' in printed
    status, printed = xlab('fit', f'--ckpt_path={elsewhere}', '--trainer.max_steps=13')
    assert status == 1
    assert f'logs/version_1: Read-only file system; {remedy}{elsewhere}' in printed


# What a kill leaves


def test_the_next_start_removes_what_a_killed_one_left_and_nothing_else(xlab, tiny, root):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    run = root / 'logs/version_0'
    gone = [
        run / 'checkpoints' / f'.step=0000099.ckpt.{dead.pid}.part',
        run / 'checkpoints' / f'.best.safetensors.{dead.pid}.part',
        run / 'checkpoints' / f'..best.safetensors.{dead.pid}.part.{dead.pid}.part',
        run / f'.log.jsonl.{dead.pid}.part',
        run / f'.config.yaml.{dead.pid}.part',
    ]
    stays = [run / 'checkpoints' / f'.step=0000098.ckpt.{os.getppid()}.part', run / 'mine.part', run / 'my.partial']
    for path in (*gone, *stays):
        path.write_bytes(b'half')
    status, printed = xlab('fit', *tiny, '--ckpt_path=last', '--trainer.max_steps=13')
    assert status == 0, printed
    assert not [path for path in gone if path.exists()]
    assert all(path.exists() for path in stays)


# Damaged files


@pytest.mark.parametrize('asked', ['last', pytest.param('best', marks=pytest.mark.slow)])
def test_a_damaged_newest_checkpoint_says_which_to_take_and_that_one_opens(xlab, tiny, root, asked, capfd):
    older, newest = checkpoints.by_step(root / 'logs/version_0/checkpoints')
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    relative = older.relative_to(root)
    for command in ('fit', 'test', 'predict'):
        status, printed = xlab(command, *(tiny if command == 'fit' else []), f'--ckpt_path={asked}')
        assert status == 1, printed
        assert f'{newest.name} is cut short' in printed
        assert f"('{asked}' stands for it). The one before it: --ckpt_path {relative}" in printed
        assert len(printed.strip().splitlines()) == 1
    for main in (lambda: infer.main([asked, 'the']), lambda: manage.main(['export-checkpoint', asked])):
        assert main() == 1
        assert f'The one before it: {relative}' in capfd.readouterr().err
    status, printed = xlab('test', f'--ckpt_path={relative}')
    assert status == 0, printed
    newest.unlink()
    status, printed = xlab('fit', *tiny, '--ckpt_path=last')
    assert status == 0, printed
    assert 'new run' not in printed


def test_last_goes_by_the_step_whatever_the_times_of_the_files(xlab, tiny, root):
    older, newest = checkpoints.by_step(root / 'logs/version_0/checkpoints')
    os.utime(older)
    os.utime(newest, (1, 1))
    printed = xlab('fit', *tiny, '--ckpt_path=last')[1]
    assert f'{newest.name} has finished its 12 steps' in printed, printed
    newest.rename(newest.with_name('mine.ckpt'))
    printed = xlab('fit', *tiny, '--ckpt_path=last')[1]
    assert 'mine.ckpt has finished its 12 steps' in printed, printed
