"""One sequence of documents, whatever the number of ranks: gloo processes compare what they are given."""

import json
import math
import multiprocessing
import random
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn

from xlabml.data import Pack
from xlabml.datamodules import XLabDataModule
from xlabml.tokenizer import train_tokenizer


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp('corpus'), random.Random(0)
    texts = [f'{i}: ' + ' '.join(draw.choices(['one', 'two', 'three'], k=draw.randrange(1, 40))) for i in range(200)]
    for name, some in (('a', texts[:150]), ('b', texts[150:])):
        (folder / f'{name}.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in some))
    train_tokenizer(texts, folder / 'tiny.model', 300)
    return folder


def build(corpus, **settings):
    from xlabml.data import Location

    sources = [Location(str(corpus / f'{name}.jsonl')) for name in 'ab']
    path = str(corpus / 'tiny.model')
    return XLabDataModule(sources, tokenizer_path=path, n_vocab=300, max_len=16, batch_tokens=128, **settings)


def train_rank(rank, world, meeting, data, steps, state, answer):
    """What all ranks together are given in some steps, in the order of the step's rows; rank 0 answers."""
    dist.init_process_group('gloo', init_method=f'file://{meeting}', rank=rank, world_size=world)
    first, last = steps
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world, global_step=first, max_steps=last, state=SimpleNamespace(fn='fit')
    )
    if state is not None:
        data.load_state_dict(state)
    seen, per_step = [], data._step_size.accumulation
    for batch in data.train_dataloader():
        gathered = [torch.empty_like(batch.ids) for _ in range(world)]
        dist.all_gather(gathered, batch.ids)
        targets = torch.tensor([batch.n_counted])
        dist.all_reduce(targets, dist.ReduceOp.MAX)
        seen.append((torch.cat(gathered).tolist(), int(targets)))
    if rank == 0:
        by_step = [seen[i : i + per_step] for i in range(0, len(seen), per_step)]
        data.trainer.global_step = last
        found = [([row for ids, _ in step for row in ids], {n for _, n in step}) for step in by_step]
        torch.save((found, data.state_dict()), answer)
    dist.destroy_process_group()


def train(world, corpus, tmp_path, steps=(0, 30), state=None, **settings):
    data = build(corpus, **settings)
    data.prepare_data()
    meeting = tmp_path / f'meeting-{len(list(tmp_path.iterdir()))}'
    answer = meeting.with_suffix('.pt')
    processes = [
        multiprocessing.get_context('fork').Process(
            target=train_rank, args=(rank, world, meeting, data, steps, state, answer)
        )
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return torch.load(answer, weights_only=False)


@pytest.mark.parametrize('weights', [None, [1.0, 1.0]])
def test_1_2_and_4_ranks_are_given_the_same_steps(corpus, tmp_path, weights):
    one, state = train(1, corpus, tmp_path, weights=weights)
    assert len(one) == 30
    n_each = 65_536 if weights else len(build(corpus).texts.train_examples)
    assert all(len(rows) == 8 and len(counts) == 1 for rows, counts in one)
    for world, batch in ((2, None), (2, 32), (4, 16)):
        many, there = train(world, corpus, tmp_path, weights=weights, device_batch_tokens=batch)
        assert many == one
        assert (there['pass'], there['row']) == (state['pass'], state['row'])
        assert there['pass'] * n_each + there['row'] == 240


def test_a_run_that_goes_from_2_to_1_to_4_ranks_is_the_unbroken_one(corpus, tmp_path):
    whole, _ = train(1, corpus, tmp_path)
    found, state = train(2, corpus, tmp_path, (0, 7))
    for world, steps in ((1, (7, 19)), (4, (19, 30))):
        more, state = train(world, corpus, tmp_path, steps, state, num_workers=world % 2)
        found += more
    assert found == whole
    assert state['step'] == 30


def start_from(corpus, saved, **settings):
    """A data module that resumes from a state, in which all else is as it is now."""
    data = build(corpus, **settings)
    data.prepare_data()
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, global_step=saved['step'], max_steps=30, state=SimpleNamespace(fn='fit')
    )
    now = {name: value for name, value in data.state_dict().items() if name not in ('step', 'pass', 'row', 'skipped')}
    data.load_state_dict({**now, **saved})
    data.train_dataloader()
    return data


def rows_of(data, first, last):
    """The rows that steps read, counted over all epochs."""
    sequence = data._run.of_all_ranks()
    n_each, found = sequence.passes.n_each, []
    for index in range(sequence.row(first - 1), sequence.row(last)):
        pass_index, rows = sequence.places.take(index, 1)
        found.append(pass_index * n_each + int(rows[0]))
    return found


