"""Which run a checkpoint belongs to: that where it lies. A copy opens a new one, and the original stays as it is."""

import os
import shutil
from pathlib import Path

import fsspec
import pytest
import yaml
from curves import read_curve

from xlabml import checkpoints
from xlabml.checkpoints import Contents
from xlabml.commands.finding import Found
from xlabml.commands.run_folder import choose_run, read_id
from xlabml.telemetry import records

TWO = '--checkpoint.save_last_k=2'


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def newest(root='.', run='logs/version_0'):
    return checkpoints.find_newest(Path(root, run, 'checkpoints'))


def choose(path, command='fit', root='.', root_is_typed=False, folder=None, **changes):
    path = Path(path)
    contents = Contents.of({**checkpoints.read(path), **changes})
    return choose_run(Found(str(path), path), contents, command, Path(root), root_is_typed, folder)


def strip(run):
    """Make a run look as one from before runs had numbers."""
    (run / 'run_id').unlink()
    for path in run.glob('checkpoints/*.ckpt'):
        checkpoints.write({name: v for name, v in checkpoints.read(path).items() if name != 'run_id'}, path)


# Which run it is


def test_the_newest_checkpoint_of_a_run_resumes_it_and_any_of_it_is_evaluated_there(root):
    older, last = checkpoints.by_step(root / 'logs/version_0/checkpoints')
    assert choose(last) == (root / 'logs/version_0', None, '')
    assert choose(older, 'test') == (root / 'logs/version_0', None, '')
    assert choose(older).run is None
    assert choose(older).why_new == (
        f'{older} is not the newest checkpoint of {root}/logs/version_0, which stays as it is'
    )


@pytest.mark.parametrize('spelling', ['x', './x', '../checkpoints/x', '../../version_0/checkpoints/x'])
def test_a_run_is_found_from_within_its_own_folder(root, monkeypatch, spelling):
    last = newest(root)
    monkeypatch.chdir(last.parent)
    assert choose(spelling.replace('x', last.name)).run.samefile(root / 'logs/version_0')
    monkeypatch.chdir(root / 'logs/version_0')
    assert choose(f'checkpoints/{last.name}').run.samefile(root / 'logs/version_0')


def _copy(root):
    return shutil.copy(newest(root), root / 'copy.ckpt')


def _copy_into_a_folder_of_that_name(root):
    (root / 'elsewhere/checkpoints').mkdir(parents=True)
    return shutil.copy(newest(root), root / 'elsewhere/checkpoints')


def _copy_into_another_run(root):
    other = root / 'logs/version_1'
    shutil.copytree(root / 'logs/version_0', other)
    (other / 'run_id').write_text('f' * 32)
    return newest(root, 'logs/version_1')


def _link(root):
    (root / 'link.ckpt').symlink_to(newest(root))
    return root / 'link.ckpt'


def _link_to_the_folder(root):
    (root / 'link').symlink_to(newest(root).parent)
    return root / 'link' / newest(root).name


@pytest.mark.parametrize('command', ['fit', 'test'])
@pytest.mark.parametrize(
    'make', [_copy, _copy_into_a_folder_of_that_name, _copy_into_another_run, _link, _link_to_the_folder]
)
def test_what_lies_elsewhere_belongs_to_no_run_whatever_it_says(root, make, command):
    path = make(root)
    choice = choose(path, command, run_folder=str(root / 'logs/version_0'))
    assert choice == (None, None, f'{path} does not lie in the folder of its run, which stays as it is')


def test_another_root_or_folder_that_is_typed_is_a_branch(root):
    (root / 'other').mkdir()
    last = newest(root)
    assert choose(last, root='other', root_is_typed=True).why_new.startswith('trainer.default_root_dir is other, and')
    assert choose(last, 'test', root='other', root_is_typed=True).run is None
    assert choose(last, root=str(root), root_is_typed=True).run == root / 'logs/version_0'
    assert choose(last, folder='kept').why_new.startswith('checkpoint.folder is kept, and')
    assert choose(last, 'test', folder='kept').run == root / 'logs/version_0'
    assert choose(last, folder=str(last.parent)).run == root / 'logs/version_0'


def test_an_exported_file_is_evaluated_where_it_lies(root):
    path = checkpoints.export(newest(root)).path
    assert choose(path, 'test').run == root / 'logs/version_0'
    assert choose(shutil.copy(path, root / 'copy.safetensors'), 'test').run is None


