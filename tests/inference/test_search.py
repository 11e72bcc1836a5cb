"""Sampling and greedy search: what is read, what ends a row, what a row depends on."""

import pytest
import torch
from toy_models import Fixed, Hidden, tiny_language_model

from xlabml import inference
from xlabml.errors import RequestError
from xlabml.inference.context import Context

PROMPTS = [torch.tensor([3, 1, 4, 1, 5]), torch.tensor([2]), torch.tensor([5, 3, 5])]


def plain_loop(model, prompt, n, block_size, overflow):
    """The window rule written out: one forward pass over the whole window at every step."""
    window, ids, logits = prompt.tolist(), [], []
    if block_size is not None:
        window = window[-block_size:]
    for _ in range(n):
        logits.append(model(torch.tensor([window]))[0, -1])
        ids.append(int(logits[-1].argmax()))
        window.append(ids[-1])
        if block_size is not None and len(window) > block_size:
            window = window[-block_size:] if overflow == 'slide' else window[-max(1, block_size // 2) :]
    return ids, torch.stack(logits)


@pytest.mark.parametrize('overflow', ['refill', 'slide'])
@pytest.mark.parametrize('block_size', [None, 1, 3, 7, 40])
def test_every_logit_is_that_of_a_plain_pass_over_the_stated_window(model, block_size, overflow):
    seen = []

    def choose(logits, rows, n_rows):
        seen.append(logits)
        return logits.argmax(1)

    steps = list(inference.stream(model, PROMPTS, 20, block_size, choose, overflow=overflow))
    for row, prompt in enumerate(PROMPTS):
        ids, logits = plain_loop(model, prompt, 20, block_size, overflow)
        assert [step[row] for step in steps] == ids
        torch.testing.assert_close(torch.stack([step[row] for step in seen]), logits, atol=1e-4, rtol=0)


def test_the_cache_is_filled_once_and_then_read_token_by_token():
    model, shapes = tiny_language_model(), []
    model.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape)))
    inference.greedy_search(model, PROMPTS, 4, None)
    assert shapes == [(1, 9), (3, 1), (3, 1), (3, 1)]


def test_the_context_is_read_anew_once_in_half_a_block():
    model, lengths = tiny_language_model(), []
    model.register_forward_pre_hook(lambda _, arguments: lengths.append(arguments[0].size(1)))
    inference.greedy_search(model, torch.tensor([2, 3, 4]), 12, 8)
    assert lengths == [3, 1, 1, 1, 1, 1, 4, 1, 1, 1, 1, 4]


@pytest.mark.parametrize('options', [{}, {'top_k': 3}, {'top_p': 0.8}, {'temperature': 0.7, 'top_k': 9, 'top_p': 0.9}])
def test_sampling_with_a_cache_draws_what_it_draws_without(options):
    model = tiny_language_model()
    drawn = [
        inference.sample(run, PROMPTS, 30, 16, generator=torch.Generator().manual_seed(0), **options)
        for run in (model, Hidden(model))
    ]
    assert [ids.tolist() for ids in drawn[0]] == [ids.tolist() for ids in drawn[1]]


def test_a_row_that_ends_changes_no_other(model):
    free = inference.sample(model, PROMPTS, 30, 9, generator=torch.Generator().manual_seed(1))
    cut = [ids.tolist() for ids in free]
    eos = cut[0][3]
    ended = inference.sample(model, PROMPTS, 30, 9, eos_class=eos, generator=torch.Generator().manual_seed(1))
    cut = [ids[: ids.index(eos)] if eos in ids else ids for ids in cut]
    assert len({len(ids) for ids in cut}) > 1  # they end at different steps
    assert [ids.tolist() for ids in ended] == cut


