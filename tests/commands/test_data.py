"""The subcommands that prepare data and look at it."""

import json
import os
import random
import re
import sys
from pathlib import Path

import pytest
from served import served


@pytest.mark.parametrize('plan', ['Pack', 'Concat', 'Chunk'])
def test_validate_data_prints_whose_each_position_is(xlab, tiny, texts, corpus, plan):
    status, printed = xlab('validate_data', *tiny, f'--data.plan={plan}', '--map_rows=[0, 3]')
    assert status == 0, printed
    assert 'is as it was written' in printed
    for row in (0, 3):
        found = re.findall(rf'train row {row}, positions (\d+) to (\d+): (.*)', printed)
        assert [int(first) for first, _, _ in found] == [0, *(int(last) + 1 for _, last, _ in found[:-1])]
        assert found[-1][1] == '31'
        for first, last, what in found:
            if what != 'padding':
                document, begin, end = map(int, re.fullmatch(r'document (\d+), offsets (\d+) to (\d+)', what).groups())
                assert document < len(texts)
                assert end - begin == int(last) - int(first)


def test_validate_data_compares_a_store_with_its_hashes(xlab, tiny):
    _, printed = xlab('prepare_data', *tiny)
    folder = re.search(r'store: (\S+)', printed).group(1)
    status, printed = xlab('validate_data', *tiny)
    assert status == 0, printed
    assert f'{folder} is as it was written (300 documents)' in printed
    with open(f'{folder}/hashes.bin', 'r+b') as file:
        file.write(b'changed')
    status, printed = xlab('validate_data', *tiny)
    assert status == 1
    assert 'hashes.bin is not what manifest.json says' in printed


def test_validate_data_compares_plans_with_their_hashes(xlab, tiny):
    _, printed = xlab('fit', *tiny, '--trainer.max_steps=1')
    status, printed = xlab('validate_data', *tiny)
    assert status == 0, printed
    plans = re.findall(r'plan: (\S+) is as it was written \(\d+ rows of (train|val)\)', printed)
    assert len(plans) == 2
    path = Path(plans[0][0], 'documents.bin')
    time = path.stat().st_mtime_ns
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(time, time))  # what the disk loses changes no time
    status, printed = xlab('validate_data', *tiny)
    assert status == 1
    assert f'{path} is not what manifest.json says' in printed
    assert f'delete {path.parent}, and it is prepared anew' in printed


def test_a_row_that_is_not_there_is_refused(xlab, tiny):
    status, printed = xlab('validate_data', *tiny, '--map_rows=[100000]', '--map_split=val')
    assert status == 2
    assert 'there is no row 100000' in printed


def test_compute_stats_says_what_each_plan_pads_and_cuts(xlab, tiny):
    cut = {}
    for plan in ('Pack', 'Concat', 'Chunk'):
        status, printed = xlab('compute_stats', *tiny, f'--data.plan={plan}')
        assert status == 0, printed
        used, padded = (
            int(n.replace(',', '')) for n in re.search(r'([\d,]+) slots used, ([\d,]+) pad', printed).groups()
        )
        cut[plan] = int(re.search(r'([\d,]+) tokens cut off', printed).group(1).replace(',', ''))
        assert (used + padded) % 32 == 0
    assert cut['Pack'] == cut['Chunk'] < cut['Concat']


@pytest.fixture
def near(tmp_path, corpus):
    """The flags of a source with near-duplicates in every split."""
    draw = random.Random(0)
    words = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta']
    texts = []
    for _ in range(40):
        text = draw.choices(words, k=60)
        texts += [' '.join([*text, str(i)]) for i in range(5)]
    path = tmp_path / 'near.jsonl'
    path.write_text('\n'.join(json.dumps({'text': text}) for text in texts))
    return [f'--data.sources=[{{path: {path}}}]', f'--data.tokenizer_path={corpus}/tiny.model', '--data.n_vocab=320']


def test_near_duplicates_are_reported_dropped_or_refused(xlab, tiny, near):
    pytest.importorskip('rensa')
    reported = '--data.near_duplicates={threshold: 0.8}'
    status, printed = xlab('compute_stats', *near, reported)
    assert status == 0, printed
    assert '160 of 200 documents are near-duplicates of earlier ones\n' in printed
    assert len(re.findall(r'^  \d+ \(\w+\) is nearly \d+ \(\w+\), \d+% alike$', printed, re.MULTILINE)) == 5
    shared = int(re.search(r'(\d+) documents of test have a near-duplicate in train', printed).group(1))
    assert shared > 0
    status, printed = xlab('fit', *tiny, *near, '--data.near_duplicates={action: refuse}')
    assert status == 1
    assert ' documents of test have near-duplicates in the train split: ' in printed
    assert '--data.near_duplicates.action drop' in printed
    status, printed = xlab('prepare_data', *near, '--data.near_duplicates={action: drop}')
    assert status == 0, printed
    assert '160 of 200 documents are near-duplicates of earlier ones and are dropped' in printed
    assert 'in train\n' not in printed
    _, printed = xlab('compute_stats', *near, '--data.near_duplicates={action: drop}')
    assert int(re.search(r'train: (\d+) texts', printed).group(1)) < 60


