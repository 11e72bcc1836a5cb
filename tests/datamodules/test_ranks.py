"""One sequence of documents, whatever the number of ranks: gloo processes compare what they are given."""

import json
import math
import multiprocessing
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

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
    seen, per_step = [], data._accumulation()
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
    assert all(len(rows) == 8 and len(counts) == 1 for rows, counts in one)
    for world, batch in ((2, None), (2, 32), (4, 16)):
        many, there = train(world, corpus, tmp_path, weights=weights, device_batch_tokens=batch)
        assert many == one
        assert there['row'] == state['row'] == 240


WARMUPS = {'first_batch_tokens': 64, 'batch_warmup_steps': 9, 'first_len': 4, 'len_warmup_steps': 20}


def test_1_2_and_4_ranks_warm_up_over_the_same_steps(corpus, tmp_path):
    one, state = train(1, corpus, tmp_path, **WARMUPS)
    assert [len(rows) for rows, _ in one] == [4] * 9 + [8] * 21
    plain, _ = train(1, corpus, tmp_path)
    taken, there = ([row for rows, _ in steps for row in rows] for steps in (one, plain))
    assert taken == there[: 9 * 4 + 21 * 8]
    found = []
    for world, steps in ((2, (0, 5)), (1, (5, 12)), (4, (12, 30))):
        more, state = train(world, corpus, tmp_path, steps, state if found else None, num_workers=world % 2, **WARMUPS)
        found += more
    assert found == one
    assert (state['step'], state['row']) == (30, 9 * 4 + 21 * 8)


def test_a_run_that_goes_from_2_to_1_to_4_ranks_is_the_unbroken_one(corpus, tmp_path):
    whole, _ = train(1, corpus, tmp_path)
    found, state = train(2, corpus, tmp_path, (0, 7))
    for world, steps in ((1, (7, 19)), (4, (19, 30))):
        more, state = train(world, corpus, tmp_path, steps, state, num_workers=world % 2)
        found += more
    assert found == whole
    assert state['step'] == 30


SIZES = {'warming up': WARMUPS, 'of one size': {}}


@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
def test_what_a_spike_read_is_left_out_by_whoever_goes_on_from_an_earlier_checkpoint(corpus, sizes):
    """Spike after spike without a checkpoint between them: the pairs are those of the checkpoint, which has one too."""
    place = {'global_rank': 0, 'world_size': 1, 'global_step': 2, 'max_steps': 30, 'state': SimpleNamespace(fn='fit')}
    saved = {'step': 2, 'row': 8 if sizes else 16, 'skipped': [[1, 1, 0, 8], [6, 6, 40, 48]]}
    skip, bad = None, set()
    for first, last in ((5, 5), (4, 4), (6, 7), (5, 6), (9, 9)):
        data = build(corpus, skip=skip, **sizes)
        data.prepare_data()
        data.trainer = SimpleNamespace(**place)
        data.load_state_dict({**data.state_dict(), **saved})
        data.train_dataloader()
        batches = data._train_batches()
        read = set(batches.places(np.arange(saved['row'], batches.row(30))).tolist())
        assert not read & bad
        bad |= set(batches.places(np.arange(batches.row(first - 1), batches.row(last))).tolist())
        skip = data.pairs_to_skip(first, last, None)
        assert skip[:-1] == (data.skip or [])
        assert data.pairs_to_skip(first, last, 3) == [[first, last + ([first, last] in [*data.skip, [6, 6]])]]


def test_epochs_count_from_a_checkpoint_that_comes_after_setup(corpus):
    data = build(corpus)
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(max_steps=-1))
    neutral = {'accumulate_grad_batches': 1, 'limit_train_batches': None, 'overfit_batches': 0}
    place = {'global_rank': 0, 'world_size': 1, 'global_step': 0, 'state': SimpleNamespace(fn='fit')}
    data.trainer = SimpleNamespace(fit_loop=loop, max_steps=-1, max_epochs=2, **neutral, **place)
    data.setup('fit')
    n_rows = 2 * len(data.train_rows)
    assert loop.epoch_loop.max_steps == math.ceil(n_rows / 8)
    data.load_state_dict({**data.state_dict(), 'step': 3, 'row': 100})
    assert loop.epoch_loop.max_steps == math.ceil(3 + (n_rows - 100) / 8)


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
