"""`xlab-manage errors` and `compare` on results of runs."""

import pytest
import torch

from xlabml.commands import manage
from xlabml.commands.class_reports import name_runs
from xlabml.evaluation.class_results import FILE, ClassResults


def write(folder, first=0, n=200, scale=2.0, classes=('x', 'y'), split='test'):
    """Results of a model: examples first to first + n of one set of data."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 2, generator=generator, dtype=torch.float64) * 2
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    keys = tuple(f'{i:03}' for i in range(first, first + n))
    here = slice(first, first + n)
    systems = {'classifier': logits[here] * scale, 'majority': torch.zeros(n, 2, dtype=torch.float64)}
    texts = tuple(f'the text\nof {key}' for key in keys)
    folder.mkdir(parents=True, exist_ok=True)
    results = ClassResults('single-label', classes, keys, keys, labels[here], None, systems, texts)
    results.write(folder / FILE.format(split))
    return folder


def run(capsys, *arguments):
    status = manage.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out + ' '.join(printed.err.split())


def test_runs_are_compared_on_the_examples_that_all_have(tmp_path, capsys):
    good = write(tmp_path / 'a/version_0', scale=1.0)
    worse = write(tmp_path / 'b/version_0', first=50, scale=6.0)
    status, printed = run(capsys, 'compare', good, worse)
    assert status == 0, printed
    lines = printed.splitlines()
    assert lines[0] == 'test: 150 examples that all have; 50 are not in all'
    assert [line[:20].strip() for line in lines[2:5]] == ['a/version_0', 'b/version_0', 'majority']
    assert max(map(len, lines)) <= 80
    assert lines[3].split()[-3].startswith('+')
    assert len(lines) == 5  # clearly better than both
    for folders, message in (
        ((good, good), 'is named twice'),
        ((good, tmp_path), 'has no test-examples.parquet, which xlab test'),
        ((good, write(tmp_path / 'c', classes=('x', 'z'))), 'compare runs of one task'),
        ((good, write(tmp_path / 'd', first=200)), 'scored no example in common'),
    ):
        status, printed = run(capsys, 'compare', *folders)
        assert status == 2, printed
        assert message in printed


def test_mistakes_and_doubtful_labels_are_listed_with_their_texts(tmp_path, capsys):
    folder = write(tmp_path / 'version_3', split='val')
    status, printed = run(capsys, 'errors', folder, '--most', 2, '--output', tmp_path / 'all.csv')
    assert status == 0, printed
    lines = printed.splitlines()
    assert lines[0].startswith('val: 200 examples, ')
    assert lines[0].endswith(' mistakes, the most confident first')
    number = lines[1].split(':')[0].strip()
    assert lines[2] == f'    the text of {number}'
    assert lines[5].endswith('labels that are probably wrong, the clearest first')
    written = (tmp_path / 'all.csv').read_text()
    assert f'{number},mistake,' in written
    assert ',probable label error,' in written
    status, printed = run(capsys, 'errors', folder, '--output', tmp_path / 'all.csv')
    assert (status, 'is there already' in printed) == (2, True)
    status, printed = run(capsys, 'errors', folder, '--split', 'test')
    assert (status, 'has no test-examples.parquet' in printed) == (2, True)


@pytest.mark.parametrize(
    ('folders', 'names'),
    [
        (['logs/version_0', 'logs/version_1'], ['version_0', 'version_1']),
        (['a/logs/version_0', 'b/logs/version_0'], ['a/logs/version_0', 'b/logs/version_0']),
        (['a' * 30, 'b' * 30], ['…' + 'a' * 19, '…' + 'b' * 19]),
        (['x/' + 'a' * 30, 'y/' + 'a' * 30], ['1: ' + 'a' * 12, '2: ' + 'a' * 12]),
    ],
)
def test_runs_have_short_names_that_tell_them_apart(tmp_path, folders, names):
    assert name_runs([tmp_path / folder for folder in folders]) == names
