"""An embedder through every command: conf/embed.yaml with a tiny trunk."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import pytest
import ranks
from curves import read_curve

from xlabml import checkpoints
from xlabml.commands import autotune, fit
from xlabml.models import Embedder
from xlabml.pipelines import TextEmbedder

EMBED = ['-c', Path(__file__).parents[2] / 'conf/embed.yaml']
DDP = ['-c', Path(__file__).parents[2] / 'conf/extra/ddp.yaml']
NAMES = ('train_loss', 'val_loss', 'gradient_norm')
SAVED = ['--checkpoint.every_n_steps=1', '--checkpoint.save_last_k=100']
GROUPS = '--data.examples={class_path: TextGroups, init_args: {roles: {anchor: q, positive: p}}}'


@pytest.fixture(scope='module')
def pairs(texts, tmp_path_factory):
    """Texts and their first words."""
    path = tmp_path_factory.mktemp('pairs') / 'pairs.jsonl'
    path.write_text(
        ''.join(json.dumps({'q': f'{t[:12]} {i}', 'p': f'{t[:40]} {i}'}) + '\n' for i, t in enumerate(texts))
    )
    return path


@pytest.fixture(scope='module')
def embed(tiny, pairs):
    """The flags of a tiny embedder."""
    flags = [flag for flag in tiny if not flag.startswith(('--data.batch_tokens', '--data.sources'))]
    return [*EMBED, *flags, f'--data.sources=[{{path: {pairs}}}]', GROUPS, '--data.batch_groups=16']


@pytest.fixture(scope='module')
def whole(embed, tmp_path_factory):
    """The folder of a run of 12 steps."""
    folder = tmp_path_factory.mktemp('embed')
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv('XLABML_CACHE', str(tmp_path_factory.mktemp('cache')))
        assert fit.main(['fit', *map(str, embed), *SAVED]) == 0
    return folder / 'logs/version_0'


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, in the folder of the test."""
    shutil.copytree(whole, tmp_path / 'logs/version_0')
    return tmp_path / 'logs/version_0'


def test_an_embedder_is_trained_evaluated_scored_described_and_exported(xlab, embed, run, capfd):
    losses = list(read_curve(run, 'train_loss').values())
    assert losses[-1] < losses[0]
    for command, word in (('validate', 'val: '), ('test', 'test: ')):
        status, printed = xlab(command, *embed, '--ckpt_path=best')
        assert status == 0, printed
        assert word in printed
        assert 'groups)' in printed
        assert 'loss/group' in printed
    status, printed = xlab('predict', *embed, '--ckpt_path=last')
    assert status == 0, printed
    rows = [json.loads(line) for line in (run / 'predictions.jsonl').read_text().splitlines()]
    assert {'id', 'cosine'} == set(rows[0])
    assert all(-1 <= row['cosine'] <= 1 for row in rows)

    from xlabml.commands import manage

    assert manage.main(['describe', str(run)]) == 0
    assert 'Embedder' in capfd.readouterr().out
    assert manage.main(['export-checkpoint', str(checkpoints.find('best', Path())), '--output', 'e.safetensors']) == 0
    status, printed = xlab('test', *embed, '--ckpt_path=e.safetensors')
    assert status == 0, printed
    assert isinstance(Embedder.load_from_checkpoint('e.safetensors'), Embedder)


def test_a_test_without_the_callbacks_of_its_run_says_so_and_how_to_have_them(xlab, embed, run):
    status, printed = xlab('test', '--ckpt_path=last', '--trainer.accelerator=cpu')
    assert status == 0, printed
    assert 'BM25' not in printed
    named = re.search(r'this test did not \(SearchTable, Collapse\); to have them, add -c (\S+)', printed)
    assert named, printed
    status, printed = xlab('test', '-c', named[1], '--ckpt_path=last')
    assert status == 0, printed
    assert 'BM25' in printed
    assert 'to have them' not in printed


def test_a_resumed_embedder_is_bit_for_bit_an_unbroken_one(xlab, embed, whole, run):
    for path in (run / 'checkpoints').glob('*.ckpt'):
        if int(path.name[5:12]) > 5:
            path.unlink()
    status, printed = xlab('fit', *embed, *SAVED, '--ckpt_path=last', '--data.num_workers=1')
    assert status == 0, printed
    for name in NAMES:
        assert read_curve(run, name) == read_curve(whole, name), name
    status, printed = xlab('fit', *embed, '--ckpt_path=last', '--data.batch_groups=8', '--trainer.max_steps=14')
    assert status != 0
    assert 'data.batch_groups was 16, is 8' in printed


