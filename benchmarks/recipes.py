"""Bits per byte of recipes at equal wall-clock, on some corpora: the default, a plain loop, litgpt, nanochat, xlab 0.2.

Each run has the same seconds of training (validation, start, preparation and, of the loops, compiling are not counted).
`xlab fit` takes as many steps as fit into them, by the time of a step measured just before, so that what it compiles by
itself is counted. Learning rates of the others are the best of three on val of the first corpus, by the first seed, in
shorter runs (`--probe_seconds`). Runs go side by side, each on cores of its own. On a machine that has other work to
do, `--cpu_time` counts CPU time, of runs of one thread.

The loops (plain_loop.py, peer_loops.py) read the texts of the same splits, have one shape (256 wide, 6 layers, 4,096
tokens in the vocabulary, windows of 256, 2,048 tokens a step), and the default is measured at that shape as well.
litgpt needs an interpreter that has it (`--peers_python`), nanochat a checkout (`--nanochat`).

    python benchmarks/recipes.py --corpora leads stdlib TEXTS.jsonl --peers_python PYTHON --nanochat FOLDER

`--ladder` shows instead, on the first corpus, what lies between a plain recipe of our trunk and the default.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ADAMW = {'class_path': 'xlabml.training.AdamW', 'init_args': {'betas': [0.9, 0.95], 'eps': 1e-8, 'weight_decay': 0.1}}
LAYER_NORM = {'class_path': 'torch.nn.LayerNorm', 'init_args': {'eps': 1e-5}}
BEFORE = {'data.n_vocab': 4096, 'data.batch_tokens': 2048}


class Recipe(NamedTuple):
    """A way to train.

    Args:
        settings: What is not as in the default, by the setting's name.
        trunk: The same of the trunk.
        rates: Learning rates to choose from; () leaves what the settings say.
    """

    settings: dict[str, Any]
    trunk: dict[str, Any]
    rates: tuple[float, ...] = ()

    def job(self, rate: float | None) -> dict[str, Any]:
        """A run of it, as plain values."""
        return {'config': configure(self, rate)}


class Loop(NamedTuple):
    """A way to train in a loop of this folder.

    Args:
        arguments: The script, and its arguments.
        rates: Factors on its learning rates to choose from.
        python: The interpreter.
    """

    arguments: Sequence[str]
    rates: tuple[float, ...]
    python: str = sys.executable

    def job(self, rate: float | None) -> dict[str, Any]:
        """A run of it, as plain values."""
        return {'command': [self.python, *self.arguments, f'--rate_factor={rate or 1:g}']}


class Corpus(NamedTuple):
    """Texts to train on.

    Args:
        name: The word or the path that names it.
        sources: The setting data.sources; None: the default.
        folder: Where the texts of each split lie as JSON lines, and the tokenizer of the loops.
    """

    name: str
    sources: list[dict[str, Any]] | None
    folder: str


PLAIN_TRUNK = {
    'positions': 'Sinusoidal',
    'norm': LAYER_NORM,
    'activation': 'torch.nn.GELU',
    'qk_norm': False,
    'shift_width': 1,
    'scale_embedding': False,
    'init': {'class_path': 'Normal', 'init_args': {'embedding_std': 0.02}},
}
X_TRUNK = {
    **PLAIN_TRUNK,
    'bias': True,
    'scale_embedding': True,
    'init': {'class_path': 'Xavier', 'init_args': {'gain': 1.0, 'embedding_std': None}},
    'dropout': 0.1,
}
COSINE = {'class_path': 'WarmupCosine', 'init_args': {'warmup_ratio': 0.05, 'end_ratio': 0.0}}
CONSTANT = {'class_path': 'WarmupConstant', 'init_args': {'warmup_ratio': 0.05}}
RATES = (1e-3, 2e-3, 4e-3)

X = Recipe(
    {
        **BEFORE,
        'data.plan': 'Chunk',
        'model.optimizer': ADAMW,
        'model.schedule': CONSTANT,
        'model.tied': False,
        'model.head_bias': True,
    },
    X_TRUNK,
    RATES,
)
PLAIN = Recipe({**BEFORE, 'model.optimizer': ADAMW, 'model.schedule': COSINE}, PLAIN_TRUNK, RATES)
DEFAULT = Recipe({}, {})
AT_SHAPE = Recipe(
    {'data.n_vocab': 4096, 'data.max_len': 256, 'data.batch_tokens': 2048},
    {'d_model': 256, 'n_layers': 6, 'n_heads': 4},
)
"""The default at the shape of the loops."""
MUON = {
    'class_path': 'xlabml.training.Muon',
    'init_args': {'adamw_lr': 0.006, 'betas': [0.9, 0.98], 'weight_decay': 0.05},
}


def without(trunk: dict[str, Any], *names: str) -> dict[str, Any]:
    """A trunk with the default's ways of some things."""
    return {name: value for name, value in trunk.items() if name not in names}


