"""The tiny runs whose checkpoints stay in `tests/earlier`, for all later versions to open, evaluate and resume.

`python tests/earlier_runs.py FOLDER SCRATCH` makes the files of the version of xlabml that is imported: checkpoints of
step 5 of 10, an export, and `expected.json`, the figures of that version. A new version gets a new folder; the files of
an earlier one are never made again.
"""

import contextlib
import json
import os
import random
import shutil
import sys
from pathlib import Path

import fsspec
import torch
from batch_hashes import HASHES, read_hashes

FOLDER = Path(__file__).parent / 'earlier/0.3.0'
SAVED_STEP, LAST_STEP = 5, 10
PROMPT = 'the cat'
IDS = [1, 40, 91, 17, 200, 33, 287, 64, 64, 120, 9, 300]
"""The row that logits are compared on: any tokens do."""

_EMA = '{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}'
_COMMON = [
    *('--data.n_vocab=304', '--data.splits={train: 0.8, val: 0.1, test: 0.1}', '--data.n_processes=1'),
    *('--data.max_len=32', '--data.batch_tokens=128'),
    *('--model.trunk.d_model=8', '--model.trunk.n_layers=1', '--model.trunk.n_heads=2'),
    *('--trainer.accelerator=cpu', '--trainer.precision=32-true', f'--trainer.max_steps={LAST_STEP}'),
    *('--trainer.log_every_n_steps=1', f'--trainer.val_check_interval={SAVED_STEP}', '--curves.peak_tflops=1'),
    *('--samples.n_tokens=2', f'--checkpoint.pin_steps=[{SAVED_STEP}]', '--trainer.default_root_dir=.'),
]
_MUON = '--model.optimizer.ns_dtype=float32'  # bfloat16 where the processor has it: other bits on another machine
_ALL = '--data.sources=[{class_path: RemoteFiles, init_args: {path: "memory://earlier/*.jsonl"}}]'
_TWO = (
    '--data.sources=[{class_path: RemoteFiles, init_args: {path: "memory://earlier/0.jsonl"}}, '
    '{class_path: RemoteFiles, init_args: {path: "memory://earlier/[1-5].jsonl"}}]'
)
RUNS = {
    'plain': [_MUON, _ALL, '--model.trunk.dropout=0.1'],
    'ema': [_MUON, _ALL, '--model.clip=AdaptiveClip', '--model.clip.min_steps=3'],
    'stream': [_MUON, _ALL, '--data.stream={cache_gb: 0.01, window_shards: 1, eval_shards: 3}'],
    'skip': [  # and, so that many classes are named, a recipe that differs from the default in most parts
        *(_TWO, '--data.weights=[1, 2]', '--data.skip=[[2, 3], [7, 7]]'),
        '--data.plan={class_path: Chunk, init_args: {stride_tokens: 24}}',
        '--model.optimizer={class_path: xlabml.training.AdamW, init_args: {lr: 0.01}}',
        '--model.schedule={class_path: WarmupCosine, init_args: {warmup_steps: 2}}',
        '--model.loss={class_path: CrossEntropy, init_args: {label_smoothing: 0.1}}',
        '--model.metrics=[{class_path: WithinNats}]',
        *('--model.trunk.positions=Sinusoidal', '--model.trunk.activation=torch.nn.GELU', '--model.tied=false'),
    ],
}
FILES = [*(f'{name}.ckpt' for name in RUNS), 'plain.safetensors']


def put_texts(folder=FOLDER):
    """Put the texts where the runs look for them: into the memory of this process, whose paths no machine changes."""
    lines = (folder / 'texts.jsonl').read_text('utf-8').splitlines(keepends=True)
    for i in range(6):
        with fsspec.open(f'memory://earlier/{i}.jsonl', 'w', encoding='utf-8') as file:
            file.write(''.join(lines[i::6]))


def flags(name):
    """What is typed for a run; the tokenizer is found in the cache, or in the checkpoint."""
    return [*_COMMON, *RUNS[name]]


def callbacks(name):
    """What is typed beside that when training."""
    return f'--trainer.callbacks=[{_EMA}, {HASHES}]' if name == 'ema' else f'--trainer.callbacks=[{HASHES}]'


def logits(model):
    """A few logits of each position of the row, and the log-partition function over all of them."""
    with torch.no_grad():
        found = model(torch.tensor([IDS]))[0]
    return torch.cat([found[:, ::40], found.logsumexp(-1, keepdim=True)], -1)


def read_rows(path, step, names):
    """Some figures of the rows of later steps."""
    rows = map(json.loads, path.read_text().splitlines())
    return [{name: row[name] for name in names} for row in rows if row['step'] > step]


def read_resumed(folder, version):
    """What is compared of the steps after the checkpoint: figures, validations, and which documents each batch has."""
    run = folder / f'logs/version_{version}'
    return {
        'steps': read_rows(run / 'log.jsonl', SAVED_STEP, ('step', 'train_loss', 'gradient_norm')),
        'validations': read_rows(run / 'eval.jsonl', SAVED_STEP, ('step', 'val_loss')),
        'batches': [
            {name: line[name] for name in ('step', 'split', 'ids', 'documents')}
            for line in read_hashes(folder)
            if line['step'] > SAVED_STEP
        ],
    }


def _write_texts(path):
    rng = random.Random(0)
    nouns, verbs = ['the cat', 'a dog', 'my horse', 'the sea'], ['sees', 'eats', 'likes', 'fears']
    with path.open('w', encoding='utf-8') as file:
        for _ in range(90):
            parts = [(rng.choice(nouns), rng.choice(verbs), rng.choice(nouns)) for _ in range(rng.randint(1, 9))]
            file.write(json.dumps({'text': '. '.join(map(' '.join, parts))}) + '\n')


def _make(folder, scratch):
    """Make all files of a folder; runs are written below another one, whose path the checkpoints then name."""
    from xlabml import checkpoints
    from xlabml.commands import fit
    from xlabml.generation import TextGenerator
    from xlabml.models import XLabModel

    os.environ['XLABML_CACHE'] = str(scratch / 'cache')
    _write_texts(folder / 'texts.jsonl')
    put_texts(folder)
    expected = {'logits': {}, 'texts': {}, 'tests': {}, 'resumed': {}}
    for name in RUNS:
        root = scratch / name
        root.mkdir()
        with contextlib.chdir(root):
            assert fit.main(['fit', *flags(name), callbacks(name)]) == 0
            (saved,) = root.glob(f'logs/version_0/checkpoints/step={SAVED_STEP:07d}*.ckpt')
            shutil.copy(saved, folder / f'{name}.ckpt')
            expected['resumed'][name] = read_resumed(root, 0)
            assert fit.main(['test', *flags(name), f'--ckpt_path={folder}/{name}.ckpt']) == 0
            expected['tests'][name] = json.loads((root / 'logs/version_1/eval.jsonl').read_text())['test_loss']
    checkpoints.export(folder / 'plain.ckpt', folder / 'plain.safetensors')
    for file in FILES:
        expected['logits'][file] = logits(XLabModel.load_from_checkpoint(folder / file).eval()).tolist()
        expected['texts'][file] = TextGenerator.load(folder / file, 'cpu').generate(PROMPT, 8, greedy=True)
    (folder / 'expected.json').write_text(json.dumps(expected, indent=0) + '\n')


if __name__ == '__main__':
    _make(*(Path(argument).absolute() for argument in sys.argv[1:]))