def test_compute_stats_draws_a_picture_once(xlab, tiny, tmp_path):
    status, printed = xlab('compute_stats', *tiny, '--plot=lengths.png', '--n_examples=2')
    assert status == 0, printed
    assert (tmp_path / 'lengths.png').read_bytes().startswith(b'\x89PNG')
    assert re.search(r'tokens of +\d+ to +\d+ #+', printed)
    status, printed = xlab('compute_stats', *tiny, '--plot=lengths.png')
    assert (status, printed) == (2, 'xlab: lengths.png exists and is not overwritten; name another file\n')


def test_of_a_stream_the_shards_that_stay_are_described_each_as_its_own(xlab, tiny, texts, tmp_path):
    for i in range(3):
        rows = [{'text': text} for text in ['', *texts[60 * i : 60 * i + 60]]]
        (tmp_path / f'{i}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    with served(tmp_path) as server:
        sources = [f'{{class_path: RemoteFiles, init_args: {{path: "{server.url}/{i}.jsonl"}}}}' for i in ('[01]', 2)]
        stream = [*tiny[1:7], f'--data.sources=[{", ".join(sources)}]', '--data.n_processes=1']
        status, printed = xlab('prepare_data', *stream, '--data.stream={eval_shards: 2}')
        assert status == 0, printed
        found = re.findall(r'store: \S+ \((\S+): (\d+) documents, .*; (\d) documents left out\)', printed)
        assert found == [(f'{server.url}/{i}.jsonl', '60', '1') for i in range(2)]
        assert 'the following is of the first 2 of 3 shards, which stay' in printed
        _, printed = xlab('compute_stats', *stream, '--data.stream={eval_shards: 2}')
        assert 'the following is of the first 2 of 3 shards, which stay' in printed
        _, printed = xlab('compute_stats', *stream, '--data.stream={eval_shards: 3}')
        assert 'what follows' not in printed


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--partition=cpu'], '--partition is of no use with --engine processes'),
        (['--dry_run'], '--dry_run is of no use with --engine processes'),
        (['--engine=ray', '--shared_folder=s', '--qos=low'], '--qos is of no use with --engine ray'),
        (['--engine=ray'], '--engine ray needs --shared_folder'),
        (['--engine=slurm', '--shared_folder=s'], '--engine slurm needs --partition'),
        (['--engine=cloud'], 'cloud'),
    ],
)
def test_options_of_another_engine_are_refused(xlab, tiny, arguments, message):
    status, printed = xlab('prepare_data', *tiny, *arguments)
    assert status == 2
    assert message in printed