def test_what_a_spike_read_is_left_out_from_whichever_checkpoint_the_run_resumes(corpus):
    """Spike after spike, each run from another checkpoint: the places that one names mean the same rows to the next."""
    early = {'step': 2, 'pass': 0, 'row': 16, 'skipped': []}
    skip_rows, bad = [], set()
    for saved, first, last in ((early, 5, 5), (early, 4, 4), ({**early, 'step': 0, 'row': 0}, 6, 7), (early, 9, 9)):
        data = start_from(corpus, saved, skip_rows=skip_rows)
        assert not set(rows_of(data, saved['step'] + 1, 30)) & bad
        bad |= set(rows_of(data, first, last))
        skip_rows = [*skip_rows, *data.places_read(first, last)]
    data.trainer.global_step = 12
    later = data.state_dict()
    resumed = start_from(corpus, json_and_back(later), skip_rows=skip_rows[:-1])
    assert resumed.state_dict()['skipped'] == later['skipped']
    with pytest.raises(ValueError, match=r'data\.skip_rows has .*, but the checkpoint has read rows'):
        start_from(corpus, json_and_back(later), skip_rows=data.places_read(10, 10))


def json_and_back(state):
    """Where a run stands, as a checkpoint holds it."""
    return json.loads(json.dumps({name: state[name] for name in ('step', 'pass', 'row', 'skipped')}))


def test_rows_that_an_earlier_version_counted_over_epochs_become_places(corpus):
    n_each = len(build(corpus).texts.train_examples)
    counted = n_each + 40
    old = {'step': 20, 'row': counted, 'skipped': [[1, 1, 0, 8], [6, 6, n_each - 4, n_each + 4], [40, 40, 999, 1007]]}
    data = start_from(corpus, old)
    assert rows_of(data, 21, 21)[0] == counted + 16
    state = data.state_dict()
    assert (state['pass'], state['row']) == divmod(counted + 16, n_each)
    assert state['skipped'][1] == [6, 6, [0, n_each - 4], [1, 4]]
    assert data._start.n_read(data.texts.passes) == counted
    again = start_from(corpus, json_and_back(state))
    assert rows_of(again, 21, 30) == rows_of(data, 21, 30)


def test_steps_and_rows_that_were_read_already_are_refused(corpus):
    saved = {'step': 3, 'pass': 0, 'row': 24, 'skipped': [[2, 2, [0, 8], [0, 16]]]}
    start_from(corpus, saved, skip=[[2, 2]], skip_rows=[[[0, 8], [0, 15]], [[0, 24], [0, 30]]])
    with pytest.raises(ValueError, match=r'data\.skip has \[3, 5\], but the checkpoint has trained 3 steps already'):
        start_from(corpus, saved, skip=[[3, 5]])
    with pytest.raises(ValueError, match=r'has \[\[0, 15\], \[0, 30\]\], but the checkpoint has read rows of'):
        start_from(corpus, saved, skip_rows=[[[0, 15], [0, 30]]])
    with pytest.raises(ValueError, match=r'but a pass over this data has \d+ rows; give places as \[pass, row\]'):
        start_from(corpus, saved, skip_rows=[[[0, 40], [0, 9999]]])


@pytest.mark.parametrize('pair', [[[0, 5]], [[0, 5], [0, 4]], [[0], [1]], [[0, -1], [0, 3]]])
def test_places_that_are_none_are_refused(corpus, pair):
    with pytest.raises(ValueError, match=r'data\.skip_rows has .* give pairs of a first and a last place'):
        build(corpus, skip_rows=[pair])


def test_a_data_module_of_parts_that_no_checkpoint_can_hold_is_refused_when_it_is_saved(corpus):
    data = build(corpus, plan=lambda length: Pack(length))
    data.prepare_data()
    with pytest.raises(ValueError, match=r'this XLabDataModule cannot be saved: .*lambda.* pass a class'):
        data.state_dict()


def test_epochs_count_from_a_checkpoint_that_comes_after_setup(corpus):
    data = build(corpus)
    quiet = dict.fromkeys(('enable_checkpointing', 'enable_progress_bar', 'enable_model_summary', 'logger'), False)
    data.trainer = trainer = L.Trainer(accelerator='cpu', max_epochs=2, **quiet)
    trainer.state.fn = TrainerFn.FITTING
    data.setup('fit')
    n_rows = 2 * len(data.texts.train_examples)
    assert trainer.max_steps == math.ceil(n_rows / 8)
    data.load_state_dict({**data.state_dict(), 'step': 3, 'row': 100})
    assert trainer.max_steps == math.ceil(3 + (n_rows - 100) / 8)


@pytest.mark.parametrize(
    ('device', 'asked', 'pinned'), [('cuda', True, True), ('cpu', True, False), ('cuda', False, False)]
)
def test_batches_are_pinned_for_a_gpu_only(device, asked, pinned, corpus):
    data = build(corpus, pin_memory=asked)
    data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)), global_rank=0, global_step=0, world_size=1,
        max_steps=2, accumulate_grad_batches=1,
    )  # fmt: skip
    data.prepare_data()
    assert data.val_dataloader().pin_memory == data.train_dataloader().pin_memory == pinned
