"""Figures of tables: a line for each row, in no other line."""

from xlabml.figures import describe_tables, is_of_table


def test_a_table_has_a_line_for_each_row_and_intervals_in_brackets():
    figures = {
        'loss': 1.0,
        'bits/none': 2.0,
        'bits/all': 1.5,
        'saved/all': 0.25,
        'saved_low/all': 0.2,
        'saved_high/all': 0.3,
    }
    assert describe_tables(figures) == {'none': 'bits 2.0000', 'all': 'bits 1.5000, saved 0.2500 (0.2000 to 0.3000)'}
    assert [name for name in figures if not is_of_table(name)] == ['loss']