def test_the_longest_row_may_end_first_and_leaves_its_room():
    model, prompts = tiny_language_model(), [torch.arange(8) + 4, torch.tensor([5, 6])]

    def choose(logits, rows, n_rows):
        ids = logits.argmax(1)
        return torch.where(torch.tensor([row == 0 for row in rows]), 3, torch.where(ids == 3, 4, ids))

    steps = list(inference.stream(model, prompts, 20, 8, choose, eos_class=3))
    alone = list(
        inference.stream(model, prompts[1:], 20, 8, lambda logits, rows, n: choose(logits, [1], n), eos_class=3)
    )
    assert len(steps) == 20
    assert [step[1] for step in steps] == [step[0] for step in alone]
    assert all(step[0] is None for step in steps)


def test_the_end_of_text_is_told_by_its_id_not_by_its_rank():
    model, prompt = Fixed([0.0, 1, 2, 3, 4, 9]), torch.tensor([1])
    options = {'top_k': 3, 'generator': torch.Generator().manual_seed(0), 'temperature': 0.1}
    assert inference.sample(model, prompt, 5, None, eos_class=5, **options).tolist() == []
    assert inference.sample(model, prompt, 5, None, eos_class=0, **options).tolist() == [5] * 5
    assert inference.sample(model, prompt, 5, None, eos_class=0, top_p=0.5).tolist() == [5] * 5


def test_excluded_ids_never_come(model):
    made = inference.sample(model, PROMPTS, 60, 8, exclude_classes=[0, 1, 2, 4], top_k=50)
    assert not {item for ids in made for item in ids.tolist()} & {0, 1, 2, 4}
    assert set(
        inference.greedy_search(Fixed([1.0, 2, 3]), torch.tensor([1]), 4, None, exclude_classes=[2]).tolist()
    ) == {1}


def test_a_tensor_gives_a_tensor_and_a_list_a_list(model):
    alone = inference.greedy_search(model, PROMPTS[0], 6, None)
    together = inference.greedy_search(model, [PROMPTS[0]], 6, None)
    assert alone.dtype == PROMPTS[0].dtype
    assert torch.equal(alone, together[0])
    assert inference.sample(model, [], 6, None) == []
    assert inference.sample(model, PROMPTS[0], 0, None).tolist() == []


def test_the_same_seed_gives_the_same_ids_and_none_the_global_generator(model):
    first, second = (
        inference.sample(model, PROMPTS[0], 20, None, generator=torch.Generator().manual_seed(5)) for _ in '12'
    )
    torch.manual_seed(5)
    third = inference.sample(model, PROMPTS[0], 20, None)
    assert first.tolist() == second.tolist() == third.tolist()


def test_the_model_is_left_as_it_was():
    model = tiny_language_model().train()
    ids = inference.sample(model, PROMPTS[0], 3, None)
    assert model.training
    assert not ids.is_inference()
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(PROMPTS[0][None]).sum().backward()  # nothing that the model keeps was made for inference only


def test_gradients_stay_on_for_who_reads_a_stream(model):
    for _ in inference.stream(model, PROMPTS, 2, None, inference.Greedy()):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ('arguments', 'options', 'message'),
    [
        ((torch.tensor([], dtype=torch.long), 1, None), {}, 'prompt 0 has no tokens'),
        ((torch.tensor([1]), -1, None), {}, 'output_length is -1'),
        ((torch.tensor([1]), 1, 0), {}, 'block_size is 0'),
        ((torch.tensor([1]), 1, None), {'overflow': 'wrap'}, 'overflow'),
    ],
)
def test_values_out_of_range_are_refused(arguments, options, message):
    with pytest.raises(Exception, match=message):  # a type check may come first
        inference.greedy_search(Fixed([0.0, 1.0]), *arguments, **options)


def test_a_prompt_that_is_no_row_of_ids_is_refused(model):
    with pytest.raises(RequestError, match=r'prompt 0 has the shape \(1, 3\); it must be the ids of one text'):
        Context(model, [torch.zeros(1, 3, dtype=torch.long)], 2, 8, 'refill')
