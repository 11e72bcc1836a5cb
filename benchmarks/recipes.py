"""Bits per byte of recipes at equal wall-clock: that of xlab 0.2, a plain one, the default, and what lies between.

Each run gets the same seconds of training (validation, start and preparation not counted): its steps are those seconds
over the time of a step, measured just before. Learning rates are the best of three on val, by the first seed. Runs go
side by side, each on cores of its own.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
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


PLAIN_TRUNK = {
    'positions': 'Sinusoidal',
    'norm': LAYER_NORM,
    'activation': 'torch.nn.GELU',
    'qk_norm': False,
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
MUON = {
    'class_path': 'xlabml.training.Muon',
    'init_args': {'adamw_lr': 0.006, 'betas': [0.9, 0.98], 'weight_decay': 0.05},
}


def without(trunk: dict[str, Any], *names: str) -> dict[str, Any]:
    """A trunk with the default's ways of some things."""
    return {name: value for name, value in trunk.items() if name not in names}


LADDER = {
    'plain (AdamW, GELU, sinusoids, LayerNorm)': PLAIN,
    '… padded windows in place of packed rows': PLAIN._replace(settings={**PLAIN.settings, 'data.plan': 'Chunk'}),
    '… with rotary positions': PLAIN._replace(trunk=without(PLAIN_TRUNK, 'positions')),
    '… and RMSNorm, QK-norm': PLAIN._replace(trunk=without(PLAIN_TRUNK, 'positions', 'norm', 'qk_norm')),
    '… and ReLU²': PLAIN._replace(trunk=without(PLAIN_TRUNK, 'positions', 'norm', 'qk_norm', 'activation')),
    '… and scaled embeddings': PLAIN._replace(trunk={}),
    '… and Muon': Recipe({**PLAIN.settings, 'model.optimizer': MUON}, {}),
    '… and linear decay, its rates, 1,024 slots a step': Recipe({'data.n_vocab': 4096}, {}),
    '… and 8,192 tokens in the vocabulary: the default': DEFAULT,
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


def train(config: dict[str, Any], seconds: float, seed: int, threads: int) -> dict[str, float]:
    """Train for so many seconds: figures of val and test, steps, slots and the seconds that it took."""
    import lightning.pytorch as L
    import torch

    from xlabml.commands.fit import quieten
    from xlabml.commands.parsing import parse
    from xlabml.commands.running import execute

    class Clock(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 0:
                self.begin = time.perf_counter()
            if trainer.global_step == 10:
                self.warm = time.perf_counter()

        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == trainer.max_steps:
                self.seconds = time.perf_counter() - self.begin
                self.step = (time.perf_counter() - self.warm) / (trainer.global_step - 10)

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
    """Runs side by side, each remembered in a file, so that a benchmark that was cut off goes on."""

    def __init__(self, path: Path, seconds: float, threads: int, pool: ProcessPoolExecutor) -> None:
        self.path, self.seconds, self.threads, self.pool = path, seconds, threads, pool
        self.done = json.loads(path.read_text('utf-8')) if path.exists() else {}

    def __call__(self, wanted: list[tuple[dict[str, Any], int]]) -> list[dict[str, float]]:
        keys = [json.dumps([config, seed, self.seconds, self.threads]) for config, seed in wanted]
        futures = {
            key: self.pool.submit(train, config, self.seconds, seed, self.threads)
            for key, (config, seed) in zip(keys, wanted)
            if key not in self.done
        }
        for key, future in futures.items():
            self.done[key] = future.result()
            self.path.write_text(json.dumps(self.done, indent=1), 'utf-8')
        return [self.done[key] for key in keys]

    def best_rates(self, recipes: Sequence[Recipe], seed: int) -> list[float | None]:
        """The rate of each recipe that is best on val."""
        choices = [(recipe, rate) for recipe in recipes for rate in recipe.rates]
        figures = iter(self([(configure(recipe, rate), seed) for recipe, rate in choices]))
        tried = [[(next(figures)['val'], rate) for rate in recipe.rates] for recipe in recipes]
        return [min(of_recipe)[1] if of_recipe else None for of_recipe in tried]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seconds', type=float, default=120.0, help='of training, for each run')
    parser.add_argument('--seeds', type=int, default=3, help='seeds of each recipe, from 0')
    parser.add_argument('--ladder', action='store_true', help='the steps from the plain recipe to the default too')
    parser.add_argument('--threads', type=int, default=1, help='cores of each run')
    parser.add_argument('--results', type=Path, default=Path('recipes.json'), help='what was run already')
    options = parser.parse_args()
    from xlabml.datamodules import XLabDataModule

    for n_vocab in (4096, 8192):
        XLabDataModule(n_vocab=n_vocab).prepare_data()
    context = multiprocessing.get_context('spawn')
    there = sorted(os.sched_getaffinity(0))
    n_jobs = max(1, len(there) // options.threads)
    free = context.Queue()
    for i in range(n_jobs):
        free.put(there[i * options.threads : (i + 1) * options.threads])
    with ProcessPoolExecutor(n_jobs, context, take_cores, (free,)) as pool:
        runs = Runs(options.results, options.seconds, options.threads, pool)
        recipes = {'xlab 0.2': X, 'AdamW, GELU, sinusoids': PLAIN, 'default': DEFAULT}
        rates = dict(zip(recipes, runs.best_rates(list(recipes.values()), 0)))
        chosen = [configure(recipe, rates[name]) for name, recipe in recipes.items()]
        figures = iter(runs([(config, seed) for config in chosen for seed in range(options.seeds)]))
        print(f'{options.seconds:g} s of training each, {options.threads} thread(s), seeds 0 to {options.seeds - 1}')
        print(f'{"":52}{"val":>8}{"test":>8}{"from":>8}{"to":>8}{"slots":>12}{"seconds":>9}')
        for name in recipes:
            rate = '' if rates[name] is None else f', learning rate {rates[name]:g}'
            print_row(name + rate, [next(figures) for _ in range(options.seeds)])
        if options.ladder:
            print('one seed, each step upon the one before:')
            rate = rates['AdamW, GELU, sinusoids']
            ladder = [
                configure(recipe, rate if recipe.settings.get('model.optimizer') is ADAMW else None)
                for recipe in LADDER.values()
            ]
            for name, row in zip(LADDER, runs([(config, 0) for config in ladder])):
                print_row(name, [row])


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
