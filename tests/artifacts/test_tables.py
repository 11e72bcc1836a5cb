"""Rows as JSON lines, CSV and parquet."""

import csv
import json

import pytest
from pyarrow import parquet

from xlabml.artifacts import tables
from xlabml.errors import SettingsError

ROWS = [
    {'id': 'a:0', 'label': 'x, "y"', 'probabilities': {'x, "y"': 0.75, 'z': 0.25}, 'set': ['z'], 'answered': True},
    {'id': 'a:1', 'label': 'z\nä', 'probabilities': {'x, "y"': 0.5, 'z': 0.5}, 'set': [], 'answered': False},
]
NAMES = ['id', 'label', 'probabilities.x, "y"', 'probabilities.z', 'set', 'answered']


def test_rows_come_back_from_every_kind_of_file(tmp_path):
    for ending in tables.ENDINGS:
        tables.check_ending(f'x{ending}', 'output')
        assert tables.write_rows(tmp_path / f'x{ending}', iter(ROWS)) == 2
    assert [json.loads(line) for line in (tmp_path / 'x.jsonl').read_text().splitlines()] == ROWS
    with (tmp_path / 'x.csv').open(newline='') as file:
        header, first, second = csv.reader(file)
    assert header == NAMES
    assert first == ['a:0', 'x, "y"', '0.75', '0.25', '["z"]', 'true']
    assert second == ['a:1', 'z\nä', '0.5', '0.5', '[]', 'false']
    table = parquet.read_table(tmp_path / 'x.parquet')
    assert table.column_names == NAMES
    assert table.to_pylist()[0] == tables.flatten(ROWS[0])


def test_columns_are_chosen_and_named_anew(tmp_path):
    path = tmp_path / 'x.csv'
    tables.write_rows(path, ROWS, {'id': 'id', 'p': 'probabilities.z'})
    assert path.read_text() == 'id,p\na:0,0.25\na:1,0.5\n'
    with pytest.raises(SettingsError, match=r"no column 'y' to write; there are id, label, probabilities"):
        tables.write_rows(tmp_path / 'y.csv', ROWS, {'p': 'y'})
    assert not (tmp_path / 'y.csv').exists()
    with pytest.raises(SettingsError, match=r'output is x\.xls; give a file whose name ends in \.jsonl'):
        tables.check_ending('x.xls', 'output')
