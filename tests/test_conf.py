"""The files in conf/: each parses, says nothing twice, and says nothing in vain."""

import contextlib
import copy
import functools
import inspect
import io
from pathlib import Path

import lightning.pytorch as L
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from torch import nn

from xlabml.commands import fit
from xlabml.commands.trainer import Trainer
from xlabml.data import Plan, WikipediaLeads
from xlabml.data.groups import PerClass
from xlabml.training import AdamW, Muon, Schedule
from xlabml.transformer import GeGLU, Initializer, Positions, ReLU2, RMSNorm, SwiGLU

pytestmark = pytest.mark.usefixtures('unchecked')

CONF = Path(__file__).parents[1] / 'conf'
FILES = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob('*.yaml'))
NAMED = ['extra/original.yaml', 'gpt2_124m.yaml', 'kl3m.yaml', 'xlab.yaml']
"""Recipes of a fixed model: they pin everything, defaults too."""
OVERLAYS = [name for name in FILES if name not in NAMED]


def read(name):
    return yaml.safe_load((CONF / name).read_text('utf-8'))


@functools.cache
def print_config(*files):
    """The exit status of `xlab fit --print_config` with these files, and what it prints."""
    arguments = [part for file in files for part in ('-c', file)]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        status = fit.main(['fit', *arguments, '--print_config'])
    return status, out.getvalue()


def resolve(*names):
    status, printed = print_config(*(str(CONF / name) for name in names))
    assert status == 0, printed
    return printed


def leaves(tree, path=()):
    """The paths of all settings in a tree; a class is a setting, so is each of its arguments."""
    if isinstance(tree, dict) and 'class_path' in tree:
        yield path
        yield from leaves(tree.get('init_args') or {}, (*path, 'init_args'))
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        for i, item in enumerate(tree):
            yield from leaves(item, (*path, i))
    else:
        yield path


def is_class(tree, path):
    """Whether a setting is the choice of a class, which others depend on."""
    value = functools.reduce(lambda node, key: node[key], path, tree)
    return isinstance(value, dict) or any('class_path' in str(key) for key in path)


def without(tree, path):
    tree = copy.deepcopy(tree)
    parent = functools.reduce(lambda node, key: node[key], path[:-1], tree)
    del parent[path[-1]]
    return tree


@pytest.mark.parametrize('name', FILES)
def test_every_file_parses_and_its_print_gives_the_same_print(name, tmp_path):
    printed = resolve(name)
    path = tmp_path / 'printed.yaml'
    path.write_text(printed, 'utf-8')
    assert print_config(str(path)) == (0, printed)


@pytest.mark.parametrize('name', [*OVERLAYS, 'extra/original.yaml'])
def test_what_is_in_extra_goes_on_top_of_the_release_recipe(name):
    assert resolve('xlab.yaml', name) != resolve('xlab.yaml')


@pytest.mark.parametrize('name', [*NAMED, 'joint.yaml', 'metadata.yaml', 'portable.yaml'])
def test_these_have_no_shift(name):
    trunk = yaml.safe_load(resolve(name))['model']['init_args']['trunk']['init_args']
    assert trunk['shift_width'] == 1


def value_at(tree, path):
    """What stands at a path of a printed configuration; None where a class there has no such setting."""
    for key in path:
        if isinstance(tree, list):
            tree = tree[key] if isinstance(key, int) and key < len(tree) else None
        else:
            tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


@pytest.mark.parametrize('name', OVERLAYS)
def test_each_setting_of_an_overlay_changes_something(name, tmp_path):
    """On top of the code's defaults or of the release recipe; so that none repeats a default.

    Plain values are removed all at once first: where what is printed at the place of one changes, so it does where this
    one alone is removed, since defaults of plain values follow from classes alone. What is left is removed one by one.
    """
    file = read(name)
    paths = list(leaves(file))
    plain = [path for path in paths if all(isinstance(key, str) for key in path) and not is_class(file, path)]
    rest = functools.reduce(without, plain, file)
    less, recipe = tmp_path / 'less.yaml', str(CONF / 'xlab.yaml')
    less.write_text(yaml.safe_dump(rest), 'utf-8')
    printed = yaml.safe_load(resolve(name))
    status, defaults = print_config(str(less))
    changed = set()
    if status == 0:
        defaults = yaml.safe_load(defaults)
        changed = {path for path in plain if value_at(printed, path) != value_at(defaults, path)}
    for i, path in enumerate(path for path in paths if path not in changed):
        one = tmp_path / f'{i}.yaml'
        one.write_text(yaml.safe_dump(without(file, path)), 'utf-8')
        assert print_config(str(one)) != (0, resolve(name)) or print_config(recipe, str(one)) != (
            0,
            resolve(recipe, name),
        ), path


