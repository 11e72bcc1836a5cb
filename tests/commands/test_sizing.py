"""`auto`: sizes of a run that follow from its texts."""

import contextlib

import pytest

from xlabml.commands import run_plan
from xlabml.commands.parsing import parse
from xlabml.commands.run_facts import describe_run
from xlabml.commands.running import prepare
from xlabml.commands.sizing import count_parameters, size_run
from xlabml.datamodules import XLabDataModule
from xlabml.errors import VocabularyError
from xlabml.models import XLabModel

SMALL = 2_000_000
"""Parameters of the default model's layers, about; the vocabulary's come on top."""


def plan(n_bytes, max_len=512, d_model=192):
    n_vocab = run_plan.vocabulary(n_bytes)
    n_tokens = round(n_bytes / run_plan.bytes_per_token(n_vocab))
    n_trained = run_plan.trained_tokens(n_tokens, SMALL + n_vocab * d_model)
    batch = run_plan.batch_tokens(n_trained, max_len)
    steps = run_plan.n_steps(n_trained, batch)
    return n_vocab, n_tokens, run_plan.held_share(n_tokens, n_trained), batch, steps


@pytest.mark.parametrize(
    ('n_bytes', 'n_vocab', 'steps', 'epochs'),
    [
        (50_000, 1024, (200, 500), (5, 15)),
        (5_000_000, 8192, (1500, 6000), (9, 11)),
        (10**9, 32_768, (2000, 8000), (0.2, 2)),
    ],
)
def test_a_small_a_middling_and_a_large_corpus_have_sensible_plans(n_bytes, n_vocab, steps, epochs):
    found, n_tokens, share, batch, length = plan(n_bytes)
    assert found == n_vocab
    assert steps[0] <= length <= steps[1]
    assert epochs[0] <= length * batch / n_tokens <= epochs[1]
    evaluated = share * n_tokens
    assert 0 < evaluated <= 200_001
    assert share <= 0.05
    assert 10 * evaluated / 3 < 0.12 * length * batch  # ten validations, at a third of the work
    assert batch % 512 == 0


def test_a_run_that_is_told_to_be_short_is_not_spent_on_validation():
    n_tokens = 200_000_000
    for n_trained in (10**5, 2 * 10**6):
        assert run_plan.held_share(n_tokens, n_trained) * n_tokens * 10 / 3 < 0.12 * n_trained


@pytest.mark.parametrize(('max_len', 'world'), [(512, 1), (1024, 8), (100, 3), (8192, 1)])
def test_a_step_has_whole_rows_on_each_device(max_len, world):
    for n_trained in (10**4, 10**6, 10**9, 10**12):
        batch = run_plan.batch_tokens(n_trained, max_len, world)
        assert batch % (max_len * world) == 0
        assert batch <= max(2 * 524_288, max_len * world)


def test_the_bytes_of_a_token_grow_with_the_vocabulary():
    sizes = [run_plan.bytes_per_token(2**n) for n in range(9, 16)]
    assert sizes == sorted(sizes)
    assert 1.8 < sizes[0] < 2.5
    assert 4 < sizes[-1] < 5


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.txt').write_text(
        'The quick brown fox jumps over the lazy dog, again and again.\n\n' * 800
    )  # 50.4 KB
    return 'a.txt'


EVEN = {'val': 0.05, 'test': 0.05, 'predict': 0.0}
AUTO = ('data.n_vocab', 'data.batch_tokens', 'trainer.max_steps', 'data.splits')


@pytest.fixture(scope='module')
def settings():
    """Those of a fit on the text, parsed once."""
    return parse(['fit', '--data.sources=a.txt'])


def test_what_is_auto_is_found_before_the_data_is_opened_and_printed(text, capsys):
    found = size_run(parse(['fit', f'--data.sources={text}', *(f'--{name}=auto' for name in AUTO)]))
    values = found.values
    assert values.data.n_vocab == values.model.init_args.n_vocab == 1024
    assert values.data.batch_tokens == 1024
    assert values.trainer.max_steps == 200
    assert values.data.splits == {'train': 0.9, **EVEN}
    said = capsys.readouterr().out
    for word in ('data.n_vocab 1,024, for 50.4 KB of text', 'trainer.max_steps 200', 'val 0.05'):
        assert word in said
    assert size_run(found) is found  # nothing is left to find


