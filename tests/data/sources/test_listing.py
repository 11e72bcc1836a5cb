"""Which files a folder or a pattern means: all that hold texts; what is passed over is said."""

import json
import os
from pathlib import Path

import datasets
import pytest
from served import served

from xlabml.data import Location, RemoteFiles
from xlabml.errors import SettingsError


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({'text': name}) if path.suffix.lower() == '.jsonl' else name)
    return folder


def names_of(source, folder):
    return [str(file.relative_to(folder)) for file in source.files()]


def test_a_folder_means_all_texts_in_it_and_in_its_folders(tmp_path):
    kinds = ['txt', 'TXT', 'md', 'text']
    fill(tmp_path, *(f'{place}{i:02d}.{kind}' for place in ('', 'sub/deep/') for i in range(20) for kind in kinds))
    source = Location(str(tmp_path))
    assert len(list(source.documents())) == 160
    assert source.passed_over() == ''
    names = names_of(source, tmp_path)
    assert names == [*sorted(names[:80]), *sorted(names[80:])]  # its own first, then those of its folders
    assert names[80].startswith('sub/deep/')


def test_what_is_passed_over_is_counted_by_ending(tmp_path):
    fill(tmp_path, 'a.jsonl', 'b.PDF', 'c.pdf', 'in/d.html.gz', 'Makefile', '_SUCCESS', '.hidden.txt', 'README.md')
    fill(tmp_path, '.git/config', '_temporary/x.jsonl', 'dataset_info.json')
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'dead').symlink_to(tmp_path / 'gone')
    line = Location(str(tmp_path)).passed_over()
    assert line.startswith('reads 1 files, passes over 12 others: 2 ')
    counts = '2 .pdf|2 hidden (. or _)|2 no files|2 hidden folders|1 .html.gz|1 without an ending|1 README'
    assert all(count in line for count in counts.split('|'))


def test_many_endings_are_named_in_one_line(tmp_path):
    fill(tmp_path, 'a.txt', *(f'{i}.ending{i}' for i in range(30)))
    line = Location(str(tmp_path)).passed_over()
    assert line.startswith('reads 1 files, passes over 30 others: ')
    assert line.endswith('22 of other endings')


def test_a_log_is_a_text_and_beside_others_it_is_not(tmp_path):
    logs = fill(tmp_path / 'logs', 'b.log', 'a.LOG')
    assert names_of(Location(str(logs)), logs) == ['a.LOG', 'b.log']
    assert Location(str(logs / 'b.log')).files() == [logs / 'b.log']
    mixed = Location(str(fill(tmp_path / 'mixed', 'run.log', 'a.txt')))
    assert mixed.passed_over() == 'reads 1 files, passes over 1 others: 1 .log'


def test_a_readme_beside_texts_is_one_of_them_and_beside_tables_is_not(tmp_path):
    assert len(Location(str(fill(tmp_path / 'texts', 'README.md', 'a.txt'))).files()) == 2
    assert names_of(Location(str(fill(tmp_path / 'tables', 'README.md', 'a.jsonl', 'b.txt'))), tmp_path / 'tables') == [
        'a.jsonl',
        'b.txt',
    ]
    apart = fill(tmp_path / 'apart', 'README.md', 'data/a.jsonl', 'data/b.md')
    assert names_of(Location(str(apart)), apart) == ['data/a.jsonl', 'data/b.md']
    assert names_of(Location(f'{apart}/**/*'), apart) == ['data/a.jsonl', 'data/b.md']


