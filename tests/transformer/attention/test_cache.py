"""A step with the cache gives what a full pass gives, however rows were filled, repeated or put in order."""

import pytest
import torch
from trunks import MAX_LEN, make_ids, make_layout, make_trunk

from xlabml.heads import LanguageModel
from xlabml.transformer import SHIFT_PLACES, ALiBi, Learned, Rotary

TOLERANCE = {'rtol': 1e-4, 'atol': 1e-4}


@pytest.mark.parametrize('steps', [[1] * 9, [4, 1, 1, 3], [9], [1, 8]])
@pytest.mark.parametrize('options', [
    {}, {'window': 3}, {'positions': ALiBi, 'window': 4}, {'n_kv_heads': 2, 'positions': Learned},
    {'score_cap': 2.0}, {'attention': 'plain', 'n_kv_heads': 1}, {'shift_width': 4},
    {'shift_width': 3, 'shift_places': [*SHIFT_PLACES]},
], ids=str)  # fmt: skip
def test_steps_equal_the_full_pass(steps, options):
    trunk, ids = make_trunk(**options), make_ids(9, batch=2)
    cache = trunk.new_cache(2, 9)
    with torch.no_grad():
        parts = [trunk(part, cache=cache) for part in ids.split(steps, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), trunk(ids), **TOLERANCE)


def prefill(trunk, lengths, room=6):
    ids, cache = make_ids(sum(lengths)), trunk.new_cache(len(lengths), max(lengths) + room)
    with torch.no_grad():
        hidden = trunk(ids, make_layout(lengths), cache)
    return ids.split(lengths, dim=1), hidden, cache


@pytest.mark.parametrize('lengths', [[3, 5, 1], [4, 4], [2, 0]])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'window': 2, 'positions': ALiBi, 'n_kv_heads': 2},
        {'score_cap': 2.0},
        {'shift_width': 3, 'shift_places': [*SHIFT_PLACES]},
    ],
    ids=str,
)
def test_a_packed_prefill_makes_each_segment_a_row(lengths, options):
    trunk = make_trunk(**options)
    prompts, hidden, cache = prefill(trunk, lengths)
    assert cache.lengths.tolist() == lengths
    torch.testing.assert_close(hidden, torch.cat([trunk(p) for p in prompts if p.numel()], 1), **TOLERANCE)
    more = make_ids(5, seed=1, batch=len(lengths))
    with torch.no_grad():
        parts = torch.cat([trunk(part, cache=cache) for part in more.split([1, 3, 1], dim=1)], 1)
    for i, prompt in enumerate(prompts):
        expected = trunk(torch.cat((prompt, more[i : i + 1]), 1))[:, lengths[i] :]
        torch.testing.assert_close(parts[i : i + 1], expected, **TOLERANCE)


def test_padding_of_a_packed_prefill_is_an_empty_row():
    trunk, ids, cache = make_trunk(), make_ids(8), make_trunk().new_cache(2, 8)
    trunk(ids, make_layout([5, 3], [True, False]), cache)
    assert cache.lengths.tolist() == [5, 0]
    step = make_ids(1, seed=1, batch=2)
    got = trunk(step, cache=cache)
    torch.testing.assert_close(got[0], trunk(torch.cat((ids[:, :5], step[:1]), 1))[0, 5:], **TOLERANCE)
    torch.testing.assert_close(got[1], trunk(step[1:])[0], **TOLERANCE)


@pytest.mark.parametrize(('longest', 'texts'), [(6, None), (4, [True, False])], ids=['loose', 'padding'])
def test_segments_of_one_length_that_do_not_fill_the_cache_go_on_where_each_ends(longest, texts):
    trunk, ids, cache = make_trunk(), make_ids(8), make_trunk().new_cache(2, 12)
    trunk(ids, make_layout([4, 4], texts)._replace(max_length=longest), cache)
    lengths = cache.lengths.tolist()
    step = make_ids(1, seed=1, batch=2)
    got = trunk(step, cache=cache)
    for i, length in enumerate(lengths):
        prompt = ids[:, 4 * i : 4 * i + length]
        expected = trunk(torch.cat((prompt, step[i : i + 1]), 1))[0, length:]
        torch.testing.assert_close(got[i], expected, **TOLERANCE)


@pytest.mark.parametrize('lengths', [[3, 5, 1], [4, 4, 4]])
@pytest.mark.parametrize('rows', [[2, 0, 1], [1, 1, 0], [0], [2, 2, 1, 0, 0]])
def test_rows_can_be_chosen_and_put_in_order(lengths, rows):
    trunk = make_trunk(shift_width=3, shift_places=[*SHIFT_PLACES])
    prompts, _, cache = prefill(trunk, lengths)
    cache.select(torch.tensor(rows))
    step = make_ids(2, seed=1, batch=len(rows))
    with torch.no_grad():
        got = torch.cat([trunk(part, cache=cache) for part in step.split(1, dim=1)], 1)
    for i, row in enumerate(rows):
        expected = trunk(torch.cat((prompts[row], step[i : i + 1]), 1))[:, -2:]
        torch.testing.assert_close(got[i : i + 1], expected, **TOLERANCE)