def test_a_whole_run_that_was_copied_is_a_run_of_its_own_and_one_that_was_renamed_the_same(root):
    copied = shutil.copytree(root / 'logs/version_0', root / 'far/my_run')
    assert choose(newest(root, 'far/my_run')).run == copied
    assert choose(newest(root)).run == root / 'logs/version_0'


def test_a_run_whose_checkpoints_are_a_link_is_that_which_they_name(root):
    """A copy of such a folder, link and all, would delete the original's checkpoints."""
    run = root / 'logs/version_0'
    shutil.move(run / 'checkpoints', root / 'big')
    (run / 'checkpoints').symlink_to(root / 'big')
    shutil.copytree(run, root / 'far/logs/version_0', symlinks=True)
    for at in (run, root / 'far/logs/version_0'):
        path = at / 'checkpoints' / newest(root).name
        assert choose(path, run_folder=str(run)).run == run
    shutil.rmtree(root / 'far')
    run.rename(root / 'logs/version_5')
    assert choose(root / 'logs/version_5/checkpoints' / path.name, run_folder=str(run)).run == root / 'logs/version_5'


@pytest.mark.parametrize('named', ['kept', 'absolute'])
def test_the_folder_that_the_settings_of_the_run_name_is_its_own(root, named):
    run = root / 'logs/version_0'
    named = named if named == 'kept' else str(root / 'kept')
    shutil.move(run / 'checkpoints', root / 'kept')
    path = root / 'kept' / checkpoints.find_newest(root / 'kept').name
    assert choose(path, run_folder=str(run)).run is None  # its settings do not say so
    config = yaml.safe_load((run / 'config.yaml').read_text())
    config['checkpoint']['folder'] = named
    (run / 'config-2.yaml').write_text(yaml.safe_dump(config))
    assert choose(path, run_folder=str(run)) == (run, str(root / 'kept'), '')
    assert choose(path, run_folder='/gone') == (Path('logs/version_0'), str(root / 'kept'), '')
    assert choose(shutil.copytree(root / 'kept', root / 'copy') / path.name, run_folder=str(run)).run is None
    (run / 'run_id').write_text('f' * 32)
    assert choose(path, run_folder=str(run)).run is None


def test_runs_from_before_they_had_numbers_are_known_by_settings_and_place(root):
    run = root / 'logs/version_0'
    strip(run)
    assert choose(newest(root), run_folder=str(run)).run == run
    assert choose(newest(root), run_folder='/gone/logs/version_0').run == run  # it was moved
    copied = shutil.copytree(run, root / 'logs/version_1')
    assert choose(newest(root, 'logs/version_1'), run_folder=str(run)).run is None
    (copied / 'config.yaml').write_text('data: {max_len: 7}')
    assert choose(newest(root, 'logs/version_1'), run_folder='/gone').run is None


@pytest.mark.parametrize('run_folder', ['', '.', '/', '/etc', 'logs', '\0', '../' * 9, 7, None, ['x'], 'x' * 9999])
def test_a_folder_that_a_checkpoint_names_is_not_believed(root, run_folder):
    path = _copy(root)
    for run_id in (None, '', 7, '../x', checkpoints.read(path)['run_id']):
        assert choose(path, run_folder=run_folder, run_id=run_id).run is None


# What the commands do


def test_a_copy_opens_a_new_run_and_the_original_stays_byte_for_byte(xlab, tiny, root):
    before = content(root / 'logs/version_0')
    path = _copy(root)
    status, printed = xlab('fit', *tiny, TWO, f'--ckpt_path={path}', '--trainer.max_steps=14')
    assert status == 0, printed
    (line,) = [line for line in printed.splitlines() if line.startswith('opening a new run')]
    assert line == (
        f'opening a new run, logs/version_1: {path} does not lie in the folder of its run, which stays as it is'
    )
    assert content(root / 'logs/version_0') == before
    assert list(read_curve(root / 'logs/version_1', 'train_loss')) == [13, 14]
    assert read_id(root / 'logs/version_1') not in (None, read_id(root / 'logs/version_0'))
    status, printed = xlab('fit', *tiny, TWO, '--ckpt_path=last', '--trainer.max_steps=15')
    assert status == 0, printed
    assert 'new run' not in printed
    assert list(read_curve(root / 'logs/version_1', 'train_loss')) == [13, 14, 15]
    status, printed = xlab('fit', *tiny, TWO, f'--ckpt_path={path}')
    assert f'{path} has finished its 12 steps' in printed
    assert not (root / 'logs/version_2').exists()


