"""Whatever stands in a file of settings: one message and an exit status, never a traceback, nothing left behind."""

import random
import time
from pathlib import Path

import pytest
import yaml

from xlabml.commands import fit
from xlabml.commands.errors import UsageError
from xlabml.commands.parsing import make_parsers, parse

RECIPE = (Path(__file__).parents[2] / 'conf' / 'xlab.yaml').read_bytes()
ABSENT = '/nowhere/texts.jsonl'

MALFORMED = {
    'empty': b'',
    'comment only': b'# nothing\n',
    'number': b'42\n',
    'list': b'- data\n- model\n',
    'words': b'just words\n',
    'long': b'a' * 100_000,
    'every byte': bytes(range(256)),
    'nul': b'\0\0\0',
    'not utf-8': b'trainer: {default_root_dir: \xff\xfe}\n',
    'utf-16': 'trainer: {max_steps: 1}\n'.encode('utf-16'),
    'tab': b'trainer:\n\tmax_steps: 1\n',
    'bad indent': b'trainer:\n  max_steps: 1\n devices: 1\n',
    'unclosed': b'trainer: {max_steps: 1',
    'two documents': b'trainer: {max_steps: 1}\n---\ndata: {}\n',
    'unknown alias': b'trainer: *nothing\n',
    'alias of itself': b'data: &all {sources: [*all]}\n',
    'code': b'trainer: !!python/object/apply:os.abort []\n',
    'number as key': b'data: {1: 2}\n',
    'list as key': b'? [data]\n: 1\n',
    'deep list': b'model: ' + b'[' * 5000 + b']' * 5000,
    'deep mapping': b'data: ' + b'{a: ' * 200 + b'1' + b'}' * 200,
    'unknown group': b'traner: {max_steps: 1}\n',
    'unknown key': b'data: {maxlen: 3}\n',
    'unknown key of a part': b'model: {trunk: {d_modl: 3}}\n',
    'group is a number': b'trainer: 5\n',
    'group is a list': b'data: [1]\n',
    'group is nothing': b'trainer:\n',
    'model is nothing': b'model:\n',
    'list for a number': b'data: {max_len: [1, 2]}\n',
    'word for a number': b'data: {max_len: many}\n',
    'fraction for a number': b'data: {max_len: 3.5}\n',
    'out of range': b'data: {max_len: -1}\n',
    'number for a part': b'model: {trunk: 5}\n',
    'list for arguments': b'model: {class_path: XLabModel, init_args: [1]}\n',
    'absent class': b'model: {class_path: xlabml.models.Nothing}\n',
    'absent module': b'model: {trunk: {class_path: nothing.at.All}}\n',
    'class of another kind': b'model: {trunk: {class_path: torch.nn.Linear}}\n',
    'function for a class': b'model: {class_path: os.system, init_args: {command: "true"}}\n',
    'number for a class': b'model: {class_path: 5}\n',
    'source without a path': b'data: {sources: [{name: x}]}\n',
    'unknown split': b'data: {splits: {trian: 1.0}}\n',
    'linked': b'model: {n_vocab: 3}\n',
    'absent checkpoint': b'ckpt_path: /nowhere/a.ckpt\n',
}