@pytest.mark.parametrize(
    ('typed', 'name', 'value'),
    [
        ({'data.n_vocab': 'auto'}, 'data.n_vocab', 1024),
        ({'data.splits': {'val': 'auto'}}, 'data.splits', {**EVEN, 'train': 0.9}),
        ({'data.splits': {'val': 0.2, 'test': 'auto'}}, 'data.splits', {**EVEN, 'train': 0.75, 'val': 0.2}),
        ({'trainer.max_steps': 'auto', 'data.batch_tokens': 2048}, 'trainer.max_steps', 200),
    ],
)
def test_one_alone_can_be_auto_and_the_others_are_as_they_are_typed(text, settings, typed, name, value):
    before = settings.changed(typed)
    after = size_run(before).values
    assert after[name] == value
    for other in AUTO:
        if other != name:
            assert after[other] == before.values[other]


@pytest.mark.parametrize(
    ('typed', 'message'),
    [
        ({'data.stream': {'cache_gb': 1}}, 'data.n_vocab is auto, and data.stream'),
        ({'trainer.max_epochs': 2}, 'trainer.max_steps is auto, and trainer.max_epochs is set'),
    ],
)
def test_where_it_cannot_be_found_it_is_refused_by_name(text, settings, typed, message):
    with pytest.raises(ValueError, match=message):
        size_run(settings.changed({**dict.fromkeys(AUTO, 'auto'), **typed}))


def test_a_text_that_is_not_there_is_refused_by_name(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r'a\.txt'):
        size_run(settings.changed({'data.n_vocab': 'auto'}))


@pytest.mark.parametrize(
    'more', [[], ['--model=Classifier', '--data.examples=LabelledTexts', '--data.examples.label=y']]
)
def test_repetitive_texts_get_the_vocabulary_that_they_can_have(tmp_path, monkeypatch, capsys, more):
    monkeypatch.setenv('XLABML_CACHE', str(tmp_path / 'cache'))
    row = '{"text": "error: disk full at /dev/sda1, retrying", "y": "class"}\n'
    (tmp_path / 'a.jsonl').write_text(''.join(row.replace('class', f'c{i % 7}') for i in range(900)))
    options = [f'--data.sources=[{{path: {tmp_path}/a.jsonl}}]', '--data.n_processes=1', '--data.drop_duplicates=false']
    with contextlib.ExitStack() as opened:
        found, data = prepare(parse(['fit', *options, *more, '--data.n_vocab=auto', '--data.max_len=64']), opened)
        data.prepare_data()
    n_vocab = len(data.tokenizer)
    assert 270 < n_vocab < 512
    assert found.values.data.n_vocab == found.values.model.init_args.n_vocab == n_vocab
    assert f'data.n_vocab {n_vocab}: the texts have no more tokens to learn' in capsys.readouterr().out
    with contextlib.ExitStack() as opened, pytest.raises(VocabularyError, match=f'set n_vocab to {n_vocab} or less'):
        prepare(parse(['fit', *options, *more, '--data.n_vocab=512', '--data.max_len=64']), opened)[1].prepare_data()


def test_a_constructor_takes_numbers_only():
    for name in ('n_vocab', 'batch_tokens', 'splits'):
        with pytest.raises(ValueError, match=rf'data\.{name} is .*auto'):
            XLabDataModule(**{name: 'auto'})


def test_parameters_are_counted_without_memory(settings):
    model = XLabModel(n_vocab=8192, max_len=512)
    assert count_parameters(settings) == sum(parameter.numel() for parameter in model.parameters())


def test_before_a_run_its_texts_rows_steps_and_epochs_are_said(text, tmp_path, monkeypatch):
    monkeypatch.setenv('XLABML_CACHE', str(tmp_path / 'cache'))
    options = ['--data.n_vocab=300', '--data.max_len=64', '--data.batch_tokens=128', '--data.n_processes=1']
    source = '--data.sources=[{path: a.txt, document: 1000}]'
    with contextlib.ExitStack() as opened:
        _, data = prepare(parse(['fit', source, *options, '--data.drop_duplicates=false']), opened)
        data.prepare_data()
        model = XLabModel(n_vocab=300, max_len=64)
        lines = list(describe_run(data, model, 40))
    documents = len(data.texts.corpus)
    assert lines[0].startswith(f'texts: {documents} documents, ')
    assert lines[0].endswith(' bytes a token')
    rows = len(data.texts.train_examples)
    assert lines[1].startswith(f'rows of 64: train {rows:,} (')
    assert 'val ' in lines[1]
    assert lines[2].startswith('run: 40 steps of 128 tokens, ')
    epochs = float(lines[2].partition('tokens, ')[2].partition(' epochs')[0])
    assert epochs == pytest.approx(40 * 2 / rows, rel=0.06)
    assert lines[2].endswith(' tokens a parameter')
