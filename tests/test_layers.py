"""Which room leans on which: the table of the design, and what must not be loaded."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import xlabml

ROOT = Path(xlabml.__file__).parent
ANYTHING = {path.stem for path in ROOT.iterdir()} - {'__init__', '__pycache__', 'py'}
MAY_IMPORT = {
    'anatomy': set(),
    'errors': set(),
    'artifacts': set(),
    'blank': set(),
    'bm25': set(),
    'bounds': set(),
    'budget': set(),
    'figures': set(),
    'finite': set(),
    'hardware': set(),
    'moved': set(),
    'paths': set(),
    'plain': set(),
    'tfidf': set(),
    'settings': {'bounds', 'moved'},
    'untrusted': {'bounds'},
    'tokenizer': {'artifacts'},
    'batches': set(),
    'training': {'anatomy', 'hardware'},
    'checkpoints': {'artifacts', 'bounds', 'finite', 'moved', 'untrusted'},
    'losses': {'batches'},
    'evaluation': {'batches', 'bm25', 'data', 'metadata', 'ngram', 'tfidf'},
    'transformer': {'anatomy', 'batches', 'hardware', 'moved'},
    'heads': {'transformer', 'losses', 'anatomy', 'batches', 'checkpoints', 'finite', 'tfidf', 'untrusted'},
    'metadata': set(),
    'ngram': {'artifacts'},
    'data': {'tokenizer', 'batches', 'artifacts', 'blank', 'budget', 'paths', 'metadata'},
    'engine': {
        *(
            'training',
            'evaluation',
            'batches',
            'checkpoints',
            'artifacts',
            'figures',
            'finite',
            'hardware',
            'untrusted',
        ),
    },
    'datamodules': {'data', 'tokenizer', 'batches', 'checkpoints', 'artifacts', 'paths', 'engine', 'untrusted'},
    'models': {
        *('transformer', 'heads', 'losses', 'evaluation', 'training', 'batches', 'engine', 'checkpoints'),
        *('ngram', 'tokenizer', 'pipelines'),
    },
    'inference': {'transformer', 'batches'},
    'pipelines': {
        'blank',
        'bm25',
        'budget',
        'heads',
        'inference',
        'artifacts',
        'batches',
        'tokenizer',
        'checkpoints',
        'metadata',
        'ngram',
        'untrusted',
    },
    'conversion': {'heads', 'transformer', 'tokenizer', 'checkpoints', 'artifacts'},
    'telemetry': {'anatomy', 'batches', 'artifacts', 'bounds'},
    'reports': {'telemetry', 'figures', 'artifacts', 'untrusted'},
    'callbacks': ANYTHING - {'commands'},
    'commands': ANYTHING,
}

INSIDE_DATA = {
    'sources': set(),
    'store': {'sources'},
    'corpus': {'sources', 'store'},
    'rows': {'sources', 'store', 'corpus', 'order'},
    'groups': {'sources', 'store', 'corpus', 'rows', 'order'},
    'mixed': {'sources', 'store', 'corpus', 'rows', 'groups', 'order'},
    'conditioned': {'sources', 'store', 'corpus', 'rows', 'order'},
    'order': set(),
    'stream': {'sources', 'store', 'corpus', 'rows', 'order'},
    'batching': {'sources', 'store', 'corpus', 'rows', 'order', 'stream'},
    'prepared': {'sources', 'store', 'corpus', 'rows', 'groups', 'mixed', 'order', 'stream', 'batching'},
    'inspection': {'sources', 'store', 'corpus', 'rows', 'order'},
}
"""The rooms inside data and which each may import."""


def imported_rooms(room):
    """The rooms of ours that the files of a room import, and the libraries."""
    found = set()
    for path in [ROOT / f'{room}.py'] if (ROOT / f'{room}.py').exists() else (ROOT / room).rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return {name.split('.')[1] for name in found if name.startswith('xlabml.')} - {room}, {
        name.split('.')[0] for name in found
    }


def test_every_room_is_in_the_table():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == '.py' or (path / '__init__.py').exists()}
    assert rooms - {'__init__'} == set(MAY_IMPORT)


LEAVES = {
    'anatomy',
    'blank',
    'bm25',
    'bounds',
    'budget',
    'errors',
    'figures',
    'finite',
    'hardware',
    'moved',
    'plain',
    'settings',
    'tfidf',
}


def test_the_table_of_the_architecture_page_is_this_one():
    page = (ROOT.parents[1] / 'docs' / 'architecture.md').read_text('utf-8').partition('## Four walks')[0]
    rows = re.findall(r'^\| `(\w+)` \| .* \| ([^|]+) \|$', page, re.MULTILINE)
    known = {'nothing': set(), 'anything': ANYTHING - LEAVES, 'anything but commands': ANYTHING - LEAVES - {'commands'}}
    shown = {room: known.get(imports, set(imports.split(', '))) for room, imports in rows}
    assert shown == {room: MAY_IMPORT[room] - LEAVES for room in MAY_IMPORT if room not in LEAVES}


@pytest.mark.parametrize('room', MAY_IMPORT)
def test_a_room_imports_no_other_than_the_table_allows(room):
    rooms, libraries = imported_rooms(room)
    assert rooms <= MAY_IMPORT[room] | {'errors', 'plain'} | (
        {'settings'} if room not in ('batches', 'checkpoints') else set()
    )
    if room not in ('datamodules', 'engine', 'models', 'callbacks', 'commands'):
        assert 'lightning' not in libraries


PRIVATE = (
    *('fit_loop', 'epoch_loop', 'val_loop', 'validate_loop', 'predict_loop', 'test_loop', '_data_fetcher'),
    *('_should_accumulate', '_connector', '_on_before_batch_transfer', '_batches_that_stepped', 'optim_progress'),
    *('lightning.pytorch.loops', 'trainer.connectors', '_child_processes'),
)
"""Names of Lightning's loops and connectors, which change from one of its versions to the next."""