NO_SHIFT = {'shift_width': 1}

LADDER = {
    'plain (AdamW, GELU, sinusoids, LayerNorm)': PLAIN,
    '… padded windows in place of packed rows': PLAIN._replace(settings={**PLAIN.settings, 'data.plan': 'Chunk'}),
    '… with rotary positions': PLAIN._replace(trunk=without(PLAIN_TRUNK, 'positions')),
    '… and RMSNorm, QK-norm': PLAIN._replace(trunk=without(PLAIN_TRUNK, 'positions', 'norm', 'qk_norm')),
    '… and ReLU²': PLAIN._replace(trunk=without(PLAIN_TRUNK, 'positions', 'norm', 'qk_norm', 'activation')),
    '… and scaled embeddings': PLAIN._replace(trunk=NO_SHIFT),
    '… and Muon': Recipe({**PLAIN.settings, 'model.optimizer': MUON}, NO_SHIFT),
    '… and linear decay, its rates, 1,024 slots a step': Recipe({'data.n_vocab': 4096}, NO_SHIFT),
    '… and 8,192 tokens in the vocabulary': Recipe({}, NO_SHIFT),
    '… and the shift: the default': DEFAULT,
}
"""Each step upon the one before, but for the second, which is beside the first."""


def configure(recipe: Recipe, rate: float | None) -> dict[str, Any]:
    """A recipe as a file of settings."""
    config: dict[str, Any] = {'model': {'trunk': dict(recipe.trunk)}, 'data': {}}
    for name, value in recipe.settings.items():
        group, _, setting = name.partition('.')
        config[group][setting] = value
    config = json.loads(json.dumps(config))
    if rate is not None:
        config['model']['optimizer']['init_args']['lr'] = rate
    return config


def prepare(name: str, folder: Path) -> Corpus:
    """Write the texts of each split, and train the tokenizers."""
    from ngrams import read_texts

    from xlabml.data import Location, StandardLibrary, WikipediaLeads
    from xlabml.datamodules import XLabDataModule
    from xlabml.datamodules.xlab_data_module import DEFAULT_SPLITS

    folder.mkdir(parents=True)
    sources: list[dict[str, Any]] | None = None
    source: Any = WikipediaLeads()
    if name == 'stdlib':
        source = StandardLibrary()
        sources = [{'class_path': 'StandardLibrary'}]
    elif name != 'leads':
        source = Location(name)
        sources = [{'path': str(Path(name).resolve())}]
    for split, texts in read_texts(source, DEFAULT_SPLITS).items():
        lines = (json.dumps({'text': text.decode()}) + '\n' for text in texts)
        (folder / f'{split}.jsonl').write_text(''.join(lines), 'utf-8')
    XLabDataModule(sources=[source]).prepare_data()
    data = XLabDataModule(sources=[source], n_vocab=4096)
    data.prepare_data()
    (folder / 'tokenizer').write_bytes(data.tokenizer_path.read_bytes())
    return Corpus(name, sources, str(folder))


