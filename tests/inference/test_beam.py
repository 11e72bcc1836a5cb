"""Beam search against all sequences that there are, against greedy search, and with a cache."""

import math

import pytest
import torch
from toy_models import Fixed, Hidden, Plain, tiny_language_model

from xlabml import inference

PROMPTS = [torch.tensor([3, 1, 2, 1, 3]), torch.tensor([2]), torch.tensor([3, 3, 2])]


def brute_force(model, prompt, length, eos, excluded, penalty):
    """The best of all sequences that end, or have the full length."""
    best = (-math.inf, [])

    def grow(ids, log_prob):
        nonlocal best
        logits = model(torch.cat([prompt, torch.tensor(ids, dtype=torch.long)])[None])[0, -1].double()
        logits[excluded] = -math.inf
        for token, value in enumerate(logits.log_softmax(0).tolist()):
            total = log_prob + value
            if token == eos or len(ids) + 1 == length:
                best = max(best, (total / (len(ids) + 1) ** penalty, ids if token == eos else [*ids, token]))
            elif value > -math.inf:
                grow([*ids, token], total)

    grow([], 0.0)
    return best[1]


@pytest.mark.parametrize('penalty', [0, 0.6, 1, 2.5, -1])
@pytest.mark.parametrize(('seed', 'eos', 'excluded'), [(0, 0, []), (1, 3, []), (2, None, []), (3, 1, [2]), (4, 0, [])])
def test_a_beam_wide_enough_finds_the_best_of_all(seed, eos, excluded, penalty):
    model = Plain(n_vocab=4, seed=seed)
    with torch.no_grad():
        expected = [brute_force(model, prompt, 4, eos, excluded, penalty) for prompt in PROMPTS]
    found = inference.beam_search(model, PROMPTS, 4**4, 4, None, eos, excluded, penalty)
    assert [ids.tolist() for ids in found] == expected


@pytest.mark.parametrize('block_size', [None, 5])
@pytest.mark.parametrize('penalty', [0, 1, -1])
def test_a_width_of_one_is_greedy_search(model, block_size, penalty):
    for eos in (0, 2, None):
        beam = inference.beam_search(model, PROMPTS, 1, 12, block_size, eos, length_penalty=penalty)
        greedy = inference.greedy_search(model, PROMPTS, 12, block_size, eos)
        assert [ids.tolist() for ids in beam] == [ids.tolist() for ids in greedy]


@pytest.mark.parametrize('overflow', ['refill', 'slide'])
@pytest.mark.parametrize('block_size', [None, 6])
def test_the_cache_changes_nothing(block_size, overflow):
    model = tiny_language_model(seed=1)
    found = [
        inference.beam_search(run, PROMPTS, 4, 15, block_size, 7, length_penalty=1, overflow=overflow)
        for run in (model, Hidden(model))
    ]
    assert [ids.tolist() for ids in found[0]] == [ids.tolist() for ids in found[1]]


def test_a_prompt_searched_among_others_is_searched_as_if_alone(model):
    together = inference.beam_search(model, PROMPTS, 3, 10, None, 1)
    alone = [inference.beam_search(model, prompt, 3, 10, None, 1) for prompt in PROMPTS]
    assert [ids.tolist() for ids in together] == [ids.tolist() for ids in alone]


def test_it_stops_as_soon_as_nothing_open_can_win():
    model = Plain(n_vocab=4)
    sure = Fixed([9.0, 0.0, 0.0, 0.0])
    calls = []
    sure.register_forward_hook(lambda *_: calls.append(1))
    assert inference.beam_search(sure, torch.tensor([1]), 3, 50, None, eos_class=0).tolist() == []
    assert len(calls) == 1
    inference.beam_search(model, torch.tensor([1]), 3, 10, None)
    assert model.n_calls == 10


def test_an_open_text_may_beat_a_finished_one_at_the_limit():
    # Ending at once costs ln 5, going on ln 5/4 a step; after two steps ln 25/16 is less.
    model = Fixed([math.log(0.2), math.log(0.8)])
    assert inference.beam_search(model, torch.tensor([1]), 2, 2, None, eos_class=0).tolist() == [1, 1]
    assert inference.beam_search(model, torch.tensor([1]), 2, 20, None, eos_class=0).tolist() == []


@pytest.mark.parametrize(
    ('width', 'length', 'penalty', 'message'),
    [(0, 5, 0, 'beam_width is 0'), (2, -1, 0, 'output_length is -1'), (2, 5, math.inf, 'length_penalty is inf')],
)
def test_values_out_of_range_are_refused(width, length, penalty, message):
    with pytest.raises(ValueError, match=message):
        inference.beam_search(Fixed([0.0, 1.0]), torch.tensor([1]), width, length, None, length_penalty=penalty)


def test_nothing_asked_is_nothing_made():
    assert inference.beam_search(Fixed([0.0, 1.0]), torch.tensor([1]), 2, 0, None).tolist() == []
    assert inference.beam_search(Fixed([0.0, 1.0]), [], 2, 5, None) == []