def test_a_missing_engine_names_the_extra(xlab, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datatrove', None)
    monkeypatch.delitem(sys.modules, 'xlabml.data.store.cluster', raising=False)
    status, printed = xlab('prepare_data', *tiny, '--engine=slurm', '--shared_folder=s', '--partition=cpu')
    assert status == 2
    assert 'needs the packages of the extra cluster' in printed
    assert 'pip install "xlabml[cluster]"' in printed


def test_a_dry_run_prints_the_script_and_prepares_nothing(xlab, tiny, tmp_path):
    pytest.importorskip('datatrove')
    slurm = ['--engine=slurm', '--shared_folder=shared', '--partition=cpu', '--max_hours=3', '--dry_run']
    status, printed = xlab('prepare_data', *tiny, *slurm)
    assert status == 0, printed
    assert '#SBATCH --partition=cpu\n' in printed
    assert '#SBATCH --time=3:00:00\n' in printed
    assert f'launch_pickled_pipeline {tmp_path}/shared/' in printed
    assert not list(tmp_path.rglob('*.bin'))
    _, printed = xlab('prepare_data', *tiny)
    assert 'store: ' in printed
    _, printed = xlab('prepare_data', *tiny, *slurm)
    assert 'its store is there already' in printed


def test_a_column_missing_from_the_last_source_is_said_before_the_first_is_read(xlab, tiny, tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": "fine"}\n')
    (tmp_path / 'b.jsonl').write_text('{"body": "no text"}\n')
    sources = f'--data.sources=[{{path: {tmp_path}/a.jsonl}}, {{path: {tmp_path}/b.jsonl}}]'
    status, printed = xlab('prepare_data', *tiny, sources)
    assert status == 2
    assert "b.jsonl, has no column 'text'; its columns are body" in printed
    assert 'tokenizing' not in printed


def test_prepare_data_says_what_became_of_lines_and_files(xlab, tiny, texts, tmp_path):
    folder = tmp_path / 'texts'
    folder.mkdir()
    quoted = '"' + '\n'.join(texts[:50]) + '"'  # one row of fifty lines
    (folder / 'a.csv').write_text('\n'.join(['text', quoted, '', *texts[50:100]]) + '\n')
    (folder / 'b.TSV').write_text('text\n' + '\n'.join(f'"{text}' for text in texts[100:200]) + '\n')
    for name in ('c.pdf', 'd.pdf', 'e.html'):
        (folder / name).touch()
    status, printed = xlab('prepare_data', *tiny, f'--data.sources=[{{path: {folder}}}]')
    assert status == 0, printed
    assert (
        f'read {folder}: 2 files, 203 lines (52 of them headers, blank or inside quoted fields), 151 rows, '
        '151 documents, 0 left out\n'
    ) in printed
    assert printed.count(f'{folder}: reads 2 files, passes over 3 others: 2 .pdf, 1 .html\n') == 1
    for command in ('prepare_data', 'validate_data', 'compute_stats'):
        _, printed = xlab(command, *tiny, f'--data.sources=[{{path: {folder}}}]')
        assert printed.count('passes over 3 others: 2 .pdf, 1 .html\n') == 1


def test_settings_of_files_are_typed_saved_and_read_again(xlab, tiny, texts, tmp_path):
    rows = [f'{i};"été ""{text}"""' for i, text in enumerate(texts)]
    (tmp_path / 'a.csv').write_bytes('\n'.join(['n;text', *rows]).encode('latin-1'))
    path = f'path: {tmp_path}/a.csv'
    for how, code, message in (
        ('', 2, "no column 'text'; its columns are n;text; if another character parts the fields, set delimiter"),
        ('delimiter: ";"', 1, r'a.csv:2: not UTF-8 (byte 0xE9: invalid continuation byte); it may be latin-1'),
        ('delimiter: ";", encoding: cp1252, quoting: none', 0, ''),
    ):
        status, printed = xlab('prepare_data', *tiny, f'--data.sources=[{{{path}, {how}}}]')
        assert status == code, printed
        assert message in printed
    for how in ('encoding: latin-42', 'delimiter: ";;"', 'quoting: some'):
        status, printed = xlab('fit', *tiny, f'--data.sources=[{{{path}, {how}}}]')
        assert status == 2
        assert how.partition(':')[0] in printed
    how = f'--data.sources=[{{{path}, encoding: latin-1, delimiter: ";"}}]'
    status, printed = xlab('fit', *tiny, how)
    assert status == 0, printed
    first = re.search(r'test: .* nats/token', printed)
    status, printed = xlab('test', '--ckpt_path=last', '--trainer.accelerator=cpu')
    assert status == 0, printed
    assert first is None or first[0].split(',')[0] in printed


def test_the_settings_of_a_source_are_in_its_help(xlab):
    status, printed = xlab('prepare_data', '--data.sources.help=Location')
    assert status == 0
    for setting in ('encoding', 'delimiter', 'quoting'):
        assert setting in printed


@pytest.fixture
def labelled(tmp_path, corpus, texts):
    """The flags of a source whose texts have an author and a topic."""
    rows = [{'text': f'{i} {text}', 'author': f'by {i % 30}', 'topic': 'ab'[i % 2]} for i, text in enumerate(texts)]
    (tmp_path / 'labelled.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return [f'--data.sources=[{{path: {tmp_path}/labelled.jsonl}}]', '--data.group=author', '--data.stratify=topic']


def test_groups_and_classes_are_reached_from_the_command_line(xlab, tiny, labelled):
    flags = [*tiny, *labelled, '--data.splits={train: 0.6, val: 0.2, test: 0.2}']
    status, printed = xlab('fit', *flags, '--trainer.max_steps=2', '--trainer.val_check_interval=2')
    assert status == 0, printed
    status, printed = xlab('fit', '--ckpt_path=last', '--trainer.max_steps=4')
    assert status == 0, printed
    assert 'group: author' in Path('logs/version_0/config.yaml').read_text()
    status, printed = xlab('compute_stats', *flags, '--split=test')
    assert status == 0, printed
    assert re.search(r'\b60\b', printed)
    status, printed = xlab('validate_data', *flags)
    assert status == 0, printed
    assert '300 valid documents, 0 left out' in printed
    assert 'rows of train' in printed


def test_smoke_takes_groups_classes_and_fixed_sources(xlab, tiny, labelled, tmp_path):
    sources = f'--data.sources=[{{path: {tmp_path}/labelled.jsonl}}, {{path: {tmp_path}/labelled.jsonl, only: test}}]'
    status, printed = xlab('fit', '--smoke', *tiny, *labelled, sources)
    assert status == 0, printed
    status, printed = xlab('fit', '--smoke', *tiny, *labelled, '--data.group=writer')
    assert status == 2
    assert "has no column 'writer'" in printed


def test_documents_without_a_group_are_named(xlab, tiny, labelled, tmp_path):
    file = tmp_path / 'labelled.jsonl'
    lines = file.read_text().splitlines()
    lines[7] = json.dumps({**json.loads(lines[7]), 'author': None})
    file.write_text('\n'.join(lines))
    status, printed = xlab('validate_data', *tiny, *labelled)
    assert status == 0, printed
    assert '299 valid documents, 0 left out' in printed
    assert "nothing in the column 'author': 1 (rows 7): every document needs a value there, and fit refuses" in printed
    for command in ([], ['--smoke']):
        status, printed = xlab('fit', *command, *tiny, *labelled)
        assert status == 2
        assert "labelled.jsonl, row 7, has nothing in the column 'author'; give every document" in printed