def train_loop(
    command: list[str], corpus: Corpus, seconds: float, seed: int, threads: int, is_cpu_time: bool
) -> dict[str, float]:
    """Train in a loop of this folder: figures of val and test, steps, slots and seconds."""
    files = [f'--{split}={corpus.folder}/{split}.jsonl' for split in ('train', 'val', 'test')]
    options = [
        f'--tokenizer={corpus.folder}/tokenizer',
        f'--seconds={seconds}',
        f'--threads={threads}',
        f'--seed={seed}',
        *(['--cpu_time'] if is_cpu_time else []),
    ]
    done = subprocess.run([*command, *files, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f'{" ".join(command)} failed:\n{done.stderr[-3000:]}')
    return {**json.loads(done.stdout.splitlines()[-1]), 'seconds': seconds, 'seed': seed}


def train(
    job: dict[str, Any], corpus: Corpus, seconds: float, seed: int, threads: int, is_cpu_time: bool
) -> dict[str, float]:
    """Train for some seconds: figures of val and test, steps, slots and the seconds that it took."""
    if 'command' in job:
        return train_loop(job['command'], corpus, seconds, seed, threads, is_cpu_time)
    config = json.loads(json.dumps(job['config']))
    if corpus.sources is not None:
        config['data']['sources'] = corpus.sources
    import lightning.pytorch as L
    import torch

    from xlabml.commands.fit import quieten
    from xlabml.commands.parsing import parse
    from xlabml.commands.running import execute

    now = time.process_time if is_cpu_time else time.perf_counter

    class Clock(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 0:
                self.begin = now()
            if trainer.global_step == 10:
                self.warm = now()

        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == trainer.max_steps:
                self.seconds = now() - self.begin
                self.step = (now() - self.warm) / (trainer.global_step - 10)

    def fit(n_steps: int, folder: str, *more: str) -> tuple[Any, Clock]:
        clock = Clock()

        common = [f'--seed_everything={seed}', f'--trainer.max_steps={n_steps}', f'--trainer.default_root_dir={folder}']
        typed = ['fit', '-c', str(path), *common, '--trainer.val_check_interval=1.0', *more]
        return execute(parse(typed), [clock]), clock

    torch.set_num_threads(threads)
    quieten()
    warnings.simplefilter('ignore')
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, 'recipe.yaml')
        path.write_text(yaml.safe_dump(config), 'utf-8')
        step = min(fit(40, folder, '--trainer.limit_val_batches=0')[1].step for _ in range(2))
        n_steps = max(20, round(seconds / step))
        trained, clock = fit(n_steps, folder)
        val = float(trained.trainer.callback_metrics['val_bits_per_byte'])
        tested = execute(parse(['test', '--ckpt_path=last', f'--trainer.default_root_dir={folder}']))
        assert tested is not None
        test = float(tested.trainer.callback_metrics['test_bits_per_byte'])
    slots = n_steps * trained.data.batch_tokens
    return {'val': val, 'test': test, 'steps': n_steps, 'slots': slots, 'seconds': clock.seconds, 'seed': seed}


def take_cores(free: Any) -> None:
    """Keep this process on cores that no other one is on."""
    if cores := free.get():
        os.sched_setaffinity(0, cores)


class Runs:
    """Runs side by side, each remembered in a file, so that a benchmark that was interrupted resumes."""

    def __init__(
        self,
        path: Path,
        seconds: float,
        probe_seconds: float,
        threads: int,
        is_cpu_time: bool,
        pool: ProcessPoolExecutor,
    ) -> None:
        self.path = path
        self.seconds = seconds
        self.probe_seconds = probe_seconds
        self.threads = threads
        self.is_cpu_time = is_cpu_time
        self.pool = pool
        self.done = json.loads(path.read_text('utf-8')) if path.exists() else {}

    def __call__(
        self, wanted: list[tuple[dict[str, Any], Corpus, int]], seconds: float | None = None
    ) -> list[dict[str, float]]:
        seconds = seconds or self.seconds
        how = [seconds, self.threads, self.is_cpu_time]
        keys = [json.dumps([job, corpus.name, seed, *how]) for job, corpus, seed in wanted]
        futures = {
            key: self.pool.submit(train, job, corpus, seconds, seed, self.threads, self.is_cpu_time)
            for key, (job, corpus, seed) in zip(keys, wanted)
            if key not in self.done
        }
        for key, future in futures.items():
            self.done[key] = future.result()
            self.path.write_text(json.dumps(self.done, indent=1), 'utf-8')
            print(
                f'{len(self.done)} runs are done; val {self.done[key]["val"]:.4f}: {key}', file=sys.stderr, flush=True
            )
        return [self.done[key] for key in keys]

    def best_rates(self, recipes: Sequence[Recipe | Loop], corpus: Corpus) -> list[float | None]:
        """The rate of each recipe that is best on val, by the first seed."""
        choices = [(recipe, rate) for recipe in recipes for rate in recipe.rates]
        figures = iter(self([(recipe.job(rate), corpus, 0) for recipe, rate in choices], self.probe_seconds))
        tried = [[(next(figures)['val'], rate) for rate in recipe.rates] for recipe in recipes]
        return [min(of_recipe)[1] if of_recipe else None for of_recipe in tried]


def list_recipes(options: argparse.Namespace) -> dict[str, Recipe | Loop]:
    """What is compared, by name."""
    folder = Path(__file__).parent
    plain = str(folder / 'plain_loop.py')
    peers = str(folder / 'peer_loops.py')
    factors = (0.5, 1.0, 2.0)
    found: dict[str, Recipe | Loop] = {
        'default': DEFAULT,
        'default, shape of the loops': AT_SHAPE,
        'plain loop': Loop((plain,), factors),
        'plain loop, compiled': Loop((plain, '--compile'), factors),
        'xlab 0.2': X,
    }
    if options.peers_python:
        arguments = (peers, '--peer=litgpt', '--compile')
        found['litgpt, compiled'] = Loop(arguments, (4.0, 8.0, 16.0), options.peers_python)
    if options.nanochat:
        arguments = (peers, '--peer=nanochat', f'--nanochat={options.nanochat}', '--compile')
        found['nanochat, compiled'] = Loop(arguments, (4.0, 8.0, 16.0), options.peers_python or sys.executable)
    return found


def compare(runs: Runs, recipes: Mapping[str, Recipe | Loop], corpora: list[Corpus], n_seeds: int) -> None:
    """Print a table of all recipes for each corpus."""
    rates = dict(zip(recipes, runs.best_rates(list(recipes.values()), corpora[0])))
    jobs = {name: recipe.job(rates[name]) for name, recipe in recipes.items()}
    wanted = [(job, corpus, seed) for corpus in corpora for job in jobs.values() for seed in range(n_seeds)]
    figures = iter(runs(wanted))
    for corpus in corpora:
        print_head(corpus.name)
        for name, rate in rates.items():
            said = '' if rate is None else f', {"rate" if "config" in jobs[name] else "rates times"} {rate:g}'
            print_row(name + said, [next(figures) for _ in range(n_seeds)])


def climb(runs: Runs, corpus: Corpus) -> None:
    """Print the ladder from the plain recipe to the default, one seed."""
    [rate] = runs.best_rates([PLAIN], corpus)
    jobs = [step.job(rate if step.settings.get('model.optimizer') is ADAMW else None) for step in LADDER.values()]
    print_head(f'{corpus.name}, learning rate {rate:g} of AdamW; each step upon the one before')
    for name, row in zip(LADDER, runs([(job, corpus, 0) for job in jobs])):
        print_row(name, [row])


def estimate(options: argparse.Namespace, recipes: Mapping[str, Recipe | Loop], n_jobs: int) -> str:
    """How long it will take, at the most: each run has about a minute beside its training."""
    n_tried = len(RATES)
    n_runs = n_tried + len(LADDER)
    if not options.ladder:
        n_tried = sum(len(recipe.rates) for recipe in recipes.values())
        n_runs = n_tried + len(recipes) * len(options.corpora) * options.seeds
    seconds = n_tried * options.probe_seconds + (n_runs - n_tried) * options.seconds + n_runs * 60
    return f'{n_runs} runs, {n_jobs} side by side: about {seconds / 60 / n_jobs:,.0f} minutes'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--corpora', nargs='+', default=['leads', 'stdlib'], help='leads, stdlib, paths of texts')
    parser.add_argument('--seconds', type=float, default=120.0, help='of training, for each run')
    parser.add_argument('--probe_seconds', type=float, help='of each run that chooses a rate; not set: a quarter')
    parser.add_argument('--seeds', type=int, default=1, help='seeds of each recipe, from 0')
    parser.add_argument('--ladder', action='store_true', help='the steps from a plain recipe of ours to the default')
    parser.add_argument('--threads', type=int, default=1, help='cores of each run')
    parser.add_argument('--cpu_time', action='store_true', help='seconds of CPU time; needs --threads 1')
    parser.add_argument('--recipes', nargs='+', help='only recipes of these names, or whose names begin so')
    parser.add_argument('--peers_python', help='an interpreter with litgpt and this torch; none: no litgpt')
    parser.add_argument('--nanochat', help='a checkout of nanochat; none: no nanochat')
    parser.add_argument('--results', type=Path, default=Path('recipes.json'), help='runs that were made already')
    options = parser.parse_args()
    if options.cpu_time and options.threads > 1:
        parser.error('--cpu_time counts all threads together: it needs --threads 1')
    options.probe_seconds = options.probe_seconds or options.seconds / 4
    recipes = list_recipes(options)
    if options.recipes:
        begins = tuple(start for start in options.recipes if start not in recipes)
        recipes = {
            name: recipe for name, recipe in recipes.items() if name in options.recipes or name.startswith(begins)
        }
        if not recipes:
            parser.error(f'--recipes: no name begins so; there are {", ".join(list_recipes(options))}')

    context = multiprocessing.get_context('spawn')
    there = sorted(os.sched_getaffinity(0))
    n_jobs = max(1, len(there) // options.threads)
    free = context.Queue()
    for i in range(n_jobs):
        free.put(there[i * options.threads : (i + 1) * options.threads])
    print(estimate(options, recipes, n_jobs), flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(n_jobs, context, take_cores, (free,)) as pool,
    ):
        names = options.corpora[:1] if options.ladder else options.corpora
        corpora = [prepare(name, Path(folder, str(i))) for i, name in enumerate(names)]
        runs = Runs(options.results, options.seconds, options.probe_seconds, options.threads, options.cpu_time, pool)
        if options.ladder:
            climb(runs, corpora[0])
        else:
            compare(runs, recipes, corpora, options.seeds)


def print_head(title: str) -> None:
    """The title of a table, and its columns."""
    print(f'\n{title}\n{"":52}{"val":>8}{"test":>8}{"from":>8}{"to":>8}{"slots":>12}{"seconds":>9}')


def print_row(name: str, rows: list[dict[str, float]]) -> None:
    """Means over seeds, and the least and the most of test."""
    mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
    tests = [row['test'] for row in rows]
    print(
        f'{name:52}{mean["val"]:8.4f}{mean["test"]:8.4f}{min(tests):8.4f}{max(tests):8.4f}{mean["slots"]:12,.0f}'
        f'{mean["seconds"]:9.1f}'
    )


if __name__ == '__main__':
    main()
