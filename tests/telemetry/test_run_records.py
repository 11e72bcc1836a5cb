"""Rows on disk: whole lines, whatever a killed run left behind."""

import json
import math
import os

import pytest

from xlabml.telemetry import records


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'run' / 'log.jsonl'
    for step in (1, 2, 3):
        records.append(path, {'step': step, 'loss': step / 2})
    return path


def steps(path):
    return [row['step'] for row in records.read(path).rows]


def test_every_row_is_on_disk_when_append_returns(path):
    lines = path.read_text().splitlines()
    assert [json.loads(line)['loss'] for line in lines] == [0.5, 1.0, 1.5]
    assert all('time' in json.loads(line) for line in lines)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(path, value):
    records.append(path, {'step': 4, 'loss': value})
    assert json.loads(path.read_text().splitlines()[-1], parse_constant=pytest.fail)['loss'] is None


@pytest.mark.parametrize('n_bytes', range(1, 40, 3))
def test_a_file_that_was_cut_anywhere_in_its_last_line_reads_and_goes_on(path, n_bytes):
    path.write_bytes(path.read_bytes()[:-n_bytes])
    read = records.read(path)
    assert [row['step'] for row in read.rows] == ([1, 2, 3] if n_bytes == 1 else [1, 2])
    assert read.n_broken == (n_bytes > 1)
    records.append(path, {'step': 3, 'loss': 9.0})
    assert records.read(path).rows[-1]['loss'] == 9.0
    assert steps(path)[:2] == [1, 2]


def test_damaged_lines_are_left_out_and_counted(path):
    path.write_bytes(b'[1]\n\xff\xfe\n' + path.read_bytes())
    assert steps(path) == [1, 2, 3]
    assert records.read(path).n_broken == 2


def test_later_rows_go_and_a_cut_line_with_them(path):
    path.write_bytes(path.read_bytes() + b'{"step": 4, "lo')
    assert records.drop_after(path, 2) == 2
    assert steps(path) == [1, 2]
    assert path.read_bytes().endswith(b'}\n')
    assert records.drop_after(path, 2) == 0
    assert [file.name for file in path.parent.iterdir()] == ['log.jsonl']


def test_rows_are_dropped_at_once_or_not_at_all(path, monkeypatch):
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.replace', fail)
    with pytest.raises(OSError, match='No space left'):
        records.drop_after(path, 1)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ['log.jsonl']


def test_there_is_nothing_to_drop_or_read_before_the_first_row(tmp_path):
    assert records.drop_after(tmp_path / 'log.jsonl', 3) == 0
    assert records.read(tmp_path / 'log.jsonl') == ([], 0)


@pytest.mark.parametrize(
    'values',
    [
        *({'step': 'x'}, {'step': True}, {'step': None}, {'step': []}),
        *({'time': 'x'}, {'time': -1}, {'time': '2026-01-01T00:00:00'}),
        *({'parameters': 'x'}, {'threads': 'x'}, {'peak_tflops': 'x'}, {'task': -1}, {'command': []}),
        *({'loss': 10**400}, {'loss': 1 << 63}),
    ],
)
def test_rows_with_values_that_nothing_can_be_computed_from_are_damaged(path, values):
    with path.open('a') as file:
        file.write(json.dumps({'step': 4, **values}) + '\n')
    assert steps(path) == [1, 2, 3]
    assert records.read(path).n_broken == 1
    assert records.drop_after(path, 3) == 1


def test_a_line_nested_without_end_is_damaged(path):
    path.write_bytes(b'[' * 200_000 + b'\n' + path.read_bytes())
    assert steps(path) == [1, 2, 3]


def test_what_is_no_file_or_far_too_large_is_not_read(path):
    pipe = path.with_name('pipe')
    os.mkfifo(pipe)
    assert records.read(pipe).rows == []
    assert records.drop_after(pipe, 1) == 0
    with path.open('r+b') as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r'log\.jsonl has 1,099,511,627,776 bytes'):
        records.read(path)
