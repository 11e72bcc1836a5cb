"""Parts of files: gone when they are written, or when the next process comes; never those of a living one."""

import os
import subprocess
import sys
import tempfile
import threading

import pytest
import torch
from safetensors.torch import load_file

from xlabml import artifacts
from xlabml.artifacts import folders, locks
from xlabml.artifacts.tensors import write_tensors

KILLED = """
import os, signal, sys
from pathlib import Path
from xlabml import artifacts
with artifacts.part(Path(sys.argv[1])) as part, artifacts.scratch('smoke-') as folder:
    part.write_text('half')
    (folder / 'x').write_text('half')
    print(part.name, folder, flush=True)
    {end}
"""


def run(path, end, **options):
    command = [sys.executable, '-c', KILLED.format(end=end), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options)


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / 'x'
    artifacts.write_text(path, 'old')

    def fail():
        with artifacts.part(path) as part:
            part.write_text('half')
            assert sorted(tmp_path.iterdir()) == [part, path]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [found.name for found in tmp_path.iterdir()] == ['x']
    assert path.read_text() == 'old'


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path, monkeypatch):
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    killed = run(tmp_path / 'x', 'os.kill(os.getpid(), signal.SIGKILL)')
    name, folder = killed.communicate(timeout=60)[0].split()
    living = run(tmp_path / 'y', 'sys.stdin.read()')
    try:
        other, other_folder = living.stdout.readline().split()
        assert (tmp_path / name).exists()
        artifacts.sweep(tmp_path)
        assert not (tmp_path / name).exists()
        assert (tmp_path / other).exists()
        with artifacts.scratch():
            pass
        assert not os.path.exists(folder)
        assert os.path.exists(other_folder)
    finally:
        living.communicate(timeout=60)
    assert not list(tmp_path.iterdir())


def test_a_part_that_is_locked_stays_whatever_its_number_says(tmp_path):
    """Its process may be one of another container, or machine."""
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    path = tmp_path / f'.x.{dead.pid}.part'
    with path.open('w') as file:
        assert not artifacts.is_locked(file.fileno())
        artifacts.sweep(tmp_path)
        assert path.exists()
    artifacts.sweep(tmp_path)
    assert not path.exists()


def test_nothing_but_parts_of_the_dead_is_ever_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    (tmp_path / 'else').mkdir()
    stay = [f'x.{dead.pid}.part', f'.x.{dead.pid}.partial', '.x.part', '.x.y.part', '.x.1.part', f'.{dead.pid}.part']
    for name in (*stay, f'.x.{dead.pid}.part', f'.x.ckpt.{dead.pid}.part', f'x.{dead.pid}.partial'):
        (tmp_path / name).write_text('')
    (tmp_path / f'.folder.{dead.pid}.part').mkdir()
    (tmp_path / f'.link.{dead.pid}.part').symlink_to(tmp_path / 'else')
    artifacts.sweep(tmp_path, 'x')
    assert (tmp_path / f'.x.ckpt.{dead.pid}.part').exists()
    assert not (tmp_path / f'.x.{dead.pid}.part').exists()
    assert not (tmp_path / f'x.{dead.pid}.partial').exists()
    artifacts.sweep(tmp_path)
    artifacts.sweep(tmp_path / 'nowhere')
    links = [f'.folder.{dead.pid}.part', f'.link.{dead.pid}.part']
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, *links, 'else'])


# Files and folders that are replaced


def test_a_file_is_replaced_where_the_block_ends_well_and_else_stays(tmp_path):
    path = tmp_path / 'x'
    for sync in (False, True):
        with artifacts.replacing(path, sync) as beside:
            beside.write_text(f'whole, {sync}')
            assert beside.parent == tmp_path
        assert path.read_text() == f'whole, {sync}'

    def fail():
        with artifacts.replacing(path) as beside:
            beside.write_text('half')
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == 'whole, True'
    assert [found.name for found in tmp_path.iterdir()] == ['x']


def test_content_and_name_are_on_the_disk_where_that_is_asked_for(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, 'fsync', lambda file: synced.append(os.readlink(f'/proc/self/fd/{file}')))
    artifacts.write_bytes(tmp_path / 'x', b'1')
    assert synced == []
    artifacts.write_bytes(tmp_path / 'x', b'2', sync=True)
    assert synced == [str(tmp_path / f'.x.{os.getpid()}.part'), str(tmp_path)]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / 'store'
    (tmp_path / 'store.partial').mkdir()
    (tmp_path / 'store.partial/left').write_text('by a process that was killed')
    for name in 'ab':
        with folders.replacing_folder(folder) as beside:
            (beside / name).write_text(name)
        assert [found.name for found in folder.iterdir()] == [name]
    assert not (tmp_path / 'store.partial').exists()

    def fail():
        with folders.replacing_folder(folder) as beside:
            (beside / 'c').write_text('half')
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [found.name for found in folder.iterdir()] == ['b']


def test_a_lock_that_is_held_is_waited_for_and_said(tmp_path):
    lock, said, held = tmp_path / 'inner' / 'x.lock', [], threading.Event()
    release = threading.Event()

    def hold():
        with locks.only_one(lock):
            held.set()
            release.wait(10)

    def wait():
        said.append('waiting')
        release.set()

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(10)
    with locks.if_free(lock) as is_free:
        assert not is_free
    with locks.only_one(lock, wait):
        assert said == ['waiting']
    other.join()
    with locks.if_free(lock) as is_free:
        assert is_free


@pytest.mark.skipif(os.name != 'posix', reason='permissions of POSIX')
@pytest.mark.parametrize(('mask', 'expected'), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_of_tensors_has_the_permissions_of_any_other_file(tmp_path, mask, expected):
    path = tmp_path / 'x.safetensors'
    before = os.umask(mask)
    try:
        write_tensors(path, {'a': torch.arange(3)}, {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == expected
    assert load_file(path)['a'].tolist() == [0, 1, 2]
