"""Figures of a corpus, against plain Python on the texts."""

import statistics
import sys

import numpy as np
import pytest

from xlabml.data import Location, Pack, compute_statistics, format_statistics, open_plan
from xlabml.data.inspection.histograms import check_picture, count_lengths, format_histogram, plot_histogram
from xlabml.data.sources.embedded import StandardLibrary
from xlabml.data.sources.validation import validate, write_invalid
from xlabml.data.store.progress import TerminalProgress


@pytest.fixture(scope='module')
def plan(corpus, tmp_path_factory):
    return open_plan(Pack(64), corpus, 'train', False, tmp_path_factory.mktemp('plans'))


def test_figures_are_those_of_the_texts(corpus, tokenizer, plan, texts):
    found = compute_statistics(corpus, 'train', tokenizer, plan)
    mine = [texts[i] for i in corpus.documents('train')]
    tokens = [tokenizer.encode(text) for text in mine]
    all_tokens = [id for ids in tokens for id in ids]
    characters = [len(text) for text in mine]
    assert found['texts']['documents'] == found['texts']['sample'] == len(mine)
    assert found['texts']['tokens'] == len(all_tokens)
    assert found['texts']['characters'] == sum(characters)
    assert found['texts']['bytes'] == sum(len(text.encode()) for text in mine)
    assert found['characters'] == {
        'mean': pytest.approx(statistics.mean(characters)),
        'median': statistics.median(characters),
        'std': pytest.approx(statistics.pstdev(characters)),
    }
    assert found['tokens']['mean'] == pytest.approx(len(all_tokens) / len(mine))
    assert found['characters_per_token'] == pytest.approx(sum(characters) / len(all_tokens))
    assert found['byte_fallback_ratio'] == pytest.approx(sum(12 <= id < 268 for id in all_tokens) / len(all_tokens))
    assert found['rows'] == {
        'count': len(plan),
        'length': 64,
        'fill_ratio': plan.fill_ratio,
        'used': plan.n_used,
        'padded': plan.n_padded,
        'cut': plan.n_cut,
        'max_pieces': plan.max_pieces,
    }
    assert found['vocabulary']['total'] == 350
    assert found['vocabulary']['learned'] == 350 - 12 - 256
    pieces = [tokenizer.piece(id) for id in range(268, 350)]
    assert found['vocabulary']['characters'] == sum(len(piece) == 1 for piece in pieces)
    assert found['vocabulary']['non_ascii'] == sum(not piece.replace('\u2581', ' ').isascii() for piece in pieces)


def test_a_sample_is_drawn_from_everywhere_and_the_same_for_a_seed(corpus, tokenizer, plan):
    draws = [compute_statistics(corpus, 'train', tokenizer, plan, 20, seed)['characters'] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    with pytest.raises(ValueError, match='sample_size is 0'):
        compute_statistics(corpus, 'train', tokenizer, plan, 0)


def test_the_figures_are_readable(corpus, tokenizer, plan):
    text = format_statistics(compute_statistics(corpus, 'train', tokenizer, plan))
    assert f'{len(plan):,} of 64 tokens, {plan.fill_ratio:.1%} filled' in text
    assert f'{plan.n_used:,} slots used, {plan.n_padded:,} padded\n' in text
    assert f' {plan.n_cut:,} tokens cut off' in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_lengths_are_counted_by_powers_of_two():
    lengths = np.array([1, 2, 3, 3, 9, 16, 31, 15])
    counts = count_lengths(lengths)
    assert counts == [(1, 1, 1), (2, 3, 3), (4, 7, 0), (8, 15, 2), (16, 31, 2)]
    assert count_lengths(np.array([1023, 1024, (1 << 50) - 1]))[::40] == [(512, 1023, 1), (1 << 49, (1 << 50) - 1, 1)]
    lines = format_histogram(counts)
    assert [line.count('#') for line in lines] == [14, 40, 0, 27, 27]
    assert lines[3].startswith(' 8 to 15 ####')
    assert lines[3].endswith(' 2')


def test_the_histogram_and_examples_are_of_the_split(corpus, tokenizer, plan, texts):
    found = compute_statistics(corpus, 'train', tokenizer, plan, 20, 1, n_examples=4)
    mine = [texts[i] for i in corpus.documents('train')]
    assert sum(count for _, _, count in found['lengths']) == len(mine)
    assert len(found['examples']) == 4
    assert set(found['examples']) <= set(mine)
    assert found['examples'] != mine[:4]


def test_a_picture_is_drawn_and_never_over_another(corpus, tmp_path):
    _, lengths = corpus.token_spans(corpus.documents('train'))
    for name in ('a.png', 'a.svg'):
        plot_histogram(lengths, 64, 'train', tmp_path / name)
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
    assert 'length of a row, 64' in (tmp_path / 'a.svg').read_text()
    plot_histogram(np.array([1, 1]), 64, 'short', tmp_path / 'b.png')
    with pytest.raises(FileExistsError, match=r'a\.png exists and is not overwritten'):
        plot_histogram(lengths, 64, 'train', tmp_path / 'a.png')
    with pytest.raises(ValueError, match=r'let its name end in \.png, \.svg or \.pdf'):
        check_picture(tmp_path / 'a.jpeg')
    with pytest.raises(ValueError, match=r'there is no folder .*none to write a\.png to'):
        check_picture(tmp_path / 'none' / 'a.png')


def test_a_picture_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ValueError, match=r'pip install "xlabml\[plots\]"'):
        check_picture(tmp_path / 'a.png')


def test_invalid_documents_are_named_with_their_reason(tmp_path):
    path = tmp_path / 'texts.jsonl'
    path.write_text('{"text": "fine"}\n{"text": ""}\n{"text": 5}\n{"text": "a\\ud800b"}\n{"text": "fine"}')
    found = list(validate(Location(str(path))))
    assert [item and item.reason for item in found] == [None, 'empty', 'not a string', 'lone surrogate', None]
    invalid = [item for item in found if item is not None]
    assert write_invalid(invalid, tmp_path / 'plain.csv') == 3
    assert (tmp_path / 'plain.csv').read_text() == 'index,reason\n1,empty\n2,not a string\n3,lone surrogate\n'
    write_invalid(invalid, tmp_path / 'dump.csv', dump=True)
    assert (tmp_path / 'dump.csv').read_text().splitlines()[1:] == [
        '1,empty,',
        '2,not a string,NQ==',
        '3,lone surrogate,Ye2ggGI=',
    ]


def test_a_source_of_strings_alone_is_valid():
    assert any(item is None for item in validate(StandardLibrary()))


def test_progress_stays_silent_where_there_is_no_terminal(capfd, monkeypatch):
    monkeypatch.setattr('xlabml.data.store.progress._PATIENCE_SECONDS', 0.0)
    with TerminalProgress() as report:
        report('tokenizing', 10, None)
    assert capfd.readouterr() == ('', '')


def test_progress_is_shown_on_a_terminal_once_it_takes_a_while(capfd, monkeypatch):
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    with TerminalProgress() as report:
        report('tokenizing', 10, None)
    assert capfd.readouterr() == ('', '')
    monkeypatch.setattr('xlabml.data.store.progress._PATIENCE_SECONDS', 0.0)
    with TerminalProgress() as report:
        report('tokenizing', 10, None)
        report('tokenizing', 20, None)
    assert 'tokenizing' in capfd.readouterr().err
