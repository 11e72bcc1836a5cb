"""The comparison of recorded runs finds what it is there for, and nothing else."""

import copy
import json

import pytest
import torch
from batch_hashes import hash_batch
from run_records import describe, differences, hash_tensors, read_run

from xlabml.batches import Layout

NOW = {
    'batches': [
        {'of': f'rank-0 train batch {i % 2}', 'step': 1 + i // 2, 'ids': f'ids{i}', 'documents': f'd{i}'}
        for i in range(4)
    ],
    'steps': [{'step': step, 'train_loss': 1 / step, 'gradient_norm': 0.5} for step in (1, 2)],
    'validations': [{'step': 2, 'split': 'val', 'val_loss': 0.25}],
    'tensors': {'weight a': 'aa', 'optimizer 0 step': 'bb', 'others': ['cc']},
}


def test_a_record_equals_itself_and_what_is_new_is_no_difference():
    later = copy.deepcopy(NOW)
    later['steps'][0]['a_new_figure'] = 1.0
    later['batches'][0]['role'] = 'r'
    assert describe(differences(NOW, NOW)) == describe(differences(NOW, later)) == 'the same'


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda r: r['batches'][3].update(documents='x'), 'step 2, rank-0 train batch 1 documents: d3 then, x now'),
        (lambda r: r['batches'].pop(), 'step 2, batches rank-0 train batch 1: there then, not there now'),
        (
            lambda r: r['steps'][1].update(train_loss=0.5000000000000001),
            'step 2, train_loss: 0.5 then, 0.5000000000000001',
        ),
        (lambda r: r['steps'][0].pop('gradient_norm'), 'step 1, gradient_norm: 0.5 then, None now'),
        (lambda r: r['validations'][0].update(val_loss=0.3), 'step 2, val_loss: 0.25 then, 0.3 now'),
        (lambda r: r['tensors'].update({'weight a': 'x'}), 'step 2, checkpoint, weight a: aa then, x now'),
        (lambda r: r['tensors'].update({'weight b': 'x'}), 'step 2, checkpoint, weight b: None then, x now'),
        (lambda r: r['tensors'].update(others=[]), "step 2, checkpoint, others: ['cc'] then, [] now"),
    ],
)
def test_the_first_difference_is_named(change, said):
    later = copy.deepcopy(NOW)
    change(later)
    assert describe(differences(NOW, later)).startswith(said)


def test_tensors_are_compared_by_their_bits_whatever_the_head_is_called():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])

    def checkpoint(prefix, weight, momentum, where):
        state = {0: {'momentum_buffer': momentum}, 1: {'step': torch.tensor(4.0)}}
        return {
            'state_dict': {f'{prefix}.b': b, f'{prefix}.a': weight},
            'optimizer_states': [{'state': state}],
            where: {'norms': a},
            'data': {'tokenizer': torch.zeros(3, dtype=torch.uint8)},
        }

    then = hash_tensors(checkpoint('model', a, b, 'guards'))
    assert then == hash_tensors(checkpoint('network', a, b, 'elsewhere'))
    assert list(then) == ['weight a', 'weight b', 'optimizer 0 momentum_buffer', 'optimizer 1 step', 'others']
    assert len(then['others']) == 1
    moved = hash_tensors(checkpoint('model', a.nextafter(b[0]), b, 'guards'))
    assert [name for name in then if then[name] != moved[name]] == ['weight a']
    moved = hash_tensors(checkpoint('model', a, b.double(), 'guards'))
    assert [name for name in then if then[name] != moved[name]] == ['optimizer 0 momentum_buffer']


def test_a_batch_is_hashed_by_its_numbers_and_the_names_of_a_later_version_mean_the_same():
    class Old:
        ids, targets = torch.tensor([[5, 6]]), torch.tensor([[6, 2]])
        layout, documents, n_bytes = Layout(torch.tensor([0, 2]), 2), torch.tensor([3]), torch.tensor([4])
        n_targets, seed = 2, 9

    class Targets:
        ids, n_bytes = Old.targets, Old.n_bytes

    class New:
        ids, targets, layout = Old.ids.int(), Targets, Old.layout
        documents, n_counted, seed = Old.documents, 2.0, 9

    assert hash_batch(Old) == hash_batch(New)
    New.documents = torch.tensor([4])
    changed = hash_batch(New)
    assert [name for name, value in hash_batch(Old).items() if value != changed[name]] == ['documents']


def test_a_run_is_read_without_what_depends_on_the_clock(tmp_path):
    version = tmp_path / 'logs/version_0'
    (version / 'checkpoints').mkdir(parents=True)
    weights = {'state_dict': {'model.a': torch.ones(1)}, 'optimizer_states': [{'state': {}}]}
    torch.save({**weights, 'state_dict': {}}, version / 'checkpoints/step=0000031.ckpt')
    torch.save(weights, version / 'checkpoints/step=0000060.ckpt')
    row = {'time': 'now', 'step': 1, 'tokens_per_second': 3.0, 'time/data_seconds': 1.0, 'memory/now_mib': 1.0}
    (version / 'log.jsonl').write_text(json.dumps({**row, 'train_loss': 2.0}) + '\n')
    (version / 'eval.jsonl').write_text(json.dumps({'time': 'now', 'step': 1, 'val_loss': 3.0}) + '\n')
    lines = [{'split': 'train', 'step': 1, 'ids': 'a'}, {'split': 'train', 'step': 1, 'ids': 'b'}]
    (tmp_path / 'rank-0.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    record = read_run(tmp_path)
    assert record['steps'] == [{'step': 1, 'train_loss': 2.0}]
    assert record['validations'] == [{'step': 1, 'val_loss': 3.0}]
    assert [line['of'] for line in record['batches']] == ['rank-0 train batch 0', 'rank-0 train batch 1']
    assert list(record['tensors']) == ['weight a', 'others']