def test_a_pattern_takes_files_and_says_what_else_it_matches(tmp_path):
    fill(tmp_path, 'a.txt', 'b.pdf', 'in/c.txt', 'in/d.TXT', 'test-e.txt')
    for pattern, names in (
        ('*', ['a.txt', 'test-e.txt']),
        ('*.txt', ['a.txt', 'test-e.txt']),
        ('**/*', ['a.txt', 'in/c.txt', 'in/d.TXT', 'test-e.txt']),
        ('**/*.[tT][xX][tT]', ['a.txt', 'in/c.txt', 'in/d.TXT', 'test-e.txt']),
        ('in/*.txt', ['in/c.txt']),
    ):
        assert names_of(Location(f'{tmp_path}/{pattern}'), tmp_path) == names
    line = Location(f'{tmp_path}/*').passed_over()
    assert '1 folders (a pattern with ** takes what is in them)' in line
    assert '1 .pdf' in line
    with pytest.raises(ValueError, match=r'cannot read .*b\.pdf, which .* matches: a name must end in'):
        Location(f'{tmp_path}/*.pdf').files()


@pytest.mark.parametrize(
    ('names', 'split', 'files', 'said'),
    [
        (['train/a.txt', 'test/b.txt'], 'train', ['train/a.txt'], '1 of the split test'),
        (['train/a.txt', 'test/train-b.txt'], 'train', ['train/a.txt'], '1 of the split test'),
        (['train/a.txt', 'test/b.txt'], 'test', ['test/b.txt'], '1 of the split train'),
        (['data/train-0.jsonl', 'data/test-0.jsonl'], 'train', ['data/train-0.jsonl'], '1 of the split test'),
        (['a.txt', 'in/b.txt', 'dev/c.txt'], 'train', ['a.txt', 'in/b.txt'], '1 of the split dev'),
        (['train-0.jsonl', 'other.jsonl'], 'train', ['train-0.jsonl'], '1 not of the split train'),
        (['a/extra-0.jsonl', 'b.txt'], 'extra', ['a/extra-0.jsonl'], '1 not of the split extra'),
        (['en/test/0.jsonl', 'en/0.jsonl'], 'train', ['en/0.jsonl'], '1 of the split test'),
    ],
)
def test_of_a_folder_with_splits_one_is_read_and_the_others_are_said(tmp_path, names, split, files, said):
    source = Location(str(fill(tmp_path, *names)), split=split)
    assert names_of(source, tmp_path) == files
    assert said in source.passed_over()


def test_a_file_that_looks_like_another_split_is_never_taken_for_train(tmp_path):
    fill(tmp_path, 'a.txt', 'test-plan.txt')
    with pytest.raises(ValueError, match=r"no files of the split 'train' in .* or name a pattern, .*/\*\*/\*, which"):
        Location(str(tmp_path)).files()


@pytest.mark.parametrize('place', ['', 'in/'])
def test_dead_links_and_pipes_with_the_name_of_a_text_are_refused(tmp_path, place):
    fill(tmp_path, f'{place}a.jsonl')
    dead = tmp_path / f'{place}b.jsonl'
    dead.symlink_to('gone.jsonl')
    message = r'b\.jsonl is a link to gone\.jsonl, which is not there; mend the link, or remove it'
    for path in (tmp_path, f'{tmp_path}/**/*.jsonl', dead):
        with pytest.raises(ValueError, match=message):
            Location(str(path)).fingerprint()
    dead.unlink()
    os.mkfifo(dead)
    for path in (tmp_path, f'{tmp_path}/**/*.jsonl', dead):
        with pytest.raises(ValueError, match=r'b\.jsonl is no regular file .*write its output to a file'):
            Location(str(path)).fingerprint()


def test_links_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / 'texts', 'a.txt')
    fill(tmp_path / 'elsewhere', 'b.txt')
    (tmp_path / 'texts' / 'linked').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere' / 'back').symlink_to(tmp_path / 'texts')
    (tmp_path / 'texts' / 'c.txt').symlink_to(tmp_path / 'elsewhere' / 'b.txt')
    source = Location(str(tmp_path / 'texts'))
    assert names_of(source, tmp_path / 'texts') == ['a.txt', 'c.txt', 'linked/b.txt']
    assert '1 links to a folder above' in source.passed_over()