def test_two_ranks_and_chunks_train_the_embedder_that_one_process_trains(embed, tmp_path):
    flags = [*embed, '--model.optimizer=xlabml.training.AdamW', ranks.HASHED]
    assert ranks.xlab(1, tmp_path / 'one', 'fit', *flags)[0] == [0]
    statuses, printed = ranks.xlab(2, tmp_path / 'two', 'fit', *flags, *DDP, '--data.device_batch_tokens=64')
    assert statuses == [0, 0], printed
    for name in NAMES:
        one, two = (read_curve(tmp_path / part / 'logs/version_0', name) for part in ('one', 'two'))
        assert two == pytest.approx(one, rel=1e-4), name


@pytest.mark.slow
def test_smoke_tries_an_embedder(xlab, embed):
    status, printed = xlab('fit', '--smoke', *embed)
    assert status == 0, printed
    assert 'smoke: 4 steps' in printed
    assert 'sampled' not in printed


@pytest.mark.parametrize('of', ['language model', 'masked language model'])
def test_an_embedder_begins_with_the_weights_of_a_language_model(xlab, tiny, embed, tmp_path, of):
    masked = ['--model=MaskedLanguageModel', '--model.trunk.causal=false', '--data.examples=MaskedTokens']
    first = [*(masked if of.startswith('masked') else []), *tiny, '--trainer.max_steps=1', '--samples.n_tokens=0']
    status, printed = xlab('fit', *first, f'--trainer.default_root_dir={tmp_path / "first"}')
    assert status == 0, printed
    taken_over = ('--model.trunk', '--data.n_vocab', '--data.max_len', '--data.tokenizer_path')
    new = [flag for flag in embed if not str(flag).startswith(taken_over)]
    status, printed = xlab('fit', *new, f'--init_from={tmp_path}/first/logs/version_0', '--trainer.max_steps=1')
    assert status == 0, printed
    [line] = [line for line in printed.splitlines() if 'initial weights from' in line]
    assert 'tensors loaded' in line
    assert 'new: ' not in line
    task = checkpoints.load(checkpoints.find('last', tmp_path)).task
    assert task.class_path.endswith('Embedder')
    assert task.arguments['trunk']['init_args']['d_model'] == 16


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--data.examples=NextTokens'], 'data.batch_groups is set, but the examples of NextTokens do not use it'),
        (['--data.batch_tokens=256'], 'data.batch_tokens is set, but the examples of TextGroups do not use it'),
        (['--data.plan=Chunk'], 'data.plan is set, but the examples of TextGroups do not use it'),
        (['--data.batch_groups=0'], 'data.batch_groups is 0; it must be at least 1'),
        (
            ['--model.objective=CoSENT'],
            'model.objective is CoSENT, which needs scores (data.examples.score, or scores)',
        ),
        (['--model.objective=Triplet'], 'needs negatives (data.examples.roles.negatives)'),
        (['--data.skip_rows=[[[0, 3], [0, 7]]]'], '16 groups (data.batch_groups) are one step'),
        (['--data.examples.batching=PerClass'], 'the records have no label'),
        (
            ['--model.evaluators+={class_path: xlabml.evaluation.Similarity}'],
            'an evaluator of model.evaluators does not fit: Similarity needs scores of pairs',
        ),
    ],
)
def test_what_does_not_go_together_is_refused(xlab, embed, flags, message):
    status, printed = xlab('fit', *embed, *flags)
    assert status == 2, printed
    assert message in printed


def test_autotune_measures_chunks_of_groups(xlab, embed, tmp_path, monkeypatch):
    monkeypatch.setattr(autotune, '_LEAST_CHUNK', 64)
    status, printed = xlab('fit', '--autotune', *embed, '--trainer.max_steps=1', '--trainer.limit_val_batches=0')
    assert status == 0, printed
    lines = [line.split() for line in printed.splitlines()]
    begin = lines.index(['device_batch_tokens', 'ms', 'groups/s', 'peak', 'memory'])
    sizes = [int(line[0].replace(',', '')) for line in lines[begin + 1 :] if len(line) == 4 and line[0][0].isdigit()]
    assert sizes == [64 * 2**i for i in range(len(sizes))]
    assert 1 < len(sizes) < 6  # up to one that holds all texts of a step
    contents = checkpoints.load(checkpoints.find('last', tmp_path))
    assert contents.data['device_batch_tokens'] in sizes


def test_nothing_about_embedders_stands_outside_its_own_files():
    source = Path(__file__).parents[2] / 'src/xlabml'
    rooms = ('callbacks', 'checkpoints', 'commands', 'datamodules', 'engine', 'telemetry')
    files = [path for room in rooms for path in (source / room).rglob('*.py')]
    assert not [path for path in files if re.search(r'\bEmbedder\b|\bTextGroups\b', path.read_text('utf-8'))]