def test_lightnings_internals_are_known_to_the_engine_alone():
    files = [path for path in ROOT.rglob('*.py') if path.parent != ROOT / 'engine']
    found = {(path.name, name) for path in files for name in PRIVATE if name in path.read_text('utf-8')}
    assert not found


@pytest.mark.parametrize('room', INSIDE_DATA)
def test_the_rooms_inside_data_import_one_another_one_way(room):
    found = set()
    for path in (ROOT / 'data' / room).glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level < 2, f'{path} imports another room by dots'
                found |= set() if node.level else {f'{node.module}.{alias.name}' for alias in node.names}
    rooms = {name.split('.')[2] for name in found if name.startswith('xlabml.data.')}
    assert rooms - {room} <= INSIDE_DATA[room]


def test_every_room_inside_data_is_in_its_table():
    rooms = {path.stem for path in (ROOT / 'data').iterdir() if path.suffix == '.py' or (path / '__init__.py').exists()}
    assert rooms - {'__init__'} == set(INSIDE_DATA)


@pytest.mark.parametrize(
    ('library', 'modules'),
    {
        'torch': ['tokenizer', 'commands.infer', 'commands.manage'],
        'lightning': [
            'inference',
            'generation',
            'pipelines',
            'conversion',
            'heads.loading',
            'transformer',
            'losses',
            'training',
            'checkpoints',
            'data',
        ],
    }.items(),
)
def test_modules_leave_a_library_unloaded(library, modules):
    imports = ', '.join(f'xlabml.{module}' for module in modules)
    run(f'import sys, {imports}; sys.exit({library!r} in sys.modules)')


def test_an_import_touches_no_network_and_loads_no_datasets():
    run(
        'import socket, sys\n'
        'def refuse(*_): sys.exit("the network was touched")\n'
        'socket.socket.connect = socket.getaddrinfo = refuse\n'
        'import xlabml.commands.cli, xlabml.pipelines, xlabml.commands.manage\n'
        'sys.exit("datasets" in sys.modules)'
    )


def run(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
