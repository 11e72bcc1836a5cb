"""Which checkpoints stay: the best, the newest, those that are pinned; and what a full disk leaves behind."""

import errno
import math
import os
from unittest import mock

import fsspec
import lightning.pytorch as L
import pytest
import torch
from given_losses import Given, fit

from xlabml import checkpoints
from xlabml.callbacks import Checkpoints
from xlabml.engine import CheckpointIO


def _steps(folder):
    return sorted(int(path.name[5:12]) for path in folder.glob('step=*.ckpt'))


def _run(folder, module=None, n_steps=10, ckpt_path=None, every=2, **options):
    saver = Checkpoints(str(folder / 'c'), **options)
    fit(
        module or Given(),
        [1.0] * n_steps,
        folder,
        [saver],
        validate=[2.0, 2.0],
        val_check_interval=every,
        ckpt_path=ckpt_path,
    )
    return saver


class Valley(Given):
    """The loss of its validations falls, and rises again after step 4."""

    def validation_step(self, batch, batch_idx):
        self.log('val_loss', (self.weight.detach() - 4.0).abs())


class Torn(Valley):
    """The loss of its first validation is no number."""

    def validation_step(self, batch, batch_idx):
        self.log('val_loss', torch.tensor(math.nan) if self.weight < 3 else (self.weight.detach() - 6.0).abs())


@pytest.mark.parametrize(('mode', 'best'), [('min', 6), ('max', 4)])
def test_a_metric_that_is_no_number_is_never_the_best(tmp_path, mode, best):
    assert _run(tmp_path / 'a', Torn(), n_steps=2, mode=mode).best is None
    saver = _run(tmp_path / 'b', Torn(), n_steps=7, mode=mode)
    assert f'step={best:07d}' in saver.best
    assert _steps(tmp_path / 'b/c') == [best, 7]