def test_validate_data_shows_examples_as_they_are_read_and_what_they_are_like(xlab, embed):
    status, printed = xlab('validate_data', *embed, '--render=2', '--data.examples.max_tokens={positive: 5}')
    assert status == 0, printed
    assert '  anchor: 1 a group; tokens: median ' in printed
    assert '% of the texts are cut' in printed
    assert printed.count('train example ') == 2
    assert printed.count('  anchor: ') == 3
    assert 'tokens cut]' in printed
    status, printed = xlab('validate_data', *embed, '--render=1', '--render_split=all')
    assert status == 2
    assert "--render_split is 'all'; the splits are train, val, test, predict" in printed


def test_vectors_are_evaluated_by_a_search_that_chooses_the_best_checkpoint(run, xlab, embed):
    names = ('val_ndcg_at_10', 'val_recall_at_1', 'val_effective_rank')
    found = {name: read_curve(run, name) for name in names}
    assert all(found.values())
    best = max(found['val_ndcg_at_10'].values())
    assert f'val_ndcg_at_10={best:.4f}' in checkpoints.find('best', Path()).name
    # The same figures from another size of batches.
    status, printed = xlab(
        'validate', *embed, '--ckpt_path=best', '--data.batch_groups=4', '--data.accept_changes=true'
    )
    assert status == 0, printed
    assert f'{best:.4f}' in printed


def test_a_guide_is_held_against_its_hash_and_is_not_part_of_the_checkpoint(xlab, embed, run, tmp_path):
    guide = shutil.copy(checkpoints.find('last', tmp_path), tmp_path / 'guide.ckpt')
    flags = [*embed, '--model.objective=InfoNCE', '--model.objective.guide_margin=0.1', '--trainer.max_steps=2']
    status, printed = xlab('fit', *flags, '--model.guide=gone.ckpt')
    assert status == 2
    assert 'model.guide is gone.ckpt, which is not there' in printed
    assert not (tmp_path / 'logs/version_1').exists()
    (tmp_path / 'sts.jsonl').write_text(
        ''.join(json.dumps({'x': 'a dog', 'y': 'd' * i, 's': i}) + '\n' for i in (1, 5))
    )
    benchmark = (
        '--model.evaluators+={class_path: xlabml.evaluation.GroupFile, init_args: {path: sts.jsonl, score: s, '
        'score_range: [0, 5], roles: {a: x, b: y}, evaluator: {class_path: xlabml.evaluation.Similarity}}}'
    )
    status, printed = xlab('fit', *flags, f'--model.guide={guide}', benchmark, '--trainer.val_check_interval=2')
    assert status == 0, printed
    assert read_curve(tmp_path / 'logs/version_1', 'val_sts_cosine_spearman')
    contents = checkpoints.load(checkpoints.find('last', tmp_path))
    assert contents.facts['guide']['path'] == str(guide)
    assert contents.weights.keys() == checkpoints.load(guide).weights.keys()
    shutil.copy(sorted((run / 'checkpoints').glob('*.ckpt'))[0], guide)
    status, printed = xlab('fit', *flags, f'--model.guide={guide}', '--ckpt_path=last', '--trainer.max_steps=3')
    assert status == 2
    assert 'whose content is not that of the guide that the run began with' in printed
    guide.unlink()
    (tmp_path / 'sts.jsonl').unlink()
    assert TextEmbedder.load('last', 'cpu').encode('the cat').shape == (16,)


def test_two_data_sets_are_trained_each_by_its_objective(xlab, embed, pairs, texts, tmp_path):
    scored = tmp_path / 'scored.jsonl'
    scored.write_text(
        ''.join(json.dumps({'x': text[:9], 'y': text, 's': i % 6}) + '\n' for i, text in enumerate(texts))
    )
    (tmp_path / 'sets.yaml').write_text(
        f"""
model:
  class_path: Embedder
  init_args:
    objectives: [InfoNCE, CoSENT]
data:
  sources: [{{path: {pairs}}}, {{path: {scored}}}]
  examples:
    class_path: GroupSets
    init_args:
      sets:
        - {{class_path: TextGroups, init_args: {{roles: {{anchor: q, positive: p}}}}}}
        - {{class_path: TextGroups, init_args: {{roles: {{a: x, b: y}}, score: s, score_range: [0, 5]}}}}
"""
    )
    flags = [flag for flag in embed[2:] if not str(flag).startswith(('--data.sources', '--data.examples'))]
    status, printed = xlab('fit', '-c', 'sets.yaml', *flags, '--model.trunk.causal=false')
    assert status == 0, printed
    losses = read_curve(tmp_path / 'logs/version_0', 'val_loss')
    assert all(value > 0 for value in losses.values())
    status, printed = xlab('fit', '-c', 'sets.yaml', *flags, '--model.objectives=[CoSENT]')
    assert status == 2
    assert 'model.objective is CoSENT, which needs scores' in printed
