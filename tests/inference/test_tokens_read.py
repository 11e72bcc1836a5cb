"""How many tokens a model reads for each that is made: a row that overflows is read anew, and no other is."""

import pytest
import torch
from toy_models import tiny_language_model

from xlabml import inference

N_STEPS, BLOCK = 60, 16
RAGGED = [torch.arange(4, 4 + 1 + 7 * i % 19) % 20 for i in range(16)]  # 1 to 19 tokens: some are longer than a block
WAYS = {
    'greedy': inference.greedy_search,
    'sample': lambda *arguments, **options: inference.sample(
        *arguments, temperature=1e-6, generator=torch.Generator().manual_seed(0), **options
    ),
    'beams': lambda model, x, *arguments, **options: inference.beam_search(model, x, 2, *arguments, **options),
}


def count_tokens(model):
    """A list that grows by the tokens of each pass."""
    read = []
    model.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0].numel()))
    return read


@pytest.mark.parametrize('block_size', [2, 3, BLOCK])
@pytest.mark.parametrize('overflow', ['refill', 'slide'])
@pytest.mark.parametrize('way', WAYS)
def test_ragged_rows_read_what_each_reads_alone(way, overflow, block_size):
    model = tiny_language_model()
    read, options = count_tokens(model), {'overflow': overflow}
    together = WAYS[way](model, RAGGED[:5], 24, block_size, **options)
    n_together, n_alone = sum(read), 0
    for prompt, ids in zip(RAGGED, together):
        read.clear()
        assert WAYS[way](model, prompt, 24, block_size, **options).tolist() == ids.tolist()
        n_alone += sum(read)
    assert n_together == n_alone


@pytest.mark.parametrize(('way', 'n_beams'), [('greedy', 1), ('sample', 1), ('beams', 2)])
def test_sixteen_ragged_rows_read_two_tokens_for_each_that_is_made(way, n_beams):
    model = tiny_language_model()
    read = count_tokens(model)
    WAYS[way](model, RAGGED, N_STEPS, BLOCK)
    assert sum(read) / (len(RAGGED) * n_beams * N_STEPS) < 2.2


def test_a_sliding_row_leaves_the_others_their_cache():
    model = tiny_language_model()
    read = count_tokens(model)
    inference.greedy_search(model, [torch.arange(8), torch.tensor([5])], 6, 8, overflow='slide')
    assert read == [9, *[7, 2] * 5]  # both prompts; then the full window but for its newest token, and one of each row


def test_a_long_row_that_ends_leaves_its_room_without_reading_the_others_anew():
    model = tiny_language_model()
    read = count_tokens(model)

    def choose(logits, rows, n_rows):
        return torch.tensor([3 if row == 0 else 5 for row in rows])

    list(inference.stream(model, [torch.arange(7) + 4, torch.tensor([5, 6])], 6, 8, choose, eos_class=3))
    assert read == [9, 1, 1, 1, 1, 1]


def test_beams_that_change_places_between_refills_are_those_of_each_prompt_alone():
    model = tiny_language_model(seed=3)
    together = inference.beam_search(model, RAGGED[:6], 3, 40, 7, eos_class=2, length_penalty=1)
    alone = [inference.beam_search(model, prompt, 3, 40, 7, eos_class=2, length_penalty=1) for prompt in RAGGED[:6]]
    assert [ids.tolist() for ids in together] == [ids.tolist() for ids in alone]