def test_reset_forgets():
    trunk, ids = make_trunk(), make_ids(4)
    _, _, cache = prefill(trunk, [3])
    cache.reset()
    torch.testing.assert_close(trunk(ids, cache=cache), trunk(ids), **TOLERANCE)


def test_autocast_and_bf16_weights():
    trunk, ids = make_trunk(), make_ids(6)
    expected = trunk(ids)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        cache = trunk.new_cache(1, 6)
        got = torch.cat([trunk(part, cache=cache) for part in ids.split(3, dim=1)], 1)
    assert (got - expected).abs().mean() < 0.05
    trunk.bfloat16()
    cache = trunk.new_cache(1, 6)
    assert cache.data.dtype == torch.bfloat16
    got = torch.cat([trunk(part, cache=cache) for part in ids.split(3, dim=1)], 1)
    assert (got - expected).abs().mean() < 0.05


def test_the_cache_carries_no_gradient():
    trunk, ids = make_trunk(), make_ids(6)
    cache = trunk.new_cache(1, 6)
    assert not trunk(ids[:, :3], cache=cache).requires_grad
    assert not cache.data.requires_grad
    with pytest.raises(ValueError, match='there is no loss with a cache'):
        LanguageModel(trunk)(ids[:, 3:], cache=cache, targets=ids[:, 3:])


def test_refusals():
    trunk, ids = make_trunk(), make_ids(4)
    with pytest.raises(ValueError, match='0 rows of 5 tokens cannot be made'):
        trunk.new_cache(0, 5)
    cache = trunk.new_cache(1, 5)
    trunk(ids, cache=cache)
    with pytest.raises(ValueError, match='holds 4 of 5 tokens, so 2 more do not fit'):
        trunk(ids[:, :2], cache=cache)
    assert cache.lengths.tolist() == [4]
    with pytest.raises(ValueError, match='ids have 2 rows, but the cache has 1; make a cache of 2 rows'):
        trunk(make_ids(1, batch=2), cache=cache)
    with pytest.raises(ValueError, match='segments needs an empty cache of 2 rows'):
        trunk(ids, make_layout([1, 3]), cache)
    with pytest.raises(ValueError, match='packed row of 2 segments'):
        trunk(ids, make_layout([1, 3]), trunk.new_cache(3, 5))
    with pytest.raises(ValueError, match='so 4 more do not fit'):
        trunk(ids, make_layout([4]), trunk.new_cache(1, 3))
    encoder = make_trunk(causal=False)
    for ask in (lambda: encoder.new_cache(1, 5), lambda: encoder(ids, cache=cache)):
        with pytest.raises(ValueError, match='only a causal trunk can use a cache'):
            ask()
    learned = make_trunk(positions=Learned)
    cache = learned.new_cache(1, MAX_LEN + 1)
    learned(make_ids(MAX_LEN), cache=cache)
    with pytest.raises(ValueError, match=f'a document of {MAX_LEN + 1} tokens needs more positions'):
        learned(ids[:, :1], cache=cache)


def test_the_language_model_makes_its_cache():
    cache = LanguageModel(make_trunk(positions=Rotary, n_kv_heads=2)).new_cache(3, 7)
    assert (cache.batch, cache.length, cache.data.shape) == (3, 7, (2, 2, 3, 2, 7, 4))


def test_rows_can_be_replaced_by_those_of_another_cache():
    trunk = make_trunk(window=4, shift_width=3, shift_places=[*SHIFT_PLACES])
    prompts, _, cache = prefill(trunk, [3, 5, 4])
    others, _, other = prefill(trunk, [2, 0])
    cache.replace(torch.tensor([1, 2]), other)
    cache.set_lengths([3, 2, 0])
    assert (cache.longest, cache.is_even) == (3, False)
    step = make_ids(1, seed=1, batch=3)
    got = trunk(step, cache=cache)
    for i, prompt in enumerate((prompts[0], *others)):
        torch.testing.assert_close(got[i], trunk(torch.cat((prompt, step[i : i + 1]), 1))[0, -1:], **TOLERANCE)
    with pytest.raises(ValueError, match='2 rows of 11 tokens cannot hold a cache of 3 rows, the longest of 4 tokens'):
        cache.replace(torch.tensor([1, 2]), cache)


def test_a_cache_that_is_told_its_lengths_keeps_no_room_for_a_row_that_left():
    trunk = make_trunk()
    prompts, _, cache = prefill(trunk, [6, 2], room=0)
    cache.select(torch.tensor([1]))
    cache.set_lengths([2])
    step = make_ids(4, batch=1)
    got = torch.cat([trunk(part, cache=cache) for part in step.split(1, dim=1)], 1)
    torch.testing.assert_close(got, trunk(torch.cat((prompts[1], step), 1))[:, 2:], **TOLERANCE)