LAUGHS = '\n'.join(['a0: &a0 [x, x]', *(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]' for i in range(1, 30))])
MERGES = '\n'.join(
    ['a0: &a0 {x: 1}', *(f'a{i}: &a{i} {{<<: [{", ".join([f"*a{i - 1}"] * 9)}]}}' for i in range(1, 30))]
)
BOMBS = {
    'aliases': LAUGHS,
    'merge keys': MERGES,
    'aliases of settings': f'{LAUGHS}\ndata: {{sources: *a29}}',
    'long': f'data: {{tokenizer_path: {"a" * 10_000_000}}}',
    'long list': f'data: {{weights: [{"1, " * 3_000_000}]}}',
    'long key': f'{"a" * 10_000_000}: 1',
}


def run(content, tmp_path, capfd, *arguments):
    """Fit with these settings; the exit status and what was printed."""
    path = tmp_path / 'settings.yaml'
    path.write_bytes(content)
    folder = tmp_path / 'run'
    status = fit.main(
        ['fit', '-c', str(path), '--trainer.max_steps=1', f'--trainer.default_root_dir={folder}', *arguments]
    )
    printed = ''.join(capfd.readouterr())
    assert 'Traceback' not in printed
    assert sum(line.startswith(('xlab: ', 'error: ')) for line in printed.splitlines()) == 1, printed
    assert not [*folder.rglob('*')]
    return status, printed


@pytest.mark.parametrize('name', MALFORMED)
def test_malformed_settings_are_refused_in_one_message(name, tmp_path, capfd):
    source = [] if 'source' in name else [f'--data.sources=[{{path: {ABSENT}}}]']
    status, printed = run(MALFORMED[name], tmp_path, capfd, *source)
    assert status == 2
    assert ABSENT not in printed  # they are what is refused, not the source
    assert len(printed) < 5000


@pytest.mark.parametrize('name', BOMBS)
def test_settings_of_any_size_are_refused_quickly_and_not_repeated(name, tmp_path, capfd):
    started = time.process_time()
    status, printed = run(BOMBS[name].encode(), tmp_path, capfd)
    assert (status, time.process_time() - started < 10) == (2, True)
    assert str(tmp_path / 'settings.yaml') in printed
    assert len(printed) < 1000


@pytest.mark.parametrize(
    'flag', ['--data', '--model', '--data.sources', '--data.max_len', '--samples.prompt', '--evil']
)
@pytest.mark.parametrize('value', ['aliases', 'long'])
def test_values_of_any_size_are_refused_quickly_and_not_repeated(flag, value, tmp_path, capfd):
    text = {'long': 'a' * 10_000_000, 'aliases': f'{{{", ".join(LAUGHS.splitlines())}}}'}[value]
    if flag == '--samples.prompt':
        text = 'a' * 10_000_000  # aliases in it are text like any other
    started = time.process_time()
    status, printed = run(b'data: {}', tmp_path, capfd, f'{flag}={text}')
    assert (status, time.process_time() - started < 10) == (2, True)
    assert len(printed) < 2500


def test_a_file_that_a_file_names_is_bounded_too(tmp_path, capfd):
    (tmp_path / 'inner.yaml').write_text(LAUGHS)
    status, printed = run(f'data: {tmp_path}/inner.yaml'.encode(), tmp_path, capfd)
    assert status == 2
    assert 'aliases that stand for more' in printed


@pytest.mark.parametrize(
    'typed',
    [
        '--data.num_workers=1' + 30 * '0',
        '--trainer.max_steps=1' + 30 * '0',
        '--model.trunk.n_layers=1' + 30 * '0',
        '--seed_everything=1' + 30 * '0',
        '--checkpoint.pin_steps=[1' + 30 * '0' + ']',
    ],
)
def test_numbers_beyond_their_bound_are_refused_by_name(typed, tmp_path, capfd):
    status, printed = run(b'data: {}', tmp_path, capfd, f'--data.sources=[{{path: {ABSENT}}}]', typed)
    assert status == 2
    name = typed.lstrip('-').partition('=')[0]
    assert f'{name} is 1' in printed
    assert 'it can be at most' in printed


@pytest.mark.parametrize('name', ['tab', 'unclosed', 'not utf-8', 'empty', 'words', 'group is a number', 'deep list'])
def test_a_file_that_holds_no_settings_is_named(name, tmp_path, capfd):
    assert str(tmp_path / 'settings.yaml') in run(MALFORMED[name], tmp_path, capfd)[1]


def damage(content, draw):
    """The recipe cut off, with noise in it, or with a value of another kind at one place."""
    kind = draw.randrange(3)
    if kind == 0:
        return content[: draw.randrange(len(content))]
    if kind == 1:
        place = draw.randrange(len(content))
        return content[:place] + draw.randbytes(draw.randint(1, 8)) + content[place + draw.randint(0, 8) :]
    tree = yaml.safe_load(content)
    node, key = tree, draw.choice(list(tree))
    while isinstance(node[key], dict) and draw.random() < 0.8:
        node, key = node[key], draw.choice(list(node[key]))
    node[key] = draw.choice(
        [None, [], {}, [1, [2]], {'a': {'b': 1}}, -1, 1.5, True, '', 'word', 'torch.nn.Linear', '../x']
    )
    return yaml.safe_dump(tree).encode()


def check_damaged(seed, tmp_path, capfd):
    content = damage(RECIPE, random.Random(seed))
    status, printed = run(content, tmp_path, capfd, f'--data.sources=[{{path: {ABSENT}}}]')
    assert status in (1, 2), (content, printed)


@pytest.mark.parametrize('seed', range(8))
def test_no_damaged_recipe_leads_to_a_traceback(seed, tmp_path, capfd):
    check_damaged(seed, tmp_path, capfd)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(8, 300))
def test_no_recipe_damaged_in_any_way_leads_to_a_traceback(seed, tmp_path, capfd):
    check_damaged(seed, tmp_path, capfd)


@pytest.mark.parametrize(
    'settings',
    [
        'trainer:\n  devices.class_path: subprocess.Popen\n  devices.init_args.args: touch pwned\n',
        '{"trainer": {"devices.class_path": "subprocess.Popen", "devices.init_args.args": "touch pwned"}}',
        '{"trainer":{"devices.class_path":"subprocess.Popen","devices.init_args.args":"touch pwned"}}',
        "{'trainer': {'devices.class_path' : 'subprocess.Popen', 'devices.init_args.args' : 'touch pwned'}}",
    ],
    ids=['plain', 'JSON', 'JSON without spaces', 'single quotes'],
)
def test_a_key_with_dots_builds_no_class(xlab, tiny, tmp_path, settings):
    """jsonargparse would build it, whatever type belongs there."""
    (tmp_path / 'evil.yaml').write_text(settings)
    status, printed = xlab('fit', *tiny, '-c', tmp_path / 'evil.yaml')
    assert status == 2, printed
    assert 'a key with dots that names a class' in printed
    assert not (tmp_path / 'pwned').exists()


def test_every_argument_of_the_trainer_has_a_type():
    """jsonargparse builds whatever class a file names for an argument of any type."""
    actions = make_parsers(['fit']).commands['fit']._actions
    kinds = {one.dest: str(getattr(one, '_typehint', one.type)) for one in actions if one.dest.startswith('trainer.')}
    assert len(kinds) > 40
    assert not {name: kind for name, kind in kinds.items() if 'Untyped' in kind or 'typing.Any' in kind}


@pytest.mark.parametrize('name', ['callbacks', 'devices', 'plugins', 'accelerator', 'num_nodes'])
def test_a_class_that_does_not_belong_there_is_not_built(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = {'class_path': 'subprocess.Popen', 'init_args': {'args': ['touch', 'pwned']}}
    for value in (evil, [evil]):
        with pytest.raises(UsageError):
            parse({'trainer': {name: value}}, make_parsers(()))
