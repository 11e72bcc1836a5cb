"""Runs with a tokenizer from elsewhere, from its file to text: trained, validated, resumed, exported, sampled."""

import json
import math

import foreign
import pytest
import torch

from xlabml import checkpoints, inference
from xlabml.commands import infer, manage
from xlabml.datamodules import XLabDataModule
from xlabml.models import XLabModel
from xlabml.pipelines import TextGenerator
from xlabml.tokenizer import Tokenizer

RUNS = {
    'mistral': ({}, 32_000),
    'byte_level': ({}, None),
    'word_piece': ({'append_special_tokens': 'true'}, None),
    'unigram': ({'special_tokens': '{pad: <s>}'}, None),
}


# The largest and the one most like it are tried in the slow suite.
PARAMS = [pytest.param(name, marks=pytest.mark.slow) if name in ('mistral', 'byte_level') else name for name in RUNS]


@pytest.fixture(scope='module', params=PARAMS)
def flags(request, tiny, tmp_path_factory):
    """The flags of a tiny run with a tokenizer from elsewhere."""
    path = foreign.KINDS[request.param](tmp_path_factory.mktemp('foreign'))
    options, n_vocab = RUNS[request.param]
    if n_vocab is None:
        append = 'append_special_tokens' in options
        n_vocab = len(Tokenizer.load(path, append_special_tokens=append))
    others = [flag for flag in tiny if 'tokenizer_path' not in flag and 'n_vocab' not in flag]
    named = [f'--data.{name}={value}' for name, value in options.items()]
    return [*others, f'--data.tokenizer_path={path}', f'--data.n_vocab={n_vocab}', *named]


def test_a_run_from_its_file_to_text(xlab, flags, texts, tmp_path, capfd):
    status, printed = xlab('fit', *flags, '--trainer.max_steps=6')
    assert status == 0, printed
    status, printed = xlab('fit', *flags, '--ckpt_path=last')
    assert status == 0, printed
    ckpt = checkpoints.find('last', tmp_path)
    moved = [flag for flag in flags if not flag.startswith(('--data.', '--model.', '--trainer.'))]
    status, printed = xlab('validate', *moved, '--ckpt_path=last')
    assert status == 0, printed
    row = json.loads((tmp_path / 'logs/version_0/eval.jsonl').read_text().splitlines()[-1])

    # Bits per byte are over the raw bytes of the texts.
    data = XLabDataModule.load_from_checkpoint(ckpt)
    data.prepare_data()
    documents = data.texts.corpus.documents('val')
    store = data.texts.corpus.stores[0]
    n_bytes = sum(len(texts[number].encode()) for number in store.rows[documents])
    _, lengths = data.texts.corpus.token_spans(documents)
    nats = row['val_loss'] * (int(lengths.sum()) + len(lengths))
    assert row['val_bits_per_byte'] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-4)

    # What the README shows.
    tokenizer = Tokenizer.load(data.tokenizer_path)
    assert tokenizer.data == data.tokenizer.data
    model = XLabModel.load_from_checkpoint(ckpt, map_location='cpu').eval().requires_grad_(False)
    ids = torch.tensor([tokenizer[tokenizer.sos_token], *tokenizer.encode('the')], device=model.device)
    eos = tokenizer[tokenizer.eos_token]
    out = inference.sample(model, ids, 10, block_size=model.hparams['max_len'], eos_class=eos)
    assert isinstance(tokenizer.decode(out.tolist()), str)

    exported = checkpoints.export(ckpt)
    for path in (ckpt, exported.path):
        generator = TextGenerator.load(path, 'cpu')
        assert generator.tokenizer.data == tokenizer.data
        whole = generator.generate('the cat', 12, seed=1)
        assert ''.join(generator.stream('the cat', 12, seed=1)) == whole
        assert '\ufffd' not in generator.beam('the cat', 8, width=2)[:-1]
    assert infer.main([str(exported.path), 'the cat', '-l', '5', '-s', '1', '-d', 'cpu']) == 0
    assert capfd.readouterr().out.startswith('the cat')
    assert manage.main(['describe', str(tmp_path / 'logs' / 'version_0')]) == 0
    status, printed = xlab('predict', *moved, f'--ckpt_path={ckpt}')
    assert status == 0, printed


@pytest.mark.parametrize('flags', ['byte_level', 'word_piece', 'unigram'], indirect=True)
def test_the_data_commands_say_what_is_lost(xlab, flags):
    for command in ('prepare_data', 'validate_data', 'compute_stats'):
        status, printed = xlab(command, *flags)
        assert status == 0, printed
        assert 'special tokens: ' in printed
        assert 'do not come back as they were' in printed
    assert xlab('train_tokenizer', *flags)[0] == 0


@pytest.mark.parametrize('flags', ['word_piece'], indirect=True)
def test_the_size_of_the_vocabulary_is_said_before_any_work(xlab, flags, tmp_path):
    status, printed = xlab('fit', *flags, '--data.n_vocab=77')
    assert status == 2, printed
    assert 'but data.n_vocab is 77; set data.n_vocab to' in printed
    assert not (tmp_path / 'logs').exists()


@pytest.mark.parametrize('flags', ['word_piece'], indirect=True)
def test_another_tokenizer_than_the_checkpoints_is_refused(xlab, flags, tmp_path):
    assert xlab('fit', *flags, '--trainer.max_steps=1')[0] == 0
    other = foreign.byte_level(tmp_path / 'other.json', n_vocab=300)
    n = next(flag.split('=')[1] for flag in flags if 'n_vocab' in flag)
    status, printed = xlab('fit', *flags, '--ckpt_path=last', f'--data.tokenizer_path={other}', f'--data.n_vocab={n}')
    assert status != 0
    assert 'is not the tokenizer that the checkpoint was trained with' in printed


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (['--data.special_tokens={eos: x}'], "special_tokens.eos is 'x', but"),
        (['--data.special_tokens={end: x}'], "data.special_tokens names a token for 'end'"),
        (['--data.tokenizer_path=nowhere.json'], 'there is no tokenizer at nowhere.json, and none is trained there'),
        (
            ['--data.tokenizer_path=nowhere.model', '--data.special_tokens={eos: x}'],
            'data.special_tokens.eos is for a tokenizer that one has, but there is none at nowhere.model',
        ),
        (
            ['--data.tokenizer_path=null', '--data.append_special_tokens=true'],
            'data.append_special_tokens is for a tokenizer that one has; name it in data.tokenizer_path',
        ),
    ],
)
def test_settings_that_do_not_fit_the_tokenizer_are_refused(xlab, tiny, tmp_path, changed, message):
    status, printed = xlab('fit', *tiny, *changed)
    assert status == 2, printed
    assert message in ' '.join(printed.split())
    assert not (tmp_path / 'logs').exists()


@pytest.mark.parametrize('flags', ['word_piece'], indirect=True)
def test_smoke_takes_a_tokenizer_from_elsewhere(xlab, flags, tmp_path):
    status, printed = xlab('fit', *flags, '--smoke')
    assert status == 0, printed
    assert 'nothing is left behind' in printed