def test_a_run_is_branched_into_another_folder(xlab, tiny, root):
    before = content(root / 'logs')
    path = newest(root)
    status, printed = xlab(
        'fit', *tiny, f'--ckpt_path={path}', '--trainer.default_root_dir=branch', '--trainer.max_steps=14'
    )
    assert status == 0, printed
    assert 'opening a new run, branch/logs/version_0: trainer.default_root_dir is branch' in printed
    assert content(root / 'logs') == before
    assert len(list((root / 'branch/logs/version_0/checkpoints').glob('step=0000014*'))) == 1
    status, printed = xlab('fit', *tiny, f'--ckpt_path={path}', '--checkpoint.folder=kept', '--trainer.max_steps=13')
    assert status == 0, printed
    assert 'opening a new run, logs/version_1: checkpoint.folder is kept' in printed
    assert content(root / 'logs/version_0') == {name.relative_to('version_0'): data for name, data in before.items()}
    assert [path.name[:12] for path in (root / 'kept').iterdir()] == ['step=0000013']


def test_a_moved_tree_of_logs_goes_on(xlab, tiny, root):
    status, printed = xlab('fit', *tiny, TWO, '--ckpt_path=last', '--trainer.max_steps=14')
    assert status == 0, printed
    assert 'new run' not in printed
    assert list(read_curve(root / 'logs/version_0', 'train_loss')) == list(range(1, 15))
    assert [path.name for path in (root / 'logs').iterdir()] == ['version_0']
    kept = [path.name[5:12] for path in checkpoints.by_step(root / 'logs/version_0/checkpoints')]
    assert kept == ['0000012', '0000014']


def test_an_evaluation_of_a_copy_is_written_where_the_user_stands(xlab, tiny, root):
    before = content(root / 'logs/version_0')
    path = _copy(root)
    status, printed = xlab('test', f'--ckpt_path={path}')
    assert status == 0, printed
    assert 'opening a new run, logs/version_1: ' in printed
    assert content(root / 'logs/version_0') == before
    assert [row['step'] for row in records.read(root / 'logs/version_1' / records.EVALUATION).rows] == [12]
    status, printed = xlab('test', '--ckpt_path=logs/version_0/checkpoints/' + newest(root).name)
    assert 'new run' not in printed
    assert len(records.read(root / 'logs/version_0' / records.EVALUATION).rows) == 3


@pytest.mark.parametrize('folder', ['kept', pytest.param('memory://bucket/branched', marks=pytest.mark.slow)])
def test_a_copied_folder_of_checkpoints_is_a_branch_that_owns_no_copy(xlab, tiny, tmp_path, folder):
    assert xlab('fit', *tiny, TWO, f'--checkpoint.folder={folder}')[0] == 0
    files, at = fsspec.core.url_to_fs(folder)
    copied = f'{folder}-copy'
    files.copy(at, at + '-copy', recursive=True)
    before = content(tmp_path / 'logs'), {path: files.cat_file(path) for path in files.find(at)}
    copies = {path: files.cat_file(path) for path in files.find(at + '-copy')}
    status, printed = xlab(
        'fit', *tiny, TWO, f'--checkpoint.folder={copied}', '--ckpt_path=last', '--trainer.max_steps=20'
    )
    assert status == 0, printed
    assert 'opening a new run, logs/version_1' in printed
    after = content(tmp_path / 'logs'), {path: files.cat_file(path) for path in files.find(at)}
    assert before[1] == after[1]
    assert before[0].items() <= after[0].items()
    assert copies.items() <= {path: files.cat_file(path) for path in files.find(at + '-copy')}.items()
    path = next(path for path in files.find(at) if 'step=0000012' in path)
    given = f'{folder}/{path.rpartition("/")[2]}'
    status, printed = xlab('fit', *tiny, TWO, f'--ckpt_path={given}', '--trainer.max_steps=13')
    assert status == 0, printed
    assert 'new run' not in printed
    assert any('step=0000013' in path for path in files.find(at))
    assert not os.path.exists(tmp_path / 'logs/version_0/checkpoints')
