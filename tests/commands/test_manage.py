"""What `xlab-manage` takes, writes and refuses."""

import hashlib
import re

import pytest
import torch
from bert_folders import write_folder

from xlabml import checkpoints
from xlabml.commands.manage import main


@pytest.fixture
def ckpt(tmp_path):
    path = tmp_path / 'logs' / 'version_3' / 'checkpoints' / 'step=1.ckpt'
    checkpoint = {
        'state_dict': {'network.w': torch.randn(50, 3)},
        'hyper_parameters': {'_class_path': 'mine.Task'},
        'XLabDataModule': {'tokenizer': torch.arange(9, dtype=torch.uint8)},
        'optimizer_states': [],
    }
    checkpoints.write(checkpoint, path)
    return path


def test_an_export_says_what_it_wrote(ckpt, capsys):
    assert main(['export-checkpoint', str(ckpt)]) == 0
    path, size, digest = capsys.readouterr().out.splitlines()
    (written,) = ckpt.parent.glob('*.safetensors')
    assert path == str(written)
    assert size == f'{written.stat().st_size} bytes'
    assert digest == f'sha256 {hashlib.sha256(written.read_bytes()).hexdigest()}'
    assert re.fullmatch(r'step=1-[0-9a-f]{8}\.safetensors', written.name)
    assert torch.equal(
        checkpoints.read(written)['state_dict']['network.w'], checkpoints.read(ckpt)['state_dict']['network.w']
    )


def test_the_output_has_the_name_that_was_asked_for_and_overwrites_nothing(ckpt, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['export-checkpoint', 'last', '--output', 'model.bin']) == 0
    before = (tmp_path / 'model.bin').read_bytes()
    assert main(['export-checkpoint', 'last', '--output', 'model.bin']) == 2
    error = 'xlab-manage: model.bin is there already; delete it, or choose another --output\n'
    assert capsys.readouterr().err == error
    assert (tmp_path / 'model.bin').read_bytes() == before


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        ([], 2, 'the following arguments are required: TASK'),
        (['explode'], 2, "invalid choice: 'explode'"),
        (['export-checkpoint'], 2, 'the following arguments are required: CKPT'),
        (['export-checkpoint', 'x', '--out', 'y'], 2, 'unrecognized arguments: --out'),
        (['export-checkpoint', 'x.ckpt'], 2, 'there is no checkpoint x.ckpt'),
        (['export-checkpoint', 'x.ckpt', '--import', 'no_such_module'], 2, "cannot import 'no_such_module'"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, arguments, status, message):
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('xlab-manage: ')
    assert message in err
    assert err.count('\n') == 1


def test_a_traceback_is_shown_when_asked_for(capsys):
    assert main(['export-checkpoint', 'x.ckpt', '--debug']) == 2
    assert 'Traceback' in capsys.readouterr().err


def test_an_imported_folder_says_what_became_of_it(tmp_path, capsys):
    folder, _ = write_folder(tmp_path / 'folder')
    out = tmp_path / 'out.safetensors'
    assert main(['import-checkpoint', str(folder), str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r'a text encoder: 2 layers of 16, \d+ tokens, vectors of 16, texts of up to 20 tokens', lines[0]
    )
    assert lines[1] == 'not used: pooler.dense.weight'
    assert lines[2].startswith(('not compared: sentence-transformers is not installed', 'same vectors'))
    assert lines[3:5] == [str(out), f'{out.stat().st_size} bytes']
    assert main(['import-checkpoint', str(tmp_path / 'nowhere'), str(tmp_path / 'b.safetensors')]) == 2
    assert 'there is no' in capsys.readouterr().err
