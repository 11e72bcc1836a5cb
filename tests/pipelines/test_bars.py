"""The bar: nothing where nobody looks, and a count where somebody does."""

import pytest

from xlabml.pipelines import bars


@pytest.mark.parametrize('total', [None, 5])
def test_a_bar_counts_what_is_done(total, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    with bars.progress_bar('texts labelled', True, total) as advance:
        for _ in range(3):
            advance(1)
    shown = capsys.readouterr()
    assert not shown.out
    assert 'texts labelled' in shown.err
    assert ('3/5' if total else '3/?') in shown.err


def test_what_is_done_in_a_moment_has_no_bar(capsys, monkeypatch):
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    with bars.progress_bar('texts labelled') as advance:
        advance(1)
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(bars, '_QUIET_SECONDS', 0)
    with bars.progress_bar('texts labelled') as advance:
        advance(1)
    assert 'texts labelled' in capsys.readouterr().err
    monkeypatch.setattr('sys.stderr.isatty', lambda: False)
    with bars.progress_bar('texts labelled') as advance:
        advance(1)
    assert capsys.readouterr().err == ''