def test_the_defaults_of_the_package_are_of_arguments_not_ours_and_differ_from_theirs():
    own, theirs = inspect.signature(Trainer).parameters, inspect.signature(L.Trainer).parameters
    defaults = yaml.safe_load(fit.DEFAULTS.read_text('utf-8'))
    assert list(defaults) == ['trainer']
    assert not set(defaults['trainer']) & set(own)
    assert not [name for name, value in defaults['trainer'].items() if theirs[name].default == value]


def family(base):
    yield base
    for child in base.__subclasses__():
        if child.__module__.startswith('xlabml.'):
            yield from family(child)


@pytest.mark.parametrize(
    'siblings',
    [
        *([*family(base)] for base in (Positions, Plan, Schedule, Initializer)),
        [RMSNorm, nn.LayerNorm],
        [ReLU2, SwiGLU, GeGLU],
        [AdamW, Muon],
    ],
    ids=['positions', 'plans', 'schedules', 'initializers', 'norms', 'activations', 'optimizers'],
)
def test_siblings_that_share_an_argument_share_its_default(siblings):
    assert len(siblings) > 1
    defaults = {}
    for sibling in siblings:
        for name, parameter in inspect.signature(sibling).parameters.items():
            defaults.setdefault(name, set()).add(parameter.default)
    assert {name: values for name, values in defaults.items() if len(values) > 1} == {}


def test_a_step_of_the_warm_up_of_few_texts_has_room_for_each_topic_of_the_embedded_corpus():
    config = yaml.safe_load((CONF / 'fewshot.yaml').read_text('utf-8'))
    topics = {document.columns['topic'] for document in WikipediaLeads().documents(['topic'])}
    assert config['data']['examples']['init_args']['batching'] == 'PerClass'
    assert config['data']['batch_groups'] == len(topics) * PerClass().per_class


def test_the_release_recipe_with_an_overlay_fits_a_small_model_on_a_local_copy_of_the_hub_layout(tmp_path, capfd):
    folder = tmp_path / 'wikipedia'
    (folder / '20231101.en').mkdir(parents=True)
    texts = [f'Article {i} is about the number {i * i}, which is {i} times {i}. ' * (i % 5 + 1) for i in range(200)]
    table = pa.table({'id': [str(i) for i in range(200)], 'text': texts})
    pq.write_table(table, folder / '20231101.en' / 'train-00000-of-00001.parquet')
    settings = {
        'model.trunk': {'n_layers': 2, 'd_model': 32, 'n_heads': 2, 'd_ff': 64},
        'data': {'n_vocab': 340, 'max_len': 32, 'batch_tokens': 128, 'num_workers': 0},
        'trainer': {'max_steps': 2, 'default_root_dir': tmp_path, 'accelerator': 'cpu', 'devices': 1},
    }
    status = fit.main(
        [
            *('fit', '-c', str(CONF / 'xlab.yaml'), '-c', str(CONF / 'extra/early_stopping.yaml')),
            f'--data.sources=[{{path: {folder}, name: 20231101.en, split: train, column: text}}]',
            f'--data.tokenizer_path={tmp_path / "xlab.model"}',
            *(f'--{group}.{name}={value}' for group, values in settings.items() for name, value in values.items()),
        ]
    )
    out, err = capfd.readouterr()
    assert status == 0, out + err
    run = tmp_path / 'logs' / 'version_0'
    assert len(list((run / 'checkpoints').glob('step=0000002-val_loss=*.ckpt'))) == 1
    saved = yaml.safe_load((run / 'config.yaml').read_text('utf-8'))
    assert saved['model']['init_args']['trunk']['init_args']['positions']['class_path'].endswith('.Sinusoidal')
    assert saved['trainer']['callbacks'][0]['class_path'].endswith('.EarlyStopping')
