"""Every command line of the README and the docs can be typed; those of docs/own_data.md are run, at a small size."""

import csv
import gzip
import json
import re
import shlex
from pathlib import Path

import pytest

from xlabml.commands import classifying, fit, infer, manage
from xlabml.commands.arguments import take_common
from xlabml.commands.overview import DATA_COMMANDS
from xlabml.commands.parsing import make_parsers, parse
from xlabml.commands.sweeps import read_flags

ROOT = Path(__file__).parents[1]
PAGES = [
    *('README.md', 'docs/own_data.md', 'docs/vectors_and_classes.md', 'docs/many_machines.md'),
    *('docs/troubleshooting.md', 'docs/python.md', 'docs/ngram.md'),
]
SMALL = [
    *('--data.n_vocab=320', '--data.max_len=32', '--data.batch_tokens=64', '--trainer.max_steps=2'),
    *('--model.trunk.d_model=16', '--model.trunk.n_layers=1', '--model.trunk.n_heads=2', '--curves.peak_tflops=0.1'),
    *('--trainer.accelerator=cpu', '--samples.n_tokens=2'),
]


def typed(page):
    """The lines of a page that call a command, as words: its name, and the rest."""
    blocks = re.findall(r'```shell\n(.*?)```', (ROOT / page).read_text(encoding='utf-8'), re.DOTALL)
    for line in ''.join(blocks).replace(' FILE', ' conf/xlab.yaml').replace('\\\n', ' ').splitlines():
        if found := re.search(r'(?:^|\s)(?:\./)?(xlab|infer|manage)\.py (.*)', line):
            yield found[1], shlex.split(found[2], comments=True)


@pytest.mark.slow
def test_every_line_of_every_page_has_commands_and_flags_that_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    parsers = {}
    n_lines = 0
    for page in PAGES:
        for program, words in typed(page):
            n_lines += 1
            if program == 'manage':
                manage.parse(words)
            elif program == 'infer' and classifying.FLAG in words:
                classifying.parse(program, words)
            elif program == 'infer':
                infer.parse(words)
            elif words[0] != 'init':
                known = ['conf/10m.yaml' if word == 'run.yaml' else word for word in words if word != '--smoke']
                _, words = take_common(read_flags(known)[2])
                if words[0] not in parsers:
                    parsers[words[0]] = make_parsers([words[0]])
                assert parse(words, parsers[words[0]]).command == words[0], (page, words)
    assert n_lines > 40


def test_every_link_of_every_page_leads_somewhere():
    for page in [*PAGES, 'docs/extending.md', 'docs/architecture.md', 'tokenizers/README.md']:
        for target in re.findall(r'\]\((?!http)([^)#]+)', (ROOT / page).read_text(encoding='utf-8')):
            assert ((ROOT / page).parent / target).exists(), (page, target)


def test_the_readme_lists_every_page_of_the_docs():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert not [path.name for path in (ROOT / 'docs').glob('*.md') if f'docs/{path.name}' not in readme]


def test_each_fixed_tokenizer_is_named_as_its_recipe_and_in_the_list():
    listed = (ROOT / 'tokenizers' / 'README.md').read_text(encoding='utf-8')
    for recipe in (ROOT / 'conf').glob('*.yaml'):
        found = re.search(r'tokenizer_path: (tokenizers/.*)', recipe.read_text(encoding='utf-8'))
        if found:
            assert found[1] == f'tokenizers/{recipe.stem}.model'
            assert f'| `{recipe.stem}.model` | `conf/{recipe.name}` |' in listed


def make_texts(folder):
    """What the lines of docs/own_data.md name."""
    texts = [
        f'The old pond number {i}.\n\nA frog jumps in, splash {i * i}; rain falls on roof {i}.' for i in range(120)
    ]
    rows = [{'text': text, 'author': f'a{i % 30}'} for i, text in enumerate(texts)]
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    for name in ('a.jsonl', 'train.jsonl', 'texts.jsonl'):
        (folder / name).write_text(lines.replace('pond', f'pond of {name}'), encoding='utf-8')
    (folder / 'dev.jsonl').write_text(''.join(json.dumps({'text': f'Dev {text}'}) + '\n' for text in texts[:20]))
    (folder / 'novel.txt').write_text('\n'.join(f'CHAPTER {i}\n\n{text}\n' for i, text in enumerate(texts)))
    (folder / 'server.log').write_text('\n'.join(text.replace('\n', ' ') for text in texts))
    for name, column, delimiter in (('b.csv', 'text', ','), ('reviews.csv', 'review', ';')):
        with (folder / name).open('w', encoding='latin-1', newline='') as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([[column], *([f'Caffè {text}'] if name == 'reviews.csv' else [text] for text in texts)])
    (folder / 'texts').mkdir()
    (folder / 'texts' / 'more.jsonl.gz').write_bytes(gzip.compress(lines.encode()))


@pytest.mark.slow
def test_the_lines_of_own_data_run(tmp_path, monkeypatch, capfd):
    import pyarrow
    from pyarrow import parquet

    monkeypatch.chdir(tmp_path)
    make_texts(tmp_path)
    mains = {'xlab': fit.main, 'infer': infer.main, 'manage': manage.main}
    for program, words in typed('docs/own_data.md'):
        if ('-c' in words and 'run.yaml' not in words) or '--data.tokenizer_path' in words:
            continue  # of a file of settings, a tokenizer, a cluster of one's own
        if '*.parquet' in ' '.join(words):
            table = pyarrow.table({'text': [f'pond {i}: a frog jumps into the water' for i in range(99)]})
            parquet.write_table(table, tmp_path / 'texts' / 'some.parquet')
        elif (tmp_path / 'texts' / 'some.parquet').exists():
            (tmp_path / 'texts' / 'some.parquet').unlink()
        small = SMALL if words[0] in ('fit', *DATA_COMMANDS) else []
        small = [flag for flag in small if words[0] == 'fit' or flag.startswith('--data')]
        small = [flag for flag in small if '--init_from' not in words or not flag.startswith('--model')]
        assert mains[program]([*words, *small]) == 0, (words, capfd.readouterr())
