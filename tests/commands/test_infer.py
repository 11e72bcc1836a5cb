"""What `xlab-infer` takes, writes and refuses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from xlabml import checkpoints
from xlabml.commands.infer import main, visible
from xlabml.heads import language_model
from xlabml.pipelines import TextGenerator
from xlabml.tokenizer import train_tokenizer
from xlabml.transformer import Transformer

DOOR = Path(__file__).parents[2] / 'infer.py'


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    """A run of an untrained model with a context of 24 tokens."""
    folder = tmp_path_factory.mktemp('infer')
    tokenizer = train_tokenizer(['the quick brown fox jumps over the lazy dog; '] * 20, folder / 't.model', 300)
    torch.manual_seed(0)
    settings = {'d_model': 16, 'n_layers': 1, 'n_heads': 2}
    model = language_model(300, 24, lambda n_vocab, max_len: Transformer(n_vocab, max_len, **settings))
    trunk = {'class_path': 'xlabml.transformer.Transformer', 'init_args': settings}
    network = {'n_vocab': 300, 'max_len': 24, 'trunk': trunk}
    checkpoint = {
        'state_dict': {f'network.{name}': tensor for name, tensor in model.state_dict().items()},
        'hyper_parameters': {**network, '_class_path': 'xlabml.models.XLabModel'},
        'network': {'class_path': 'xlabml.heads.LanguageModel', 'init_args': network},
        'XLabDataModule': {'tokenizer': torch.frombuffer(bytearray(tokenizer.data), dtype=torch.uint8)},
    }
    path = folder / 'logs' / 'version_0' / 'checkpoints' / 'a.ckpt'
    checkpoints.write(checkpoint, path)
    return path


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_prompt_and_what_follows_are_one_text(ckpt, capsys):
    status, out, err = run(capsys, ckpt, 'the fox', '-l', 15, '-s', 1, '-d', 'cpu')
    assert (status, err) == (0, '')
    assert out == 'the fox' + visible(TextGenerator.load(ckpt, 'cpu').generate('the fox', 15, seed=1)) + '\n'


@pytest.mark.parametrize(
    ('flags', 'options'),
    [
        (['-T', '0.5', '-k', '20', '-p', '0.9', '-s', '4'], {'temperature': 0.5, 'top_k': 20, 'top_p': 0.9, 'seed': 4}),
        (['-g', '-c'], {'greedy': True, 'continued': True}),
        (['--greedy', '--device', 'cpu'], {'greedy': True}),
    ],
)
def test_every_flag_reaches_the_generator(ckpt, capsys, flags, options):
    expected = visible('the' + TextGenerator.load(ckpt, 'cpu').generate('the', 12, **options))
    assert run(capsys, ckpt, 'the', '-l', 12, *flags) == (0, expected + '\n', '')


def test_beam_search(ckpt, capsys):
    expected = visible('the' + TextGenerator.load(ckpt, 'cpu').beam('the', 6, 3, -1.0))
    assert run(capsys, ckpt, 'the', '-l', 6, '-b', '-w', 3, '-z', '-1') == (0, expected + '\n', '')


def test_runs_differ_and_a_seed_repeats_them_all(ckpt, capsys):
    _, first, _ = run(capsys, ckpt, 'the', '-n', 3, '-s', 7, '-l', 8)
    assert len(set(first.split('\n---\n'))) == 3
    assert run(capsys, ckpt, 'the', '-n', 3, '-s', 7, '-l', 8)[1] == first
    assert run(capsys, ckpt, 'the', '-n', 3, '-l', 8)[1] != first


def test_the_newest_run_is_there_by_name(ckpt, capsys, monkeypatch):
    monkeypatch.chdir(ckpt.parents[3])
    assert run(capsys, 'last', 'the', '-g')[:2] == run(capsys, ckpt, 'the', '-g')[:2]


def test_control_characters_are_made_visible():
    assert visible('a\tb\nc\rd\x1b[31m\x00\x7f\x9b é好') == 'a\tb\nc\\u000dd\\u001b[31m\\u0000\\u007f\\u009b é好'
    assert visible('é好\x1b', 'latin-1') == 'é\\u597d\\u001b'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'the following arguments are required: CKPT, PROMPT'),
        (['x', 'y', '--no-such-flag'], 'unrecognized arguments: --no-such-flag'),
        (['x', 'y', '--temp', '1'], 'unrecognized arguments: --temp'),
        (['x', 'y', '-n', '0'], 'argument -n/--runs: 0 is out of range; give 1 or more'),
        (['x', 'y', '-l', '-1'], 'argument -l/--limit: -1 is out of range; give 0 or more'),
        (['x', 'y', '-T', '0'], 'argument -T/--temperature: 0 is out of range; give a number above 0'),
        (['x', 'y', '-T', 'hot'], "argument -T/--temperature: 'hot' is not a number"),
        (['x', 'y', '-T', 'nan'], 'nan is out of range'),
        (['x', 'y', '-k', '1.5'], "argument -k/--top-k: '1.5' is not a whole number"),
        (['x', 'y', '-p', '1.01'], 'argument -p/--top-p: 1.01 is out of range; give a number above 0, at most 1'),
        (['x', 'y', '-s', str(2**63)], 'argument -s/--seed'),
        (['x', 'y', '-b', '-w', '0'], 'argument -w/--beam-width'),
        (['x', 'y', '-b', '-z', '11'], 'argument -z/--length-penalty: 11 is out of range; give a number in -10..10'),
        (['x', 'y', '-g', '-b'], 'not allowed with argument'),
        (['x', 'y', '-g', '-T', '1'], '-T would have no effect: nothing is drawn with -g'),
        (['x', 'y', '-b', '-s', '0'], '-s would have no effect: nothing is drawn with -b'),
        (['x', 'y', '-w', '3'], '-w would have no effect: it is for beam search, -b'),
        (['x', 'y', '-g', '-z', '1'], '-z would have no effect'),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, '')
    assert err.startswith('xlab-infer: ')
    assert message in err
    assert err.count('\n') == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nothing.ckpt', 'the'], 'there is no checkpoint nothing.ckpt'),
        (['last', 'the'], 'there is no checkpoint of xlabml.models.XLabModel or xlabml.models.JointModel in'),
        (['{ckpt}', 'the', '-d', 'toaster'], "device 'toaster' cannot be used here"),
        (['{ckpt}', 'the', '-t', 'nothing.model'], 'nothing.model'),
        (['{ckpt}', 'the', '--import', 'no_such_module'], "cannot import 'no_such_module'"),
        (['{ckpt}', '好' * 8], 'the prompt has 25 tokens, but the model has a context of 24'),
        (['{ckpt}', '', '-c'], 'the prompt is empty'),
        (['{ckpt}', 'a\udc80'], 'lone surrogate'),
    ],
)
def test_whatever_else_is_typed_wrong_is_one_line_and_status_2(ckpt, capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(ckpt=ckpt, folder=ckpt.parents[3]) for argument in arguments]
    status, out, err = run(capsys, *filled)
    assert (status, out) == (2, '')
    assert err.startswith('xlab-infer: ')
    assert message in err
    assert err.count('\n') == 1


def test_a_traceback_is_shown_when_asked_for(capsys):
    assert 'Traceback' in run(capsys, 'nothing.ckpt', 'the', '--debug')[2]


# As a process


def test_the_door_streams_without_lightning(ckpt):
    code = (
        f'import sys, runpy; sys.argv = ["infer.py", {str(ckpt)!r}, "the", "-l", "3", "-g"]\n'
        f'try: runpy.run_path({str(DOOR)!r}, run_name="__main__")\n'
        'except SystemExit as end: print(end.code, [m for m in sys.modules if "lightning" in m or "jsonargparse" in m])'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith('the')
    assert result.stdout.endswith('\n0 []\n')
    assert result.stderr == ''


def test_help_loads_no_torch():
    code = (
        'import sys\nfrom xlabml.commands.infer import main\n'
        'assert main(["--help"]) == 0\nassert main(["x"]) == 2\nassert "torch" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], capture_output=True, check=True)


def test_a_reader_that_has_seen_enough_is_no_error(ckpt):
    process = subprocess.Popen(
        [sys.executable, DOOR, ckpt, 'the', '-n', '100000'], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.read(20)
    process.stdout.close()
    assert process.stderr.read() == b''
    assert process.wait(60) == 141
    process.stderr.close()


def test_ctrl_c_is_quiet(ckpt):
    process = subprocess.Popen(
        [sys.executable, DOOR, ckpt, 'the', '-n', '100000'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # In a shell's background job, as this suite may be one, Ctrl-C is turned off, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdout.read(200)
    os.kill(process.pid, signal.SIGINT)
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b'')
    assert time.monotonic() - started < 10