def test_a_metric_that_validation_does_not_give_ends_a_run_that_is_saved(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint\.monitor is 'val_los', but validation reports val_loss"):
        _run(tmp_path, monitor='val_los')
    assert _steps(tmp_path / 'c') == [2]


def test_best_newest_and_pinned_stay(tmp_path):
    saver = _run(tmp_path, Valley(), save_top_k=2, save_last_k=2, pin_steps=[1, 6], pin_every_n_steps=5)
    # The weight is the step; the best two are of steps 4 and 2 (the first of two that are equal).
    assert _steps(tmp_path / 'c') == [1, 2, 4, 5, 6, 8, 10]
    assert saver.best.endswith('step=0000004-val_loss=0.0000.ckpt')
    assert saver.newest.endswith('step=0000010-val_loss=6.0000.ckpt')


def test_a_step_pinned_by_an_earlier_start_stays_though_nobody_asks_again(tmp_path):
    first = _run(tmp_path, n_steps=4, pin_steps=[3], save_top_k=0)
    assert _steps(tmp_path / 'c') == [3, 4]
    again = Checkpoints(str(tmp_path / 'c'), save_top_k=0)
    again.load_state_dict(first.state_dict())
    assert again._kept() == {again._path('step=0000003.ckpt'), again._path('step=0000004-val_loss=2.0000.ckpt')}


def _state(names, pinned=()):
    return {'saved': dict.fromkeys(names, 1.0), 'pinned': list(pinned), 'owes_validation': False}


def test_names_in_a_checkpoint_delete_nothing_but_files_that_runs_write(tmp_path, capfd):
    """Files above the folder, folders, links, other names: whatever a checkpoint lists as its own."""
    folder = tmp_path / 'run/c'
    (folder / 'step=0000003.ckpt').mkdir(parents=True)
    outside = tmp_path / 'step=0000001.ckpt'
    (folder / 'step=0000004.ckpt').symlink_to(outside)
    for path in (outside, tmp_path / 'x', folder / 'notes.txt', folder / 'step=0000002.ckpt'):
        path.write_text('mine')
    bad = ['../../x', '../../step=0000001.ckpt', f'{tmp_path}/x', 'notes.txt', 'step=1.ckpt/../../../x', '', '..', 7]
    good = ['step=0000002.ckpt', 'step=0000003.ckpt', 'step=0000004.ckpt', 'step=0000009.ckpt']
    saver = Checkpoints(str(folder), save_top_k=0)
    saver.load_state_dict(_state([*bad, *good], [*bad, 'step=0000002.ckpt']))
    assert list(saver.saved) == [f'{folder}/step=0000002.ckpt']
    assert 'the checkpoint lists 8 file(s) that no run writes' in capfd.readouterr().err


def test_a_new_run_owns_nothing_of_what_lies_in_its_folder(tmp_path):
    (tmp_path / 'step=0000002.ckpt').write_text('of another')
    saver = Checkpoints(str(tmp_path))
    saver.continues = False
    saver.load_state_dict(_state(['step=0000002.ckpt']))
    assert not saver.saved


@pytest.mark.parametrize('name', ['x', '../step=0000001.ckpt/..', 'notes.txt', 'step=.ckpt', '.step=1.ckpt.7.part'])
def test_nothing_of_another_name_is_removed(tmp_path, name):
    with pytest.raises(ValueError, match='is not removed'):
        CheckpointIO().remove_checkpoint(f'{tmp_path}/{name}')


def test_what_lightnings_own_callback_has_saved_is_removed_by_who_wrote_it(tmp_path):
    path = tmp_path / 'epoch=0-step=1.ckpt'
    io = CheckpointIO()
    io.save_checkpoint({'state_dict': {}}, path)
    with pytest.raises(ValueError, match='is not removed'):
        CheckpointIO().remove_checkpoint(path)
    io.remove_checkpoint(path)
    assert not path.exists()


def test_no_folder_and_no_link_is_removed(tmp_path):
    there = [tmp_path / f'step=000000{i}.ckpt' for i in range(3)]
    there[0].mkdir()
    (there[0] / 'mine').write_text('mine')
    there[1].symlink_to(there[0] / 'mine')
    there[2].write_text('of a run')
    for path in there:
        CheckpointIO().remove_checkpoint(path)
    assert sorted(tmp_path.iterdir()) == there[:2]
    remote = fsspec.filesystem('memory')
    for name in ('step=0000001.ckpt/inside', 'step=0000002.ckpt'):
        remote.pipe_file(f'/keeping/{name}', b'x')
    for step in (1, 2):
        CheckpointIO().remove_checkpoint(f'memory://keeping/step=000000{step}.ckpt')
    assert remote.find('/keeping') == ['/keeping/step=0000001.ckpt/inside']


def test_a_metric_of_any_name_gives_a_bare_file_name(tmp_path):
    class Odd(Valley):
        def validation_step(self, batch, batch_idx):
            self.log('val/loss @1', torch.tensor(1.0))

    saver = _run(tmp_path, Odd(), n_steps=4, monitor='val/loss @1')
    assert sorted(path.name for path in (tmp_path / 'c').iterdir()) == [
        'step=0000002-val_loss__1=1.0000.ckpt',
        'step=0000004-val_loss__1=1.0000.ckpt',
    ]
    assert saver.best.endswith('step=0000002-val_loss__1=1.0000.ckpt')


def test_a_checkpoint_says_which_is_the_best_of_its_run(tmp_path):
    run = tmp_path / 'logs/version_3'
    run.mkdir(parents=True)
    saver = Checkpoints(str(run / 'checkpoints'))
    saver.saved = {f'{saver.folder}/step=0000002-val_loss=1.0000.ckpt': 1.0, f'{saver.folder}/step=0000004.ckpt': None}
    content = {'state_dict': {}, 'hyper_parameters': {'_class_path': 'xlabml.models.XLabModel'}}
    saver.on_save_checkpoint(mock.MagicMock(spec=L.Trainer), Given(), content)
    for path in saver.saved:
        checkpoints.write(content, path)
    assert checkpoints.find('best', tmp_path).name == 'step=0000002-val_loss=1.0000.ckpt'
    assert checkpoints.find('last', tmp_path).name == 'step=0000004.ckpt'
    checkpoints.find('best', tmp_path).unlink()
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*step=0000002'):
        checkpoints.find('best', tmp_path)
    checkpoints.write({**content, 'best_checkpoint': None}, saver.newest)
    with pytest.raises(FileNotFoundError, match='knows of no best checkpoint'):
        checkpoints.find('best', tmp_path)


def test_a_full_disk_loses_nothing_that_was_there(tmp_path, monkeypatch):
    """The third save fails half-way: the run says why, what was saved before is whole, no part is left."""
    save, n_saves = torch.save, []

    def full(content, file):
        n_saves.append(1)
        if len(n_saves) == 3:
            file.write(b'half of it')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(content, file)

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='No space left on device; see that the disk has room'):
        _run(tmp_path, Valley(), save_top_k=1, save_last_k=1)
    assert _steps(tmp_path / 'c') == [4]
    assert len(list((tmp_path / 'c').iterdir())) == 1
    (path,) = (tmp_path / 'c').iterdir()
    assert torch.load(path, weights_only=True)['global_step'] == 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'pin_steps': [5, 0]}, r'checkpoint\.pin_steps has 0'),
        ({'pin_every_n_steps': 0}, r'checkpoint\.pin_every_n_steps is 0'),
        ({'restore_best': True, 'monitor': None}, r'needs checkpoint\.monitor'),
        ({'restore_best': True, 'save_top_k': 0}, r'save_top_k not to be 0'),
        ({'restore_best': True, 'folder': 'memory://a'}, r'local checkpoint\.folder, not memory://a'),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Checkpoints(**arguments)


def test_a_folder_that_this_run_has_written_is_deleted_in_its_turn(tmp_path):
    """As DeepSpeed writes them; one of the same name that was there is none of it."""
    saver, trainer = Checkpoints(str(tmp_path)), mock.MagicMock(spec=L.Trainer, is_global_zero=True)
    trainer.strategy = mock.MagicMock()
    trainer.strategy.remove_checkpoint = CheckpointIO().remove_checkpoint
    saver._written.add(f'{tmp_path}/step=0000002.ckpt')
    for name in ('step=0000001.ckpt', 'step=0000002.ckpt'):
        (tmp_path / name / 'shard').mkdir(parents=True)
        saver._drop(trainer, f'{tmp_path}/{name}')
    assert [path.name for path in tmp_path.iterdir()] == ['step=0000001.ckpt']
