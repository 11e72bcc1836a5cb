"""Names of earlier versions: modules that moved are found where they are now, by everything that names classes."""

import importlib
import pickle
import subprocess
import sys
import types

import jsonargparse
import pytest

import xlabml.data
from xlabml import moved, settings
from xlabml.data import Plan
from xlabml.untrusted.matching import match_arguments

OF_FLAT_DATA = {
    'corpus': 'Corpus',
    'embedded': 'WikipediaLeads StandardLibrary',
    'held_out': 'Overlap',
    'loaders': 'EvalBatches Positions',
    'location': 'Location',
    'mixture': 'Mixture',
    'near_duplicates': 'NearDuplicates NearPairs',
    'pieces': 'InPieces CutAtColumn CutAtPattern JoinColumns',
    'plan_rows': 'Pieces PlanRows',
    'plans': 'Plan Pack Concat Chunk',
    'processes': 'Processes',
    'progress': 'TerminalProgress',
    'remote': 'RemoteFiles',
    'rows': 'Rows',
    'shards': 'NoRoom Shard ShardCache',
    'shared_parts': 'SharedJob',
    'sources': 'Document Part Source',
    'store': 'TokenStore',
    'stream': 'Stream StreamedRows',
    'validation': 'Invalid',
}
"""The classes of `xlabml.data` by the modules that they stood in while it was one flat folder."""

OLD_PATHS = [f'xlabml.data.{module}.{name}' for module, names in OF_FLAT_DATA.items() for name in names.split()]


@pytest.mark.parametrize('path', OLD_PATHS)
def test_a_class_is_found_by_the_path_that_it_once_had(path):
    module, _, name = path.rpartition('.')
    found = settings.find_class(path)
    assert found.__name__ == name
    assert found is getattr(importlib.import_module(module), name)
    assert getattr(xlabml.data, name, found) is found


def test_classes_of_the_flat_trunk_are_found_by_their_old_paths():
    from xlabml.transformer import Cache

    assert settings.find_class('xlabml.transformer.cache.Cache') is Cache
    assert settings.find_class('xlabml.transformer.attention.Rule').__name__ == 'Rule'


def test_an_old_module_does_not_hide_the_function_of_its_name():
    code = (
        'import xlabml.transformer.language_model, xlabml.transformer.kernels, sys\n'
        'from xlabml import heads, transformer\n'
        'assert transformer.language_model is heads.language_model\n'
        'from xlabml.transformer import language_model\n'
        'assert language_model is heads.language_model\n'
        'from xlabml.transformer.language_model import LanguageModel\n'
        'assert LanguageModel is heads.LanguageModel\n'
        'assert transformer.kernels is sys.modules["xlabml.transformer.attention.kernels"]\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


CLASSES = [old for old in moved.MOVED if old.rpartition('.')[2][0].isupper()]


@pytest.mark.parametrize('old', CLASSES)
def test_a_class_that_moved_alone_is_found_by_its_old_path_and_in_its_old_room(old):
    room, _, name = old.rpartition('.')
    assert settings.find_class(old) is settings.find_class(moved.MOVED[old])
    assert getattr(importlib.import_module(room), name) is settings.find_class(old)


@pytest.mark.parametrize('old', [old for old in moved.MOVED if old not in CLASSES])
def test_an_old_module_is_the_new_one_under_a_second_name(old):
    if old == 'xlabml.data.cluster':
        pytest.importorskip('datatrove')
    module, name = importlib.import_module(old), moved.MOVED[old]
    assert module is importlib.import_module(name)
    assert module.__name__ == module.__spec__.name == name
    assert moved.renamed(name) == name


def test_a_file_that_names_an_old_path_is_read(tmp_path):
    (tmp_path / 'old.yaml').write_text('plan:\n  class_path: xlabml.data.plans.Chunk\n  init_args:\n    length: 9\n')
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument('-c', action='config')
    parser.add_argument('--plan', type=Plan)
    config = parser.parse_args(['-c', str(tmp_path / 'old.yaml')])
    assert type(parser.instantiate(config).plan) is xlabml.data.Chunk


def test_a_checkpoint_that_names_an_old_path_is_built_and_described_with_the_new_one():
    def task(plan: Plan) -> None: ...

    written = {'plan': {'class_path': 'xlabml.data.plans.Chunk', 'init_args': {'length': 9}}}
    matched = match_arguments(task, written, 'data')
    assert matched['plan']['class_path'] == 'xlabml.data.rows.plans.Chunk'
    assert settings.describe(settings.build(written['plan'], Plan))['class_path'] == 'xlabml.data.Chunk'


def test_a_pickle_of_an_earlier_version_opens():
    old = b'cxlabml.data.plans\nPack\n.'
    assert pickle.loads(old) is xlabml.data.Pack
    assert b'xlabml.data.rows.plans' in pickle.dumps(xlabml.data.Pack)


def test_an_old_name_imports_in_a_fresh_process_and_no_other_module_is_made_up():
    code = (
        'from xlabml.data.plans import Pack\n'
        'import xlabml.data.location as l, xlabml.data.sources.location as new\n'
        'assert l is new\n'
        'try: import xlabml.data.plans.nothing\n'
        'except ModuleNotFoundError: pass\n'
        'else: raise SystemExit("made up")\n'
        'try: import xlabml.data.nothing\n'
        'except ModuleNotFoundError as error: assert error.name == "xlabml.data.nothing"\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def room(monkeypatch):
    """A room that was `xlabml.old_room` and moved as a whole, and one class that moved alone."""
    monkeypatch.setitem(moved.MOVED, 'xlabml.old_room', 'xlabml.untrusted')
    monkeypatch.setitem(moved.MOVED, 'xlabml.left_room.Plan', 'xlabml.data.Plan')
    left = types.ModuleType('xlabml.left_room')
    monkeypatch.setitem(sys.modules, 'xlabml.left_room', left)
    left.__getattr__ = moved.old_names('xlabml.left_room')
    yield left
    for name in [name for name in sys.modules if name.startswith('xlabml.old_room')]:
        del sys.modules[name]
    vars(xlabml).pop('old_room', None)


def test_the_modules_of_a_room_that_moved_are_not_loaded_twice(room):
    from xlabml.untrusted import matching

    assert importlib.import_module('xlabml.old_room.matching') is matching
    assert moved.renamed('xlabml.old_room.matching.match_part') == 'xlabml.untrusted.matching.match_part'
    assert matching.__spec__.name == 'xlabml.untrusted.matching'


def test_a_class_that_left_its_room_is_still_an_attribute_of_it(room):
    assert room.Plan is Plan
    with pytest.raises(AttributeError, match=r"module 'xlabml.left_room' has no attribute 'Other'"):
        room.Other  # noqa: B018
    assert settings.find_class('xlabml.left_room.Plan') is Plan


def test_an_old_path_opens_no_way_around_what_may_be_named(monkeypatch):
    monkeypatch.setitem(moved.MOVED, 'xlabml.old', 'xlabml.commands')
    with pytest.raises(ValueError, match=r'is a command, not a part'):
        settings.find_class('xlabml.old.fit.XLabCLI')
    assert all(f'{new}.'.startswith('xlabml.') for new in moved.MOVED.values())
