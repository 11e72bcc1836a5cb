"""Texts and their noisy twins: two rows, what is deleted, what is predicted."""

import numpy as np
import pytest
import torch

from xlabml.batches import IGNORED, ReconstructionTargets
from xlabml.data.groups import DenoisedTexts
from xlabml.data.order import example_keys
from xlabml.errors import DataError

TEXTS = [{'text': text} for text in ('a cat sat on the mat', 'the dog', 'a', 'my horse likes the sea and the sky')]


def read(groups, *numbers, seed=0):
    numbers = np.array(numbers)
    keys = example_keys(seed, 0, np.arange(len(numbers)))
    batch = groups.batch(numbers, keys, 1.0)
    assert groups.counts(numbers, keys).sum() == (batch.targets.ids != IGNORED).sum()
    return batch


def rows(batch):
    """The tokens of each text segment of the two rows, and the targets of those of the second."""
    starts = batch.layout.starts.tolist()
    half = (len(starts) - 1) // 2
    found = []
    for values, segments in (
        (batch.ids, range(half)),
        (batch.ids, range(half, 2 * half)),
        (batch.targets.ids, range(half, 2 * half)),
    ):
        flat = values.flatten().tolist()
        found.append([flat[starts[i] : starts[i + 1]] for i in segments if batch.documents[i] >= 0])
    return found


def test_the_second_row_is_the_text_and_its_next_tokens(make_groups, tokenizer):
    groups = make_groups(DenoisedTexts(delete_ratio=0.0), TEXTS)
    batch = read(groups, 2, 0, 3)
    sos, eos = (tokenizer.special_ids[name] for name in ('sos', 'eos'))
    texts = [tokenizer.encode(groups.render(i)[1][1]) for i in (2, 0, 3)]
    noisy, whole, targets = rows(batch)
    assert whole == [[sos, *text] for text in texts]
    assert targets == [[*text, eos] for text in texts]
    assert noisy == [[sos, *text, eos] for text in texts]  # nothing is deleted
    assert (batch.targets.ids[0] == IGNORED).all()
    assert isinstance(batch.targets, ReconstructionTargets)
    n_bytes = batch.targets.n_bytes[batch.documents >= 0].tolist()
    sizes = [len(piece) for piece in tokenizer.piece_bytes]
    assert n_bytes == [0, 0, 0, *(sum(sizes[id] for id in text) for text in texts)]
    half = len(batch.example) // 2
    assert batch.example[:half].tolist() == batch.example[half:].tolist()
    assert batch.role[batch.example >= 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert int(batch.layout.starts[half]) == batch.ids.size(1)


def test_the_first_row_has_what_is_left_in_its_order_and_never_nothing(make_groups):
    groups = make_groups(DenoisedTexts(), TEXTS)
    n_left = n_all = 0
    for seed in range(200):
        noisy, whole, _ = rows(read(groups, 0, 1, 2, 3, seed=seed))
        for left, text in zip(noisy, whole, strict=True):
            remaining = iter(text[1:])
            assert all(id in remaining for id in left[1:-1])  # in order: a subsequence
            assert len(left) > 2
            if len(text) > 5:
                n_left += len(left) - 2
                n_all += len(text) - 1
    assert n_left / n_all == pytest.approx(0.4, abs=0.03)


def test_what_is_deleted_follows_from_the_key_of_an_example_alone(make_groups):
    groups = make_groups(DenoisedTexts(), TEXTS)
    keys = example_keys(0, 0, np.arange(4))
    whole = groups.batch(np.array([0, 1, 2, 3]), keys, 1.0)
    part = groups.batch(np.array([-1, 3]), keys[[0, 3]], 1.0)
    assert rows(whole)[0][3:] == rows(part)[0]


def test_long_texts_are_cut_and_counted_as_they_are_read(make_groups):
    groups = make_groups(DenoisedTexts(max_tokens=3), TEXTS)
    _, whole, _ = rows(read(groups, 0, 1, 2, 3))
    assert max(map(len, whole)) == 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'delete_ratio': 1.0}, r'data\.examples\.delete_ratio is 1\.0; give a share'),
        ({'max_tokens': 0}, r'data\.examples\.max_tokens is 0; it must be at least 1'),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        DenoisedTexts(**arguments)


def test_a_batch_goes_to_a_device_as_it_is(make_groups):
    from lightning.pytorch.utilities import move_data_to_device

    batch = read(make_groups(DenoisedTexts(), TEXTS), 0, 1)
    moved = move_data_to_device(batch, torch.device('cpu'))
    assert isinstance(moved.targets, ReconstructionTargets)


def test_a_text_of_blanks_is_refused_as_an_empty_one_is(make_corpus):
    with pytest.raises(DataError, match=r'row 1: a text of the role text .* is empty'):
        make_corpus(DenoisedTexts(), [TEXTS[0], {'text': '\n '}])
