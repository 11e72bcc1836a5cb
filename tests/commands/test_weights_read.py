"""What a damaged checkpoint, or one of weights that are no numbers, meets at each command."""

import math

import pytest
import torch

from xlabml import checkpoints, inference
from xlabml.commands import infer, manage
from xlabml.models import XLabModel
from xlabml.pipelines import TextGenerator


@pytest.fixture(scope='module')
def trained(tmp_path_factory, tiny):
    """The checkpoint of a run, made once."""
    from xlabml.commands import fit

    folder = tmp_path_factory.mktemp('run')
    flags = [flag for flag in tiny if 'max_steps' not in flag and 'val_check_interval' not in flag]
    assert fit.main(['fit', *flags, '--trainer.max_steps=1', f'--trainer.default_root_dir={folder}']) == 0
    (path,) = folder.glob('logs/version_0/checkpoints/*.ckpt')
    return path


@pytest.fixture
def diverged(trained, tmp_path):
    """The same with a weight that is NaN and one that is infinite."""
    checkpoint = checkpoints.read(trained)
    name = next(name for name, value in checkpoint['state_dict'].items() if 'blocks.1' in name and value.dim() == 2)
    checkpoint['state_dict'][name][0, :2] = torch.tensor([math.nan, math.inf])
    checkpoints.write(checkpoint, tmp_path / 'diverged.ckpt')
    return tmp_path / 'diverged.ckpt', name


@pytest.mark.parametrize('command', ['validate', 'test', 'predict'])
def test_weights_that_are_no_numbers_are_named_before_anything_is_evaluated(xlab, tiny, diverged, command):
    path, name = diverged
    status, printed = xlab(command, *tiny, f'--ckpt_path={path}')
    assert status == 1
    assert f'the weights in {path} are not finite (NaN or infinity): 2 values in {name} (2)' in printed
    assert 'take a checkpoint from before the run diverged' in printed
    assert 'Traceback' not in printed


def test_they_are_named_where_a_text_is_asked_for_or_an_export(diverged, capsys):
    path, name = diverged
    assert infer.main([str(path), 'the cat']) == 1
    out, err = capsys.readouterr()
    assert out == ''
    assert f'2 values in {name.removeprefix("network.")} (2)' in err
    assert manage.main(['export-checkpoint', str(path)]) == 0
    assert (
        f'{path} has weights that are not finite (NaN or infinity): 2 values in {name} (2)' in capsys.readouterr().err
    )


def test_they_are_a_warning_where_a_model_is_loaded_from_python(diverged):
    path, name = diverged
    with pytest.warns(UserWarning, match=rf'diverged\.ckpt has weights that are not finite: 2 values in {name}'):
        XLabModel.load_from_checkpoint(path)


@pytest.mark.parametrize('command', ['fit', 'validate', 'test', 'predict'])
def test_a_damaged_checkpoint_is_refused_by_every_command(xlab, tiny, trained, tmp_path, command):
    content = bytearray(trained.read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / 'damaged.ckpt').write_bytes(content)
    status, printed = xlab(command, *tiny, f'--ckpt_path={tmp_path}/damaged.ckpt')
    assert status == 1
    assert f'{tmp_path}/damaged.ckpt is damaged' in printed
    assert 'Traceback' not in printed


def test_a_damaged_checkpoint_is_refused_where_a_text_is_asked_for_or_an_export(trained, tmp_path, capsys):
    content = bytearray(trained.read_bytes())
    content[len(content) // 3] ^= 4
    (tmp_path / 'damaged.ckpt').write_bytes(content)
    assert infer.main([f'{tmp_path}/damaged.ckpt', 'the cat']) == 1
    assert f'{tmp_path}/damaged.ckpt is damaged' in capsys.readouterr().err
    assert manage.main(['export-checkpoint', f'{tmp_path}/damaged.ckpt']) == 1
    assert f'{tmp_path}/damaged.ckpt is damaged' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['damaged.ckpt']
    for load in (XLabModel.load_from_checkpoint, checkpoints.read):
        with pytest.raises(ValueError, match=r'damaged\.ckpt is damaged'):
            load(tmp_path / 'damaged.ckpt')


def test_logits_that_are_no_numbers_end_every_way_of_generating(trained):
    generator = TextGenerator.load(trained)
    with torch.no_grad():
        generator.model.trunk.embedding.weight[:] = math.inf
    for generate in (generator.generate, generator.beam, lambda text: list(generator.stream(text))):
        with pytest.raises(ValueError, match='the logits of row 0 are not finite after 0 new ids'):
            generate('the cat')


def test_a_sample_that_cannot_be_made_does_not_end_a_run(xlab, tiny, monkeypatch):
    """Sampling has its own precision, and may overflow where training does not."""

    def fail(*_, **__):
        raise inference.NonFiniteLogitsError('the logits of row 0 are not finite')

    monkeypatch.setattr(inference, 'sample', fail)
    with pytest.warns(UserWarning, match=r'no sample at step (6|12): the logits of row 0 are not finite'):
        status, printed = xlab('fit', *tiny)
    assert status == 0, printed
    assert 'best checkpoint' in printed