def test_a_pattern_goes_through_no_circle_of_links(tmp_path):
    fill(tmp_path, 'a.txt', 'in/b.txt', 'in/deep[1]/c.txt', '.hidden/d.txt')
    for name in ('one', 'in/two', 'in/three'):
        (tmp_path / name).symlink_to(tmp_path)  # two circles: glob would find each file 2 ** 40 times
    for pattern in ('**/*.txt', '**', '**/**/*.txt'):
        source = Location(f'{tmp_path}/{pattern}')
        assert names_of(source, tmp_path) == ['a.txt', 'in/b.txt', 'in/deep[1]/c.txt']
    assert names_of(Location(f'{tmp_path}/i*/**/*.txt'), tmp_path)[:2] == ['in/b.txt', 'in/deep[1]/c.txt']
    assert names_of(Location(f'{tmp_path}/**/deep*/*.txt'), tmp_path) == ['in/deep[1]/c.txt']


@pytest.mark.parametrize(
    ('path', 'message'),
    [('', 'is empty; name a file'), ('~nobody-here/a.txt', 'home directory'), (f'{"a" * 5000}.txt', 'too long')],
)
def test_a_path_that_leads_nowhere_was_typed(path, message):
    with pytest.raises(SettingsError, match=message):
        Location(path).fingerprint()


def test_a_folder_or_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    fill(tmp_path, 'a.txt', 'closed/b.txt')
    listed, opened = Path.iterdir, Path.open

    def forbid(self, *_, **__):
        if self.name in ('closed', 'a.txt'):
            raise PermissionError(13, 'Permission denied', str(self))
        return listed(self) if self.is_dir() else opened(self, *_, **__)

    monkeypatch.setattr(Path, 'open', forbid)
    with pytest.raises(ValueError, match=r'a\.txt may not be read \(Permission denied\); change its mode'):
        list(Location(str(tmp_path / 'a.txt')).documents())
    monkeypatch.setattr(Path, 'iterdir', forbid)
    with pytest.raises(ValueError, match=r'closed cannot be listed \(Permission denied\); change its mode'):
        Location(str(tmp_path)).fingerprint()


@pytest.mark.parametrize(
    'state',
    ['no JSON', '[]', '{"_data_files": [{}]}', '{"_data_files": [{"filename": "../other.arrow"}]}', '[' * 100_000],
)
def test_a_saved_dataset_that_says_nonsense_is_refused(tmp_path, state):
    datasets.Dataset.from_dict({'text': ['a']}).save_to_disk(tmp_path / 'saved')
    (tmp_path / 'saved' / 'state.json').write_text(state)
    with pytest.raises(ValueError, match=r'state\.json .*save .* anew'):
        Location(str(tmp_path / 'saved')).files()


def test_a_saved_dataset_that_lost_a_file_is_refused(tmp_path):
    datasets.Dataset.from_dict({'text': ['a', 'b']}).save_to_disk(tmp_path / 'saved', num_shards=2)
    (tmp_path / 'saved' / 'data-00001-of-00002.arrow').unlink()
    with pytest.raises(ValueError, match=r'data-00001-of-00002\.arrow is not there any more'):
        Location(str(tmp_path / 'saved')).files()


def test_a_folder_behind_a_url_means_the_same(tmp_path):
    fill(tmp_path / 'served', 'a.jsonl', 'b.JSONL', 'in/c.jsonl', 'in/d.pdf', '_SUCCESS', 'README.md', '_old/e.jsonl')
    with served(tmp_path / 'served') as server:
        source = RemoteFiles(server.url)
        names = [url[len(server.url) + 1 :] for (url,), _ in source.parts()]
        assert names == ['a.jsonl', 'b.JSONL', 'in/c.jsonl']
        line = source.passed_over()
        assert [document.text for document in source.documents()] == names
    assert line.startswith('reads 3 files, passes over 4 others: ')
    for count in ('1 .pdf', '1 hidden (. or _)', '1 README', '1 in hidden folders (. or _)'):
        assert count in line
    assert json.dumps(source.fingerprint())
