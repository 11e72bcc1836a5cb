"""Baselines of classifiers, the table that they stand in, and results as files."""

import math

import pytest
import torch

from xlabml.errors import DataError
from xlabml.evaluation.bootstrap import paired_interval
from xlabml.evaluation.class_baselines import length_baseline, majority, untrained
from xlabml.evaluation.class_results import ClassResults, make_keys, pool
from xlabml.evaluation.class_table import class_table, describe_classes, describe_table, example_losses

LABELS = torch.tensor([0, 0, 0, 1])


def test_baselines_by_hand():
    assert majority(LABELS, 'single-label', 2).exp().tolist() == pytest.approx([0.75, 0.25])
    assert majority(torch.tensor([[1.0], [3.0]]), 'regression', 1).tolist() == [2]
    several = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert majority(several, 'multi-label', 2).sigmoid().tolist() == pytest.approx([1, 0.5], abs=1e-5)
    assert example_losses(untrained(4, 2), LABELS, 'single-label').tolist() == pytest.approx([math.log(2)] * 4)
    lengths = torch.arange(20.0)
    labels = (lengths >= 10).long()
    outputs = length_baseline((lengths, labels), torch.tensor([0.0, 19.0, -5.0]), 'single-label', 2)
    # Two examples a bin, and one with the shares of all.
    assert outputs.exp()[0].tolist() == pytest.approx([2.5 / 3, 0.5 / 3])
    assert outputs.argmax(1).tolist() == [0, 1, 0]
    numbers = length_baseline((lengths, lengths[:, None]), torch.tensor([0.0, 19.0]), 'regression', 1)
    assert numbers[:, 0].tolist() == pytest.approx([(0 + 1 + 9.5) / 3, (18 + 19 + 9.5) / 3])


def make_systems(n=400, k=3):
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(n, k, generator=generator, dtype=torch.float64) * 2
    labels = torch.multinomial(good.softmax(-1), 1, generator=generator)[:, 0]
    return {'classifier': good, 'worse': good / 4, 'a name of twenty let': untrained(n, k)}, labels


def test_a_table_is_paired_fits_eighty_columns_and_doubts_what_is_not_clear():
    systems, labels = make_systems()
    rows = class_table(systems, labels, 'single-label')
    for row in rows[1:]:
        both = example_losses(systems[row.name], labels, 'single-label')
        assert row.above.value == pytest.approx(float(both.mean()) - rows[0].loss.value)
        ours = example_losses(systems['classifier'], labels, 'single-label')
        assert row.above == paired_interval(both, ours)
    lines = describe_table(rows, 'test: 400 examples', 'single-label')
    assert max(map(len, lines)) <= 80
    assert len(lines) == 5  # clearly better than all: no doubt
    turned = {'classifier': systems['worse'], 'good': systems['classifier']}
    assert (
        'clearly worse than good' in describe_table(class_table(turned, labels, 'single-label'), '', 'single-label')[-1]
    )
    same = {'classifier': systems['worse'], 'same': systems['worse'].clone()}
    assert 'not clearly better than same' in describe_table(class_table(same, labels, 'single-label'), '', 'x')[-1]


def test_classes_are_summed_up_in_a_line():
    outputs = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.25, 0.75]]).log()
    labels = torch.tensor([0, 1, 1, 0])
    [line] = describe_classes(outputs, labels, 'single-label')
    # Of class 0 precision 1 and recall 1/2, of class 1 2/3 and 1: F1 2/3 and 4/5. Of four at .75, three are right.
    assert line.startswith('macro F1 0.733, calibration error 0.0000 (of a perfect one 0.1')
    assert describe_classes(outputs, labels, 'regression') == []
    # Of soft labels what is said is right by its share: here as often as its confidence says.
    [line] = describe_classes(outputs, outputs.exp(), 'single-label')
    assert 'calibration error 0.0000' in line


def test_groups_are_drawn_whole():
    systems, labels = make_systems()
    systems = {name: outputs[:20].repeat_interleave(20, 0) for name, outputs in systems.items()}
    labels = labels[:20].repeat_interleave(20)
    alone = class_table(systems, labels, 'single-label')[0].loss
    grouped = class_table(systems, labels, 'single-label', torch.arange(400) // 20)[0].loss
    assert grouped.high - grouped.low > 2.5 * (alone.high - alone.low)


def make_results(n=6, first=0, groups=None):
    outputs = torch.arange(2.0 * n, dtype=torch.float64).view(n, 2) + first
    ids = tuple(f'a:{i}' for i in range(first, first + n))
    keys = make_keys([f'{i:04x}' for i in range(first, first + n)])
    return ClassResults('single-label', ('x', 'y'), ids, keys, torch.arange(n) % 2, groups, {'classifier': outputs})


@pytest.mark.parametrize('labels', [torch.arange(6) % 2, torch.rand(6, 2), torch.rand(6, 1)])
def test_results_come_back_from_their_file(tmp_path, labels):
    results = make_results(groups=torch.arange(6))._replace(labels=labels)
    results.write(tmp_path / 'x.parquet')
    again = ClassResults.read(tmp_path / 'x.parquet')
    assert again[:4] == results[:4]
    assert torch.equal(again.labels, labels)
    assert torch.equal(again.groups, results.groups)
    assert torch.equal(again.own, results.own)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / 'x.parquet').write_bytes(b'nothing')
    with pytest.raises(DataError, match=r'x\.parquet holds no results'):
        ClassResults.read(tmp_path / 'x.parquet')


def test_pooled_results_have_each_example_once():
    whole = pool([make_results(4, 4), make_results(4)])
    assert whole.ids == tuple(f'a:{i}' for i in range(8))
    assert whole.own[0].tolist() == [0, 1]
    with pytest.raises(DataError, match='2 examples are in two of the splits, the first of them a:2'):
        pool([make_results(4), make_results(4, 2)])
    assert make_keys(['a', 'b', 'a']) == ('a', 'b', 'a-1')
