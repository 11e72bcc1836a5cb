"""A language model that embeds, through every command: conf/joint.yaml with a tiny trunk."""

import contextlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import ranks
from curves import read_curve

from xlabml import checkpoints
from xlabml.commands import fit, infer
from xlabml.pipelines import TextEmbedder, TextGenerator

JOINT = ['-c', Path(__file__).parents[2] / 'conf/joint.yaml']
DDP = ['-c', Path(__file__).parents[2] / 'conf/extra/ddp.yaml']
NAMES = ('train_loss', 'train_bits_per_byte', 'train_embedding_loss', 'val_loss', 'gradient_norm')
SAVED = ['--checkpoint.every_n_steps=1', '--checkpoint.save_last_k=100']


@pytest.fixture(scope='module')
def joint(tiny, texts, tmp_path_factory):
    """The flags of a tiny joint run: texts as rows, and their first words with them as pairs."""
    folder = tmp_path_factory.mktemp('records')
    records = [{'q': f'{t[:12]} {i}', 'text': f'{t} {i}', 'n': i} for i, t in enumerate(texts)]
    (folder / 'records.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    groups = '{class_path: TextGroups, init_args: {roles: {anchor: q, positive: text}}}'
    flags = [flag for flag in tiny if not flag.startswith('--data.sources')]
    path = f'{{path: {folder}/records.jsonl}}'
    return [
        *JOINT,
        *flags,
        f'--data.sources=[{path}, {path}]',
        '--data.group=n',
        f'--data.examples={{class_path: FormatMixture, init_args: {{formats: [NextTokens, {groups}]}}}}',
        '--data.batch_groups=16',
    ]


@pytest.fixture(scope='module')
def whole(joint, tmp_path_factory):
    """The folder of a run of 12 steps."""
    folder = tmp_path_factory.mktemp('joint')
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv('XLABML_CACHE', str(tmp_path_factory.mktemp('cache')))
        assert fit.main(['fit', *map(str, joint), *SAVED]) == 0
    return folder / 'logs/version_0'


@pytest.fixture
def run(whole, tmp_path, monkeypatch):
    """A copy of it, in the folder of the test."""
    shutil.copytree(whole, tmp_path / 'logs/version_0')
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'logs/version_0'


def test_each_kind_has_figures_of_its_own_in_training_and_validation(whole):
    bits = read_curve(whole, 'train_bits_per_byte')
    pairs = read_curve(whole, 'train_embedding_loss')
    assert sorted([*bits, *pairs]) == list(range(1, 13))  # a row a step, of one format each
    assert len(bits) == len(pairs) == 6
    for name in ('val_bits_per_byte', 'val_embedding_loss', 'val_ndcg_at_10', 'val_token_loss'):
        values = list(read_curve(whole, name).values())
        assert len(values) == 2
        assert all(map(math.isfinite, values)), name
    total = [sum(pair) for pair in zip(*(read_curve(whole, f'val_{n}_loss').values() for n in ('token', 'embedding')))]
    assert list(read_curve(whole, 'val_loss').values()) == pytest.approx(total)


def test_a_resumed_run_is_bit_for_bit_an_unbroken_one(xlab, joint, whole, run):
    for path in (run / 'checkpoints').glob('*.ckpt'):
        if int(path.name[5:12]) > 5:
            path.unlink()
    status, printed = xlab('fit', *joint, *SAVED, '--ckpt_path=last', '--data.num_workers=1')
    assert status == 0, printed
    for name in NAMES:
        assert read_curve(run, name) == read_curve(whole, name), name


@pytest.mark.slow
def test_next_chunks_and_chunks_of_one_document_are_trained_beside_next_tokens(xlab, tiny, corpus, tmp_path):
    documents = [' '.join(json.loads(line)['text'] for line in lines) for lines in _in_tens(corpus / 'texts.jsonl')]
    (tmp_path / 'long.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in documents))
    path = f'{{class_path: Location, init_args: {{path: {tmp_path}/long.jsonl}}}}'
    chunks = [f'{{class_path: xlabml.data.{name}, init_args: {{source: {path}, chunk_chars: 60, min_chars: 10}}}}'
              for name in ('NextChunks', 'ChunkPairs')]  # fmt: skip
    roles = ('{roles: {a: a, b: b}, label: label', '{roles: {anchor: anchor, positive: positive}')
    groups = [f'{{class_path: TextGroups, init_args: {some}, leave_out_empty: true}}}}' for some in roles]
    flags = [flag for flag in tiny if not flag.startswith('--data.sources')]
    status, printed = xlab(
        'fit',
        '--model=JointModel',
        '--model.objectives=[xlabml.losses.Contrastive, xlabml.losses.InfoNCE]',
        *flags,
        f'--data.sources=[{path}, {", ".join(chunks)}]',
        f'--data.examples={{class_path: FormatMixture, init_args: {{formats: [NextTokens, {", ".join(groups)}]}}}}',
        '--data.batch_groups=4',
    )
    assert status == 0, printed
    rows = [json.loads(line) for line in (tmp_path / 'logs/version_0/log.jsonl').read_text().splitlines()]
    assert sum('train_token_loss' in row for row in rows) == 4
    losses = [row['train_embedding_loss'] for row in rows if 'train_embedding_loss' in row]
    assert len(losses) == 8
    assert all(map(math.isfinite, losses))


def _in_tens(path):
    lines = path.read_text().splitlines()
    return [lines[i : i + 10] for i in range(0, len(lines), 10)]


def test_one_checkpoint_generates_and_embeds(xlab, joint, run, capfd):
    assert infer.main(['last', 'the cat', '-g', '-l', '5']) == 0
    assert capfd.readouterr().out.startswith('the cat')
    Path('texts.txt').write_text('the cat sees\na dog eats my horse\n')
    assert infer.main(['last', '--embed', 'texts.txt', '--output', 'v.npy']) == 0
    path = checkpoints.find('last', Path())
    embedder = TextEmbedder.load(path)
    vectors = embedder.encode(['the cat sees', 'a dog eats my horse'])
    np.testing.assert_allclose(np.load('v.npy'), vectors, atol=1e-6)
    generator = TextGenerator.load(path)
    assert generator.model.trunk.causal
    assert embedder.model.causal is False
    # A later word changes what comes before it in a vector, and not in a language model.
    assert not np.allclose(vectors[0], embedder.encode('the cat fears'))
    for command, word in (('test', 'bits/byte'), ('predict', '')):
        status, printed = xlab(command, *joint, '--ckpt_path=best')
        assert status == 0, printed
        assert word in printed
    rows = [json.loads(line) for line in (run / 'predictions.jsonl').read_text().splitlines()]
    assert {'cosine' in row for row in rows} == {True, False}


@pytest.mark.slow
def test_two_ranks_and_chunks_train_the_model_that_one_process_trains(joint, tmp_path):
    flags = [*joint, '--model.optimizer=xlabml.training.AdamW']
    assert ranks.xlab(1, tmp_path / 'one', 'fit', *flags)[0] == [0]
    statuses, printed = ranks.xlab(2, tmp_path / 'two', 'fit', *flags, *DDP, '--data.device_batch_tokens=32')
    assert statuses == [0, 0], printed
    for name in NAMES:
        one, two = (read_curve(tmp_path / part / 'logs/version_0', name) for part in ('one', 'two'))
        assert two == pytest.approx(one, rel=1e-4), name


@pytest.mark.slow
def test_smoke_tries_a_joint_run(xlab, joint):
    status, printed = xlab('fit', '--smoke', *joint)
    assert status == 0, printed
    assert 'smoke: 4 steps' in printed


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--model.trunk.causal=false'], 'model.trunk.causal is false, but text is generated by causal passes'),
        (['--data.examples=NextTokens'], 'JointModel trains on several formats; name them in a FormatMixture'),
        (['--autotune'], '--autotune measures rows, and FormatMixture has steps of several formats'),
    ],
)
def test_what_does_not_go_together_is_refused(xlab, joint, flags, message):
    drop = () if not flags[0].startswith('--data.examples') else ('--data.batch_groups',)
    status, printed = xlab('fit', *(flag for flag in joint if not str(flag).startswith(drop or '\0')), *flags)
    assert status == 2, printed
    assert message in printed
